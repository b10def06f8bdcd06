//! Types a session at a terminal of the guest.

use std::env;
use std::error::Error;
use std::ffi::CStr;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::slice::Iter;
use std::sync::LazyLock;
use std::time::Instant;

use harness::{Io, Request, User, Vm};
use memchr::memmem;
use regex::Regex;

use super::common::{program, scratch};
use super::same;
use super::text::{self, Block, Kind, Release, Turn};
use crate::common::{NO_VERDICT, Reader, Root, harness, patience};

/// What each prompt begins with: no program prints it.
const MARK: &str = "<prompt>";

/// The file that each shell reads at its start. The prompt is the shell's own,
/// `$ ` or `# ` (bash's would be longer), behind the mark. Line editing is off,
/// so that each line is echoed as it is typed.
const PROMPT: &str = r#"set +o emacs +o vi
case $PS1 in *'\$ ') PS1='\$ ' ;; esac
PS1="MARK$PS1"
"#;

/// The user's shell.
const SHELL: [&CStr; 3] = [c"sh", c"-c", c"ENV=/run/prompt exec sh"];

/// Why a session could not be typed to its end.
type Failed = Box<dyn Error>;

/// The machine of a page.
pub struct Machine {
    vm: Vm,
    /// The other pane, if there is one.
    pane: Option<Pane>,
    pub release: Release,
    /// Is it Debian's kernel? Other vendors put parts of later versions into
    /// theirs.
    pub debians: bool,
}

/// Another terminal, which stays open from block to block.
#[derive(Clone, Copy)]
struct Pane {
    number: usize,
    user: User,
    /// How many bytes of what it has shown are handled.
    read: usize,
}

/// What is typed of a block, and what that shows.
struct Typist<'a> {
    /// The turns that are left.
    page: Iter<'a, Turn>,
    /// The page's turn that was typed last, and the same as it is shown.
    current: Option<(&'a Turn, Turn)>,
    done: Vec<Turn>,
    /// The keys that the page has, each with the one that the machine has.
    keys: Vec<(&'a str, String)>,
}

impl Typist<'_> {
    /// Ends the current turn: what was shown is its output.
    fn finish(&mut self, shown: &str) {
        if let Some((page, mut turn)) = self.current.take() {
            let echo = turn.translated();
            let shown = shown.strip_prefix(&echo).unwrap_or(shown);
            turn.output = lines(shown.strip_prefix("\r\n").unwrap_or(shown));
            let real = same::keys(&turn).map(String::from);
            self.keys.extend(same::keys(page).zip(real));
            self.done.push(turn);
        }
    }

    /// At a prompt, after this was shown: the page's next line, if there is one.
    fn prompted(&mut self, prompt: char, shown: &str) -> Option<String> {
        self.finish(shown);
        let page = self.page.next()?;
        let mut typed = page.typed.clone();
        // A key that the machine has chosen differs from the one on the page.
        // Like a reader, this types the key that its own terminal has shown.
        for (page, real) in &self.keys {
            typed = typed.replace(page, real);
        }
        let turn = Turn { prompt, typed, output: Vec::new() };
        let line = turn.translated();
        self.current = Some((page, turn));
        Some(line)
    }
}

/// Types a block, on the page's machine, which is started for the first block.
pub fn session(
    machine: &mut Option<Machine>,
    block: &Block,
) -> Result<Block, Failed> {
    let machine = match machine {
        Some(machine) => machine,
        None => machine.insert(Machine::start()?),
    };
    let mut typist = Typist {
        page: block.turns.iter(),
        current: None,
        done: Vec::new(),
        keys: Vec::new(),
    };
    let end = match block.kind {
        Kind::Console => machine.terminal(user(block), &mut typist),
        _ => machine.other_pane(block, &mut typist),
    };
    let left = typist.page.next();
    let mut real = block.clone();
    real.turns = typist.done;
    let why = match (end, left) {
        (Err(failure), _) => failure.to_string(),
        (_, Some(turn)) => format!("ended before {turn:?}"),
        _ => return Ok(real),
    };
    Err(format!("{}{why}", real.shown()).into())
}

