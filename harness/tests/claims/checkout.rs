//! V10: the programs in the machine are those of the checkout one stands in.
//! Programs of the test's own stand in for Cargo and for a demo, since what
//! Cargo builds is not asked here, but whose programs are taken.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use harness::DEMOS;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use predicates::prelude::*;
use tempfile::TempDir;

use crate::common;
use crate::readers::{
    executable, read_until, start_at_terminal, without_cargo,
};

/// A checkout with a target folder, in which `uts-demo` is a script that says
/// whose it is.
pub struct Checkout(TempDir);

impl Checkout {
    pub fn new() -> Checkout {
        common::harness(); // It builds what is copied.
        let checkout = Checkout(common::scratch());
        fs::create_dir_all(checkout.at("target/debug/examples"))
            .expect("a folder");
        fs::create_dir(checkout.at("harness")).expect("a folder");
        File::create(checkout.at("target/CACHEDIR.TAG")).expect("a file");
        let built = common::program().parent().expect("a folder");
        // Not by this process: see `executable`.
        let mut cp = Command::new("cp");
        cp.args(DEMOS.map(|demo| built.join(demo))).arg(built.join("harness"));
        cp.arg(checkout.at("target/debug")).assert().success();
        executable(&checkout.uts_demo(), "#!/bin/sh\necho the copy\n");
        let example = checkout.at("target/debug/examples/copies");
        executable(&example, "#!/bin/sh\necho its example\n");
        checkout
    }

