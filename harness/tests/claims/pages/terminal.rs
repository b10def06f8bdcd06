//! Types a session at a terminal of the guest.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, mem};

use harness::{Input, Io, Request, Vm};

use super::same::Same;
use super::text::{Block, Turn};
use crate::target::{HARNESS, Reader, Root};

/// For a session.
const PATIENCE: Duration = Duration::from_secs(60);

/// What each shell reads at its start: a prompt is the shell's own, `$ ` or
/// `# ` (bash says more), behind a mark that nobody else prints. No shell
/// edits its lines, so that each is echoed just as it is typed.
const PROMPT: &str = r#"set +o emacs +o vi
case $PS1 in *'\$ ') PS1='\$ ' ;; esac
PS1="MARK$PS1"
"#;

/// The user's shell.
const SHELL: [&str; 3] = ["sh", "-c", "ENV=/run/prompt exec sh"];

/// Types a block, on the page's machine, which is started for the first.
pub fn session(
    machine: &mut Option<(Vm, String)>,
    block: &Block,
    same: &mut Same,
) -> Result<Block, String> {
    let (vm, mark) = match machine {
        Some(machine) => machine,
        None => machine.insert(start()?),
    };
    let (stdin, keys) = io::pipe().map_err(|error| error.to_string())?;
    let mut typist = Typist {
        mark: mark.clone().into_bytes(),
        keys,
        same,
        page: block.turns.iter(),
        shown: Vec::new(),
        now: None,
        done: Vec::new(),
    };
    let user = if block.turns[0].prompt == '#' { Root } else { Reader };
    let request = Request {
        argv: SHELL.map(|arg| arg.as_bytes().to_vec()).to_vec(),
        user,
        dir: None,
        terminal: Some((24, 80, "dumb".into())),
    };
    let io = Io {
        input: Input::Stream(stdin.as_fd()),
        output: &mut typist,
        errors: &mut io::sink(),
        patience: Some(PATIENCE),
        events: None,
    };
    let end = vm.run(&request, io);
    typist.finish();
    let left = typist.page.next();
    if end.is_err() || left.is_some() {
        let shown = typist.done.iter().flat_map(Turn::lines);
        let shown = shown.map(|line| line + "\n").collect::<String>();
        return Err(match (end, left) {
            (Err(failure), _) => format!("{shown}{failure}"),
            (_, turn) => format!("{shown}and ends, before {turn:?}"),
        });
    }
    let mut real = block.clone();
    real.turns = typist.done;
    Ok(real)
}

/// A machine, and the mark of its prompts.
fn start() -> Result<(Vm, String), String> {
    let mut nonce = [0; 8];
    File::open("/dev/urandom")
        .and_then(|mut file| io::Read::read_exact(&mut file, &mut nonce))
        .map_err(|error| error.to_string())?;
    let mark = format!("<{:016x}>", u64::from_ne_bytes(nonce));
    let harness = HARNESS.as_ref().map_err(|failure| failure.to_string())?;
    let mut vm = harness.start().map_err(|failure| failure.to_string())?;
    let prompt = PROMPT.replace("MARK", &mark);
    let argv = ["sh", "-c", "printf %s \"$1\" > /run/prompt", "sh", &prompt];
    vm.output(Root, argv, b"", PATIENCE)
        .map_err(|failure| failure.to_string())?;
    Ok((vm, mark))
}

/// Reads what the terminal shows, and types the next line at a prompt.
struct Typist<'a, Page> {
    mark: Vec<u8>,
    keys: PipeWriter,
    same: &'a mut Same,
    page: Page,
    /// Since the last prompt.
    shown: Vec<u8>,
    /// What was typed there.
    now: Option<Turn>,
    done: Vec<Turn>,
}

impl<'a, Page: Iterator<Item = &'a Turn>> Typist<'_, Page> {
    /// Ends the turn with what was shown.
    fn finish(&mut self) {
        let shown = mem::take(&mut self.shown);
        if let Some(mut turn) = self.now.take() {
            let text = String::from_utf8_lossy(&shown);
            let echo = turn.translated() + "\r\n";
            let text = text.strip_prefix(&echo).unwrap_or(&text);
            turn.output = text.lines().map(column).collect();
            self.same.really(&turn);
            self.done.push(turn);
        }
    }

    fn prompted(&mut self, prompt: char) -> io::Result<()> {
        self.finish();
        let Some(turn) = self.page.next() else {
            return self.keys.write_all(b"\x04"); // The end, of every shell.
        };
        // What the machine has made up in this session has another name in
        // the page's: a reader copies it from his own terminal.
        let mut turn = Turn { prompt, ..self.same.expect(turn) };
        turn.output.clear();
        self.keys.write_all((turn.translated() + "\n").as_bytes())?;
        self.now = Some(turn);
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
            self.shown = later; // From what runs in the background.
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Types a block of nothing but the harness: each line is a machine of its
/// own, as it is for a reader.
pub fn here(block: &Block) -> Result<Block, String> {
    let harness = Path::new(env!("CARGO_BIN_EXE_harness"));
    let dir = env!("CARGO_TARGET_TMPDIR");
    let mut path = env::var_os("PATH").unwrap_or_default();
    path = [harness.parent().unwrap_or(harness).as_os_str(), &path]
        .join(std::ffi::OsStr::new(":"));
    let mut block = block.clone();
    for turn in &mut block.turns {
        let line = turn.translated();
        let shell = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .current_dir(dir)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&shell.stdout);
        turn.prompt = '$';
        turn.output = text.lines().map(column).collect();
    }
    Ok(block)
}

/// A line as it is to be seen: tabs lead to columns, what is blank at the end
/// is nothing.
fn column(line: &str) -> String {
    let mut seen = String::new();
    let mut width = 0;
    for letter in line.trim_end().chars() {
        let next = if letter == '\t' { width / 8 * 8 + 8 } else { width + 1 };
        match letter {
            '\t' => seen.extend((width..next).map(|_| ' ')),
            other => seen.push(other),
        }
        width = next;
    }
    seen
}