/// The user of a block's terminal.
fn user(block: &Block) -> User {
    if block.turns[0].prompt == '#' { Root } else { Reader }
}

/// Starts the terminal number `$1` in the background. What is written to
/// /tmp/keys$1 is typed there, and /tmp/pane$1 has what it shows.
const PANE: &str = "
    mkfifo -m 600 /tmp/keys$1
    TERM=dumb ENV=/run/prompt script -qefc sh /dev/null \\
        <> /tmp/keys$1 > /tmp/pane$1 2>&1 &";

/// Prints what it has shown.
const SHOWN: &str = "cat /tmp/pane$1";

/// Types the line `$2` there.
const TYPE: &str = "printf '%s\\n' \"$2\" > /tmp/keys$1";

/// The output of a shell script, which must succeed.
fn sh(
    vm: &mut Vm,
    user: User,
    script: &str,
    args: &[&str],
) -> Result<String, Failed> {
    let argv = [&["sh", "-euc", script, "sh"], args].concat();
    let output = vm.output(user, argv, b"", patience())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into()),
        false => Err(format!("{script}: {output:?}").into()),
    }
}

impl Machine {
    fn start() -> Result<Machine, Failed> {
        let vm = harness().start();
        let mut vm = vm.unwrap_or_else(|why| panic!("{NO_VERDICT}{why}"));
        let script = "printf %s \"$1\" > /run/prompt; exec uname -rv";
        let prompt = PROMPT.replace("MARK", MARK);
        let version = sh(&mut vm, Root, script, &[&prompt])?;
        let release = text::release(&version);
        let release = release.ok_or("a kernel without a version")?;
        let debians = version.contains(" Debian ");
        Ok(Machine { vm, pane: None, release, debians })
    }

    /// Types a block at a terminal of its own.
    fn terminal(
        &mut self,
        user: User,
        typist: &mut Typist,
    ) -> Result<(), Failed> {
        let (stdin, keys) = io::pipe()?;
        let request = Request {
            argv: SHELL.map(CStr::to_owned).to_vec(),
            user,
            dir: None,
            terminal: Some((24, 80, "dumb".into())),
            closed: [false; 3],
        };
        let mut screen = Screen { typist, keys, shown: Vec::new() };
        let io = Io {
            input: Some(stdin.as_fd()),
            output: &mut screen,
            errors: &mut io::sink(),
            patience: Some(patience()),
            terminal: None,
        };
        let end = self.vm.run(&request, io);
        screen.typist.finish(&String::from_utf8_lossy(&screen.shown));
        end?;
        Ok(())
    }

    /// Types a block in the other pane, which stays open after it.
    fn other_pane(
        &mut self,
        block: &Block,
        typist: &mut Typist,
    ) -> Result<(), Failed> {
        if block.kind == Kind::Stays {
            let number = self.pane.map_or(1, |it| it.number + 1);
            let user = user(block);
            sh(&mut self.vm, user, PANE, &[&number.to_string()])?;
            self.pane = Some(Pane { number, user, read: 0 });
        }
        let pane = self.pane.as_mut().ok_or("no session has stayed open")?;
        let number = pane.number.to_string();
        loop {
            let deadline = Instant::now() + patience();
            let (all, prompt) = loop {
                let all = sh(&mut self.vm, Root, SHOWN, &[&number])?;
                match all[pane.read..].rsplit_once(MARK) {
                    Some((_, "$ ")) => break (all, '$'),
                    Some((_, "# ")) => break (all, '#'),
                    _ if Instant::now() < deadline => {}
                    _ => return Err(format!("no other prompt: {all}").into()),
                }
            };
            let shown = &all[pane.read..all.len() - MARK.len() - 2];
            let Some(line) = typist.prompted(prompt, shown) else {
                return Ok(());
            };
            // What is shown from now on belongs to this turn.
            pane.read = all.len();
            sh(&mut self.vm, pane.user, TYPE, &[&number, &line])?;
        }
    }
}

