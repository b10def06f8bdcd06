//! Where a claim is tried: a fresh VM.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use assert_cmd::assert::OutputAssertExt;
pub use harness::User;
use harness::{Vm, printable};
use nix::errno::Errno;

use crate::common::{NO_VERDICT, harness, name_broken_claims, program};
pub use crate::common::{Reader, Root, patience};

/// The users who try a claim. They share its machine, and the one without
/// privilege comes first.
pub const USERS: [User; 2] = [Reader, Root];

/// Waits until this is so. If it is not in time, it panics with these words.
#[track_caller]
pub fn until(words: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience();
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", words());
        thread::yield_now();
    }
}

/// For scripts: `soon COMMAND` repeats COMMAND until it succeeds, and fails
/// after half a minute.
pub const SOON: &str = r#"
    soon() {
        read now rest < /proc/uptime; end=$((${now%.*} + 30))
        until "$@" 2> /dev/null; do
            read now rest < /proc/uptime
            if [ ${now%.*} -ge $end ]; then
                echo "not within 30 s: $*" >&2
                return 1
            fi
        done
    }
"#;

/// How many characters of an output the report of a failure has.
const LONGEST: usize = 4000;

/// The program that all those of `tests/guest` are. Its name says which.
pub fn guest() -> PathBuf {
    program().with_file_name("guest")
}

/// The machine on which a claim is tried. Its commands run in the initial
/// namespaces, "outside".
pub struct Machine {
    vm: Mutex<Vm>,
    /// The commands so far and their results, for the report of a failure.
    history: Mutex<String>,
}

/// A machine in which nothing has run yet.
pub fn fresh_machine() -> Machine {
    name_broken_claims();
    let history = Mutex::default();
    match harness().start() {
        Ok(vm) => Machine { vm: Mutex::new(vm), history },
        Err(failure) => panic!("{NO_VERDICT}{failure}"),
    }
}

