//! Types a session at a terminal of the guest.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, mem};

use harness::{Input, Io, Request, User, Vm};

use super::common::{program, scratch};
use super::same::Same;
use super::text::{Block, Ends, Release, Turn, release};
use crate::common::{NO_VERDICT, Reader, Root, harness};

/// The deadline of a session.
fn patience() -> Duration {
    harness::patience(Duration::from_secs(60))
}

/// The file that each shell reads at its start. The prompt is the shell's own,
/// `$ ` or `# ` (bash's would be longer), behind a mark that no program prints.
/// Line editing is off, so that each line is echoed as it is typed.
const PROMPT: &str = r#"set +o emacs +o vi
case $PS1 in *'\$ ') PS1='\$ ' ;; esac
PS1="MARK$PS1"
"#;

/// The user's shell.
const SHELL: [&str; 3] = ["sh", "-c", "ENV=/run/prompt exec sh"];

/// The machine of a page.
pub struct Machine {
    vm: Vm,
    /// The mark of its prompts.
    mark: String,
    /// The other pane, if there is one.
    pane: Option<Pane>,
    /// How many panes there were.
    panes: usize,
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

/// Types a block, on the page's machine, which is started for the first block.
pub fn session(
    machine: &mut Option<Machine>,
    block: &Block,
    same: &mut Same,
) -> Result<Block, String> {
    let machine = match machine {
        Some(machine) => machine,
        None => machine.insert(start()?),
    };
    if block.ends() != Ends::Here {
        return machine.other_pane(block, same);
    }
    let (stdin, keys) = io::pipe().map_err(|error| error.to_string())?;
    let mut typist = Typist {
        mark: machine.mark.clone().into_bytes(),
        keys,
        same,
        page: block.turns.iter(),
        shown: Vec::new(),
        current: None,
        done: Vec::new(),
    };
    let request = Request {
        argv: SHELL.map(|arg| arg.as_bytes().to_vec()).to_vec(),
        user: user(block),
        dir: None,
        terminal: Some((24, 80, "dumb".into())),
        closed: [false; 3],
    };
    let io = Io {
        input: Input::Stream(stdin.as_fd()),
        output: &mut typist,
        errors: &mut io::sink(),
        patience: Some(patience()),
        events: None,
    };
    let end = machine.vm.run(&request, io);
    typist.finish();
    let left = typist.page.next();
    if end.is_err() || left.is_some() {
        let shown = typist.done.iter().flat_map(Turn::lines);
        let shown = shown.map(|line| line + "\n").collect::<String>();
        return Err(match (end, left) {
            (Err(failure), _) => format!("{shown}{failure}"),
            (_, turn) => format!("{shown}ended before {turn:?}"),
        });
    }
    let mut real = block.clone();
    real.turns = typist.done;
    Ok(real)
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

impl Machine {
    /// Types a block in the other pane, which stays open after it.
    fn other_pane(
        &mut self,
        block: &Block,
        same: &mut Same,
    ) -> Result<Block, String> {
        if block.ends() == Ends::Stays {
            self.panes += 1;
            let (number, user) = (self.panes, user(block));
            self.sh(user, PANE, &[&number.to_string()])?;
            self.pane = Some(Pane { number, user, read: 0 });
        }
        let mut pane = self.pane.ok_or("no session has stayed open")?;
        let number = pane.number.to_string();
        let mut real = block.clone();
        let (_, mut prompt) = self.shown(pane)?;
        for turn in &mut real.turns {
            let expected = same.expect(turn);
            *turn = Turn { prompt, output: Vec::new(), ..expected };
            let line = turn.translated();
            // What is shown from now on belongs to this turn.
            pane.read = self.sh(Root, SHOWN, &[&number])?.len();
            self.sh(pane.user, TYPE, &[&number, &line])?;
            let (shown, next) = self.shown(pane)?;
            prompt = next;
            let shown = shown.strip_prefix(&line).unwrap_or(&shown);
            turn.output = lines(shown.strip_prefix("\r\n").unwrap_or(shown));
            same.record(turn);
        }
        self.pane = Some(pane);
        Ok(real)
    }

    /// Waits for the other pane's prompt. Returns what the pane has shown since
    /// the last turn, and the prompt.
    fn shown(&mut self, pane: Pane) -> Result<(String, char), String> {
        let deadline = Instant::now() + patience();
        loop {
            let shown = self.sh(Root, SHOWN, &[&pane.number.to_string()])?;
            let shown = shown.get(pane.read..).unwrap_or_default();
            for prompt in ['$', '#'] {
                let end = format!("{}{prompt} ", self.mark);
                if let Some(shown) = shown.strip_suffix(&end) {
                    return Ok((shown.into(), prompt));
                }
            }
            if Instant::now() > deadline {
                return Err(format!("no prompt in the other pane: {shown}"));
            }
        }
    }

    fn sh(
        &mut self,
        user: User,
        script: &str,
        args: &[&str],
    ) -> Result<String, String> {
        let argv = [&["sh", "-euc", script, "sh"], args].concat();
        let output = self.vm.output(user, argv, b"", patience());
        let output = output.map_err(|failure| failure.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into()),
            false => Err(format!("{script}: {output:?}")),
        }
    }
}

/// Starts a page's machine.
fn start() -> Result<Machine, String> {
    let mut nonce = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut nonce))
        .map_err(|error| error.to_string())?;
    let mark = format!("<{:016x}>", u64::from_ne_bytes(nonce));
    let vm = harness().start();
    let vm = vm.unwrap_or_else(|failure| panic!("{NO_VERDICT}{failure}"));
    let prompt = PROMPT.replace("MARK", &mark);
    let mut machine = Machine {
        vm,
        mark,
        pane: None,
        panes: 0,
        release: (0, 0), // Not yet known.
        debians: false,
    };
    let script = "printf %s \"$1\" > /run/prompt; exec uname -rv";
    let version = machine.sh(Root, script, &[&prompt])?;
    machine.release = release(&version).ok_or("a kernel without a version")?;
    machine.debians = version.contains(" Debian ");
    Ok(machine)
}