    /// From now on the target folder is another user's, until the function that
    /// is returned opens it again with this mode. Root may write everywhere, and
    /// only root can give a folder away.
    pub fn give_target_away(&self) -> impl Fn(u32) -> io::Result<()> {
        let target = self.at("target");
        let given = target.clone();
        let closed = move |mode| {
            fs::set_permissions(&target, PermissionsExt::from_mode(mode))
        };
        match geteuid().is_root() {
            true => chown(given, Some(65534), None).expect("chown"),
            false => closed(0o555).expect("chmod"),
        }
        closed
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn uts_demo(&self) -> PathBuf {
        self.at("target/debug/uts-demo")
    }

    /// Its harness, as a program that Cargo has not started, without a network
    /// or a Cargo that works.
    pub fn plain(&self) -> Command {
        let mut command = without_cargo(&self.at("target/debug/harness"));
        // A Cargo that works may be in the folder of any tool.
        fs::create_dir_all(self.at("bin")).expect("a folder");
        let cargo = "#!/bin/sh\necho cargo was asked >&2; exit 101\n";
        executable(&self.at("bin/cargo"), cargo);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::env::split_paths(&path);
        let path =
            std::env::join_paths([self.at("bin")].into_iter().chain(dirs))
                .expect("PATH");
        command.env("PATH", path).env("CARGO_HOME", self.at("empty"));
        command.env("HOME", self.at("home")).env_remove("XDG_CACHE_HOME");
        command.env_remove("HARNESS_CACHE");
        command
    }

    /// Its harness, as Cargo starts it, with this script as Cargo.
    fn by_cargo(&self, script: &str) -> Command {
        let cargo = self.at("cargo");
        executable(&cargo, &format!("#!/bin/sh\n{script}\n"));
        let mut command = self.plain();
        command
            .args(["uts-demo"])
            .env("CARGO", cargo)
            .env("CARGO_PKG_NAME", "harness")
            .env("CARGO_MANIFEST_DIR", self.at("harness"));
        command
    }
}

/// A line of Cargo's that names a program.
const NAMED: &str = r#"echo '{"executable":"'"$PWD"/target/debug/uts-demo'"}'"#;

/// V10: without Cargo the programs are those beside the harness, however old
/// they are; one line says what is not there. Saved machines are in the target
/// folder where that is the caller's own, and else below his home.
#[test]
fn plain_program_takes_what_lies_beside_it() {
    let checkout = Checkout::new();
    let run = |words: &[&str]| checkout.plain().args(words).assert();
    let script = ["sh", "-c", "uts-demo; copies; ipc-demo hostname"];
    let seen = "the copy\nits example\noutside\n";
    run(&script).success().stdout(seen).stderr("");
    let own = checkout.at("target/harness-cache");
    assert!(own.is_dir());
    fs::remove_dir_all(&own).expect("a folder");

    for path in ["ipc-demo", "net-demo", "examples/copies"] {
        let path = checkout.at("target/debug").join(path);
        fs::remove_file(path).expect("a file");
    }
    let closed = checkout.give_target_away();
    run(&["uts-demo"]).success().stdout("the copy\n").stderr(format!(
        "harness: not built in {}: ipc-demo, net-demo, the examples; to build \
         them, type: cargo build --workspace --all-targets\n",
        checkout.at("target/debug").display(),
    ));
    assert!(!own.exists());
    assert!(checkout.at("home/.cache/namespace-demos").is_dir());
    closed(0o755).expect("chmod");
}

/// V10: under Cargo, Cargo builds what is taken, in the workspace that it names
/// now, and into the target folder that the harness is in. A compiler's warning
/// is not COMMAND's output.
#[test]
fn cargo_builds_the_checkout_that_it_names() {
    let checkout = Checkout::new();
    let cargo = format!(
        "pwd >{0}/seen; echo \"$*\" >>{0}/seen
         echo 'warning: unused variable: `x`' >&2\n{NAMED}",
        checkout.0.path().display(),
    );
    let end = checkout.by_cargo(&cargo).assert().success();
    end.stdout("the copy\n").stderr("");
    let seen = fs::read_to_string(checkout.at("seen")).expect("text");
    let (dir, arguments) = seen.split_once('\n').expect("two lines");
    let same = |path: &Path| path.canonicalize().expect("a folder");
    assert_eq!(same(Path::new(dir)), same(checkout.0.path()));
    let target = format!("--target-dir {}", checkout.at("target").display());
    assert!(arguments.contains(&target), "{arguments}");

    // The control: where Cargo has started something else, which starts this,
    // it is not asked, and the next thing fails.
    for (package, failure) in
        [("harness", "cargo build failed"), ("my-container", "/nosuch")]
    {
        let start = format!("harness: {failure}: ");
        let start = predicate::str::starts_with(start);
        let mut other = checkout.by_cargo("exit 101");
        other.env("CARGO_PKG_NAME", package).env("HARNESS_KERNEL", "/nosuch");
        other.assert().code(125).stderr(start);
    }
}

/// V10: where Cargo fails, its words say why, the first error first.
#[test]
fn failed_build_says_what_cargo_said() {
    let checkout = Checkout::new();
    let words = " --> uts-demo/src/main.rs:1:2
error[E0425]: no such name
  --> uts-demo/src/main.rs:17:5
   |
17 |     name(eagle)
   |          ^^^^^ not found in this scope";
    let cargo = format!(
        "echo '   Compiling uts-demo v0.1.0
    Blocking waiting for file lock
warning: unused variable\n{words}' >&2; exit 101"
    );
    let end = checkout.by_cargo(&cargo).assert().code(125);
    end.stdout("").stderr(format!(
        "harness: cargo build failed: error[E0425]: no such name\n    \
         warning: unused variable\n    {}\n",
        words.replace('\n', "\n    "),
    ));
}

/// V10: at a terminal a build that takes long is seen to go on: the line
/// changes, though Cargo says nothing. Nothing of it is left on the terminal.
#[test]
fn long_build_is_seen_to_go_on() {
    let checkout = Checkout::new();
    let gate = checkout.at("gate");
    mkfifo(&gate, Mode::S_IRWXU).expect("a FIFO");
    let cargo = format!(
        "echo '   Compiling nix v0.32.0' >&2; cat {}; exit 101",
        gate.display(),
    );
    let command = checkout.by_cargo(&cargo);
    let (mut child, mut shown, _) = start_at_terminal(command);
    // Cargo waits until the line has been written twice.
    for _ in 0..2 {
        read_until(
            &mut shown,
            b" s, building the demos: Compiling nix v0.32.0",
        );
    }
    File::options().write(true).open(gate).expect("the FIFO");
    let mut rest = Vec::new();
    // At a terminal that is closed, an error stands for the end.
    let _ = shown.read_to_end(&mut rest);
    let rest = String::from_utf8_lossy(&rest);
    let end = "\r\x1b[Kharness: cargo build failed: ";
    assert!(rest.contains(end), "{rest:?}");
    assert_eq!(child.0.wait().expect("an end").code(), Some(125));
}