impl Machine {
    /// Runs a command as root.
    pub fn root<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
    ) -> Output {
        self.run(Root, argv, b"")
    }

    /// Runs a shell script, which ends at its first failure, and returns what
    /// it prints. It must succeed.
    #[track_caller]
    pub fn sh(&self, user: User, script: &str) -> String {
        self.sh_with(user, script, &[])
    }

    /// The same, with these as `$1`, `$2` and so on.
    #[track_caller]
    pub fn sh_with(&self, user: User, script: &str, args: &[&str]) -> String {
        self.says(user, [&["sh", "-euc", script, "sh"], args].concat())
    }

    /// Runs a command, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn says<A: AsRef<OsStr>>(
        &self,
        user: User,
        argv: impl IntoIterator<Item = A>,
    ) -> String {
        let output = self.run(user, argv, b"");
        let errors = String::from_utf8_lossy(&output.stderr);
        let status = output.status;
        assert!(status.success(), "{user}: {status}, {errors:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// All that a program could leave behind: mounts, names, objects, files,
    /// interfaces, processes.
    #[track_caller]
    pub fn traces(&self) -> String {
        let script = r#"
            cat /proc/self/mountinfo
            cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname
            cat /proc/sysvipc/msg /proc/sysvipc/sem /proc/sysvipc/shm
            echo /dev/mqueue/* /dev/shm/* /tmp/*
            ip -o address; ip -o link
            for it in /proc/[0-9]*; do
                [ $it != /proc/$$ ] && read stat < $it/stat || continue
                # The kernel starts and ends threads, the children of 2, at any
                # time.
                name=${stat#*(}
                set -- ${stat##*) }
                [ $2 = 2 ] || echo "$it ${name%)*}"
            done
            readlink /proc/self/exe"#;
        self.says(Root, ["sh", "-c", script])
    }

    /// Waits until the traces are these again: what a program has started may
    /// end some time after it.
    #[track_caller]
    pub fn comes_back_to(&self, before: &str) {
        let differ = || {
            let now = self.traces();
            let [now, before] =
                [&*now, before].map(|it| it.lines().collect::<BTreeSet<_>>());
            Vec::from_iter(&now ^ &before).join("\n")
        };
        until(differ, || self.traces() == before);
    }

    /// Types a session: behind `$ ` as reader, behind `# ` as root, and behind
    /// `% ` as both, reader first. Each must succeed, and print what follows.
    #[track_caller]
    pub fn types(&self, session: &str) {
        for (prompt, typed, printed) in steps(session) {
            let users = match prompt {
                '$' => &[Reader][..],
                '#' => &[Root],
                _ => &USERS,
            };
            for user in users {
                assert_eq!(self.sh(*user, &typed), printed, "{user}: {typed}");
            }
        }
    }

    /// Runs a program of ours, which must fail and print nothing. Returns what
    /// it says of that: the call with its error, and a line of advice.
    #[track_caller]
    pub fn refused<A: AsRef<OsStr>>(
        &self,
        user: User,
        argv: impl IntoIterator<Item = A>,
    ) -> [String; 2] {
        let output = self.run(user, argv, b"");
        let text = String::from_utf8_lossy(&output.stderr);
        let lines = text.lines().filter(|it| !it.starts_with("strace: "));
        let lines: Vec<&str> = lines.collect();
        let [error, advice] = lines[..] else { panic!("{user}: {text:?}") };
        let status = match error.contains(": exec ") {
            true if error.contains(": ENOENT") => 127,
            true => 126,
            false => 125,
        };
        assert_eq!(output.status.code(), Some(status), "{user}: {text}");
        assert!(output.stdout.is_empty(), "{user}: {text}");
        // Least privilege: neither is needed for a demo.
        let lower = advice.to_lowercase();
        assert!(!lower.contains("be root"), "{user}: {text}");
        assert!(!lower.contains("--privileged"), "{user}: {text}");
        [error, advice].map(String::from)
    }

    /// The kernel's version, if it is Debian's: other vendors put parts of
    /// later versions into theirs.
    #[track_caller]
    pub fn debians_release(&self) -> Option<(u32, u32)> {
        let version = self.sh(Root, "uname -v");
        let (_, release) = version.split_once(" Debian ")?;
        let mut numbers = release.split(['.', '-', '~']).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// Runs a command behind these links. Returns how its last system call of
    /// this name, with this text in its arguments, ended: `done`, or the name
    /// of the error. strace(1) gets that from the kernel. The tools' own error
    /// messages differ between distributions.
    #[track_caller]
    pub fn end_of_call(
        &self,
        user: User,
        links: &[&str],
        [call, part]: [&str; 2],
        command: &[&str],
    ) -> String {
        let trace = format!("trace={call}");
        let strace = ["strace", "-qq", "-e", "signal=none", "-e", &trace];
        let output = self.run(user, [links, &strace, command].concat(), b"");
        let trace = String::from_utf8_lossy(&output.stderr);
        let name = format!("{call}(");
        let mut lines = trace.lines().rev();
        let line = lines.find(|it| it.starts_with(&name) && it.contains(part));
        end_of_call(line.unwrap_or_else(|| panic!("no {name}{part}: {trace}")))
    }

    /// Runs a command with this on standard input.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        user: User,
        argv: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Output {
        let argv: Vec<A> = argv.into_iter().collect();
        let name = |arg: &A| arg.as_ref().to_string_lossy().into_owned();
        let line = argv.iter().map(name).collect::<Vec<_>>().join(" ");
        let begun = Instant::now();
        let output = unpoisoned(&self.vm)
            .output(user, argv, input, patience())
            .unwrap_or_else(|failure| match begun.elapsed() < patience() {
                true => panic!("{NO_VERDICT}{failure}"),
                // The machine works, but the command waits for something that
                // the claim expects: the claim is broken.
                false => {
                    panic!("{user}: no end after {:?}: {line}", patience())
                }
            });
        let _ = write!(
            unpoisoned(&self.history),
            "{user}: {line}\n  {}\n  stdout: {}\n  stderr: {}\n",
            output.status,
            shown(&output.stdout),
            shown(&output.stderr),
        );
        output
    }
}

/// How a system call ended that a program of `tests/guest` has made: 0, or its
/// errno.
pub fn end(errno: &str) -> Result<(), Errno> {
    match errno.parse().expect("an errno") {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// The steps of a session: the prompt, what is typed behind it and, in further
/// lines, behind `> `, and the lines that follow.
pub fn steps(session: &str) -> Vec<(char, String, String)> {
    let mut steps: Vec<(char, String, String)> = Vec::new();
    for line in session.lines().skip_while(|line| line.is_empty()) {
        match line.split_at_checked(2) {
            Some((prompt @ ("$ " | "# " | "% "), typed)) => {
                let prompt = prompt.chars().next().expect("a prompt");
                steps.push((prompt, typed.into(), String::new()));
            }
            part => {
                let (_, typed, printed) = steps.last_mut().expect("a prompt");
                match part {
                    Some(("> ", more)) => *typed += &format!("\n{more}"),
                    _ => *printed += &format!("{line}\n"),
                }
            }
        }
    }
    steps
}

/// Output in the report of a failure: not longer than a reader reads.
fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    match text.char_indices().nth(LONGEST) {
        None => text.into(),
        Some((end, _)) => {
            format!("{}... ({} bytes in all)", &text[..end], output.len())
        }
    }
}

/// How the system call in this line of strace(1) ended.
pub fn end_of_call(line: &str) -> String {
    let (_, end) = line.rsplit_once(" = ").expect("a system call's end");
    match end.strip_prefix("-1 ") {
        Some(error) => error.split(' ').next().unwrap_or_default().into(),
        None => "done".into(),
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// Puts a program of `tests/guest` there. It goes in as the input of a
    /// command: so no other machine is booted.
    #[track_caller]
    pub fn put(&self, path: &str) {
        let program = std::fs::read(guest()).expect("a program");
        let put = format!("cat > {path}; chmod 755 {path}");
        let put = self.run(Root, ["sh", "-euc", &put], &program);
        put.assert().success();
    }

    /// What the program at this path, run by root, answers to this input.
    #[track_caller]
    pub fn answers(&self, program: &str, input: &str) -> String {
        let output = self.run(Root, [program], input.as_bytes());
        let output = output.assert().success().get_output().stdout.clone();
        String::from_utf8(output).expect("text")
    }

    /// The commands so far, their results, and the machine: a bug report.
    pub fn bug_report(&self) -> String {
        let history = unpoisoned(&self.history);
        let machine = harness().describe();
        let console = unpoisoned(&self.vm).console();
        let last = console.lines().rev().take(10).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>();
        let report = format!(
            "what was done on {machine}:\n{history}the console's end:\n{}\n\
             a shell in such a machine: cargo run -p harness",
            last.join("\n"),
        );
        report.split('\n').map(printable).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.bug_report());
        }
    }
}
