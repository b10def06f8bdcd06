//! The `harness` program as readers start it.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use assert_cmd::assert::OutputAssertExt;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::common;
use crate::target::patience;

/// The `harness` program.
pub fn harness() -> Command {
    // Makes the saved machine, if there is none, so that no test's deadline
    // has to allow for that.
    common::harness();
    let mut command = Command::new(common::program());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The same, with saved machines of its own in the folder `cache`.
pub fn apart(cache: &Path) -> Command {
    let mut command = harness();
    command.env("HARNESS_CACHE", cache);
    command.env("HARNESS_PACKAGES", common::harness().packages());
    command
}

/// A program that Cargo has not started.
pub fn without_cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO") {
            command.env_remove(name);
        }
    }
    command.env("HARNESS_PACKAGES", common::harness().packages());
    command
}

/// The same command with a deadline.
pub fn in_time(command: Command) -> assert_cmd::Command {
    let mut command = assert_cmd::Command::from_std(command);
    command.timeout(2 * patience());
    command
}

/// The `harness` program with these arguments and a deadline.
pub fn typed(argv: &[&str]) -> assert_cmd::Command {
    let mut command = in_time(harness());
    command.args(argv);
    command
}

/// Writes a file with this text, a script, and makes it executable. Another
/// process writes it: a child that another test forks just now would inherit
/// the open file, and to run it would fail (ETXTBSY) until that child's exec.
#[track_caller]
pub fn executable(path: &Path, text: &str) {
    assert_cmd::Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .write_stdin(text)
        .assert()
        .success();
}

/// `$HARNESS_KILLS`: how often each program is killed at any moment.
pub fn kills() -> Option<u32> {
    let kills = env::var("HARNESS_KILLS").ok()?;
    Some(kills.parse().expect("HARNESS_KILLS: a number"))
}

/// A harness that is killed when this is dropped, also if the test fails.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Starts this command.
    pub fn start(command: &mut Command) -> Running {
        Running(command.spawn().expect("harness"))
    }

    /// Sends it a signal.
    pub fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("kill");
    }

    /// Waits until it has printed a line, and not more.
    pub fn wait_for_a_line(&mut self) {
        read_until(self.0.stdout.as_mut().expect("a pipe"), b"\n");
    }
}

/// Starts the harness at a terminal. Returns the other end of the terminal, and
/// its settings. Only the harness has the terminal open, so that the other end
/// reads an error when the harness has ended.
pub fn start_at_terminal(mut harness: Command) -> (Running, File, Termios) {
    let OpenptyResult { master, slave } =
        openpty(None, None).expect("a terminal");
    // These differ from the settings of a new terminal: if the terminal has
    // them again later, the harness has restored them.
    let mut settings = tcgetattr(&slave).expect("a terminal");
    settings.local_flags.remove(LocalFlags::ECHOCTL);
    tcsetattr(&slave, SetArg::TCSANOW, &settings).expect("a terminal");
    let end = |slave: &OwnedFd| Stdio::from(slave.try_clone().expect("dup"));
    harness.stdin(end(&slave)).stdout(end(&slave)).stderr(slave);
    (Running::start(&mut harness), File::from(master), settings)
}

/// Reads up to and including `end`, and not a byte more. If that is not printed
/// in time, it panics with what was printed instead.
#[track_caller]
pub fn read_until(shown: &mut (impl Read + AsFd), end: &[u8]) {
    let deadline = Instant::now() + patience();
    let mut text = Vec::new();
    while !text.ends_with(end) {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).expect("less than a month");
        let mut fd = [PollFd::new(shown.as_fd(), PollFlags::POLLIN)];
        let ready = match poll(&mut fd, left) {
            Err(Errno::EINTR) => continue, // This process was stopped.
            ready => ready.expect("poll"),
        };
        let mut byte = [0];
        let more = ready > 0 && shown.read_exact(&mut byte).is_ok();
        let (text_so_far, end) =
            (String::from_utf8_lossy(&text), String::from_utf8_lossy(end));
        assert!(more, "{end:?} was not printed, only: {text_so_far}");
        text.extend(byte);
    }
}

/// A QEMU that notes how it is started, and then is the real one.
pub struct Watched {
    dir: TempDir,
    pub qemu: PathBuf,
}

/// This shell command becomes QEMU.
pub const REAL: &str = "exec $qemu \"$@\"";

/// This one starts QEMU, so that the harness's child is a shell: then the
/// guest's memory, which would be in the child's, cannot be written.
pub const BY_A_SHELL: &str = "exec {input}<&0
    setpriv --pdeathsig KILL $qemu \"$@\" <&$input &
    wait $!";

impl Watched {
    /// `start` is what the shell does then.
    pub fn new(start: &str) -> Watched {
        let dir = tempfile::tempdir().expect("a folder");
        let qemu = dir.path().join("qemu");
        let script = format!(
            "#!/usr/bin/env bash
            case \" $* \" in *' -incoming '*) how=restored ;; *) how=booted ;; esac
            echo $how >> {}
            qemu={}
            {start}\n",
            dir.path().join("log").display(),
            common::harness().qemu().expect("QEMU").display()
        );
        executable(&qemu, &script);
        Watched { dir, qemu }
    }

    /// A path in its folder.
    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How often it was started, and how, since this was asked last.
    pub fn starts(&self) -> String {
        let log = fs::read_to_string(self.at("log")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log"));
        log.replace('\n', " ")
    }

    /// The output of a command, which must succeed.
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> String {
        let end = command.env("HARNESS_QEMU", &self.qemu).assert().success();
        String::from_utf8(end.get_output().stdout.clone()).expect("text")
    }
}