/// Reads what the terminal shows, and types the next line at a prompt.
struct Screen<'a, 'b> {
    typist: &'a mut Typist<'b>,
    keys: PipeWriter,
    /// What the terminal has shown since the last prompt.
    shown: Vec<u8>,
}

impl Write for Screen<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shown.extend(bytes);
        let at = memmem::find(&self.shown, MARK.as_bytes());
        if let Some(at) = at
            && let [prompt, b' ', later @ ..] = &self.shown[at + MARK.len()..]
        {
            let shown = String::from_utf8_lossy(&self.shown[..at]);
            let line = self.typist.prompted((*prompt).into(), &shown);
            // ^D ends every shell.
            let keys = line.map_or("\x04".into(), |line| line + "\n");
            self.keys.write_all(keys.as_bytes())?;
            self.shown = later.to_vec(); // Output of a background process.
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a block whose lines all start the harness, on this machine: each line
/// has a machine of its own, as it has for a reader.
pub fn here(block: &Block) -> Result<Block, Failed> {
    let (harness, dir) = (program(), scratch());
    let beside = harness.parent().expect("a folder").display();
    let path = format!("{beside}:{}", env::var("PATH")?);
    let mut block = block.clone();
    for turn in &mut block.turns {
        let line = turn.translated();
        let shell = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .current_dir(&dir)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()?;
        let text = String::from_utf8_lossy(&shell.stdout);
        turn.prompt = '$';
        turn.output = lines(&text);
    }
    Ok(block)
}

/// The lines as a reader sees them, but without colours.
fn lines(text: &str) -> Vec<String> {
    DECORATION.replace_all(text, "").lines().map(column).collect()
}

/// Decoration, as console_codes(4) has it. `NO_COLOR` and `TERM=dumb` are not
/// enough: iproute2 has printed colours at any terminal since 6.15. Sequences
/// that move the cursor are none, because they change what is seen.
static DECORATION: LazyLock<Regex> = LazyLock::new(|| {
    let sequences = [
        r"\x1b\[[ -?]*m",               // Colours.
        r"\x1b\[K", // Erases to the line's end: grep's colours.
        r"\x1b\[[ -?]*[hl]", // Modes, such as bracketed paste.
        r"\x1b\](?s:.)*?(\x07|\x1b\\)", // A title, or a link.
        r"\x1b\(.", // The character set.
    ];
    Regex::new(&sequences.join("|")).expect("an expression")
});

/// A line as it is seen: tabs become spaces, and spaces at the end are removed.
fn column(line: &str) -> String {
    let mut seen = line.trim_end().to_string();
    while let Some(at) = seen.find('\t') {
        let width = seen[..at].chars().count();
        seen.replace_range(at..=at, &" ".repeat(8 - width % 8));
    }
    let mut plain = String::new();
    for letter in seen.chars() {
        match letter.is_control() {
            true => plain.extend(letter.escape_default()),
            false => plain.push(letter),
        }
    }
    plain
}

#[test]
fn colours_are_not_compared_and_the_cursor_is() {
    for (shown, seen) in [
        ("\x1b[36mlo  \x1b[0mUP", "lo  UP"),
        ("\x1b[01;31m\x1b[Kproc\x1b[m\x1b[K", "proc"),
        ("\x1b[?2004hx\x1b[?2004l", "x"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;file:///mine\x1b\\mine\x1b]8;;\x1b\\", "mine"),
        ("\x1b(Bx", "x"),
        // Sequences that move or erase, and sequences that are cut off.
        ("a\x1b[1Db", "a\\u{1b}[1Db"),
        ("a\x1b[1Kb", "a\\u{1b}[1Kb"),
        ("\x1b", "\\u{1b}"),
        ("\x1b[3", "\\u{1b}[3"),
        ("a\x08b", "a\\u{8}b"),
    ] {
        assert_eq!(lines(shown), [seen], "{shown:?}");
    }
}