/// Reads what the terminal shows, and types the next line at a prompt.
struct Typist<'a, Page> {
    mark: Vec<u8>,
    keys: PipeWriter,
    same: &'a mut Same,
    page: Page,
    /// What the terminal has shown since the last prompt.
    shown: Vec<u8>,
    /// What was typed at that prompt.
    current: Option<Turn>,
    done: Vec<Turn>,
}

impl<'a, Page: Iterator<Item = &'a Turn>> Typist<'_, Page> {
    /// Ends the current turn: what was shown is its output.
    fn finish(&mut self) {
        let shown = mem::take(&mut self.shown);
        if let Some(mut turn) = self.current.take() {
            let text = String::from_utf8_lossy(&shown);
            let echo = turn.translated() + "\r\n";
            let text = text.strip_prefix(&echo).unwrap_or(&text);
            turn.output = lines(text);
            self.same.record(&turn);
            self.done.push(turn);
        }
    }

    /// At a prompt: types the page's next line.
    fn prompted(&mut self, prompt: char) -> io::Result<()> {
        self.finish();
        let Some(turn) = self.page.next() else {
            return self.keys.write_all(b"\x04"); // ^D ends every shell.
        };
        // A key that the machine has chosen differs from the one on the page.
        // Like a reader, this types the key that its own terminal has shown.
        let mut turn = Turn { prompt, ..self.same.expect(turn) };
        turn.output.clear();
        self.keys.write_all((turn.translated() + "\n").as_bytes())?;
        self.current = Some(turn);
        Ok(())
    }
}

impl<'a, Page: Iterator<Item = &'a Turn>> Write for Typist<'_, Page> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shown.extend(bytes);
        let length = self.mark.len();
        let mut marks = self.shown.windows(length + 2);
        let at = marks.position(|it| {
            it.starts_with(&self.mark)
                && [&b"$ "[..], b"# "].contains(&&it[length..])
        });
        if let Some(at) = at {
            let prompt = char::from(self.shown[at + length]);
            let later = self.shown.split_off(at + length + 2);
            self.shown.truncate(at);
            self.prompted(prompt)?;
            self.shown = later; // Output of a background process.
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a block whose lines all start the harness, on this machine: each line
/// has a machine of its own, as it has for a reader.
pub fn here(block: &Block) -> Result<Block, String> {
    let (harness, dir) = (program(), scratch());
    let mut path = env::var_os("PATH").unwrap_or_default();
    path = [harness.parent().unwrap_or(harness).as_os_str(), &path]
        .join(std::ffi::OsStr::new(":"));
    let mut block = block.clone();
    for turn in &mut block.turns {
        let line = turn.translated();
        let shell = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .current_dir(&dir)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&shell.stdout);
        turn.prompt = '$';
        turn.output = lines(&text);
    }
    Ok(block)
}

/// The lines as a reader sees them, but without colours.
fn lines(text: &str) -> Vec<String> {
    plain(text).lines().map(column).collect()
}

/// The text without decoration: colours, the terminal's title, links, modes.
/// `NO_COLOR` and `TERM=dumb` are not enough: iproute2 has printed colours at
/// any terminal since 6.15. Sequences that move the cursor are kept, because
/// they change what is seen.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        plain += &rest[..at];
        rest = &rest[at..];
        let length = decoration(rest).unwrap_or(0);
        if length == 0 {
            plain.push('\x1b');
        }
        rest = &rest[length.max(1)..];
    }
    plain + rest
}

/// The length of the decoration at the start of a text: console_codes(4).
fn decoration(text: &str) -> Option<usize> {
    let sequence = text.strip_prefix('\x1b')?;
    let is_end = |letter: char| ('@'..='~').contains(&letter);
    match sequence.chars().next()? {
        '[' => {
            let end = 1 + sequence[1..].find(is_end)?;
            let decorates = match &sequence[end..=end] {
                "m" => true,       // Colours.
                "K" => end == 1,   // Erases to the line's end: grep's colours.
                "h" | "l" => true, // Modes, such as bracketed paste.
                _ => false,
            };
            decorates.then_some(1 + end + 1)
        }
        // A title, or a link, up to BEL or ESC \.
        ']' => {
            let bell = sequence.find('\x07').map(|at| 1 + at + 1);
            let escape = sequence.find("\x1b\\").map(|at| 1 + at + 2);
            bell.into_iter().chain(escape).min()
        }
        // The character set.
        '(' => Some(1 + 1 + sequence.chars().nth(1)?.len_utf8()),
        _ => None,
    }
}

/// A line as it is seen: tabs become spaces, and spaces at the end are removed.
fn column(line: &str) -> String {
    let mut seen = String::new();
    let mut width = 0;
    for letter in line.trim_end().chars() {
        let next = if letter == '\t' { width / 8 * 8 + 8 } else { width + 1 };
        match letter {
            '\t' => seen.extend((width..next).map(|_| ' ')),
            other if other.is_control() => seen.extend(other.escape_default()),
            other => seen.push(other),
        }
        width = next;
    }
    seen
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
