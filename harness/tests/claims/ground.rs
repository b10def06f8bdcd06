//! Where a claim is tried: a fresh VM, or with `HARNESS_GROUND=here` this
//! machine.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;
use std::process::Output;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use harness::User::{self, Reader, Root};
use harness::{Failure, Harness, Vm};

/// No command of a claim takes a tenth of this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// Made once for all claims of this process.
pub static HARNESS: LazyLock<Result<Harness, Failure>> = LazyLock::new(|| {
    Harness::new(Path::new(env!("CARGO_BIN_EXE_harness")), None)
});

/// The machine a claim is tried on, seen from outside of any namespace.
pub struct Outside {
    vm: Mutex<Vm>,
    /// What was done so far, for the report of a failure.
    story: Mutex<String>,
}

/// A machine that nobody has touched.
pub fn outside() -> Outside {
    let vm = HARNESS.as_ref().map(Harness::start);
    match vm {
        Ok(Ok(vm)) => Outside { vm: Mutex::new(vm), story: Mutex::default() },
        Ok(Err(failure)) => panic!("the VM failed: {failure}"),
        Err(failure) => panic!("the VM failed: {failure}"),
    }
}

impl Outside {
    /// Runs a command as root.
    pub fn root<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
    ) -> Output {
        self.run(Root, argv, b"")
    }

    /// Runs a command as uid 1000, who has no privilege.
    pub fn reader<A: AsRef<OsStr>>(
        &self,
        argv: impl IntoIterator<Item = A>,
    ) -> Output {
        self.run(Reader, argv, b"")
    }

    /// Runs a shell script, which ends at its first failure, and gives what
    /// it prints. It must succeed.
    #[track_caller]
    pub fn sh(&self, user: User, script: &str) -> String {
        self.sh_with(user, script, &[])
    }

    /// The same, with these as `$1`, `$2` and so on.
    #[track_caller]
    pub fn sh_with(&self, user: User, script: &str, args: &[&str]) -> String {
        let argv = [&["sh", "-euc", script, "sh"], args].concat();
        let output = self.run(user, argv, b"");
        assert!(output.status.success(), "{user}: {script}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
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
        let run = unpoisoned(&self.vm).output(user, argv, input, PATIENCE);
        let output = run.unwrap_or_else(|f| panic!("the VM failed: {f}"));
        let _ = write!(
            unpoisoned(&self.story),
            "{user}: {line}\n  {}\n  stdout: {}\n  stderr: {}\n",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        output
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Outside {
    /// A failed claim is a complete bug report.
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let machine = HARNESS.as_ref().map(Harness::describe);
        let console = unpoisoned(&self.vm).console();
        let last = console.lines().rev().take(10).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        eprintln!(
            "what was done on {}:\n{}the console's end:\n{last}\n\
             a shell in such a machine: cargo run -p harness",
            machine.unwrap_or_default(),
            unpoisoned(&self.story),
        );
    }
}
