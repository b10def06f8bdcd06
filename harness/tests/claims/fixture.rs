//! Programs of ours that are no demos. The compiler that Cargo uses is there
//! wherever a claim runs, and needs no other.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;
use nix::errno::Errno;

use crate::common;
use crate::target::{Machine, Root};

/// How a system call ended: 0, or its errno.
pub fn end(errno: &str) -> Result<(), Errno> {
    match errno.parse().expect("an errno") {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// Compiles a program of one file, which is named relative to the tests.
#[track_caller]
pub fn compile(source: &str, to: &Path) {
    let tests = common::package().join("tests");
    // The compiler in the folder of the Cargo that runs this test.
    let cargo = env::var_os("CARGO").map(PathBuf::from);
    let beside = cargo.map(|cargo| cargo.with_file_name("rustc"));
    let rustc = beside.filter(|path| path.is_file());
    Command::new(rustc.unwrap_or("rustc".into()))
        .args(["--edition", "2024", "-A", "warnings", "-C", "strip=symbols"])
        .args(["-o".as_ref(), to, &tests.join(source)])
        .assert()
        .success();
}

impl Machine {
    /// Puts a program of `tests/guest` into the machine, at `/tmp/NAME`. It
    /// goes in as the input of a command: so no other machine is booted.
    #[track_caller]
    pub fn put(&self, name: &str) {
        let dir = tempfile::tempdir().expect("a folder");
        let program = dir.path().join(name);
        compile(&format!("guest/{name}.rs"), &program);
        let bytes = std::fs::read(program).expect("a program");
        self.put_bytes(&format!("/tmp/{name}"), &bytes);
    }

    /// What that program, run by root, answers to this input.
    #[track_caller]
    pub fn answers(&self, name: &str, input: &str) -> String {
        let program = format!("/tmp/{name}");
        let output = self.run(Root, [program], input.as_bytes());
        let output = output.assert().success().get_output().stdout.clone();
        String::from_utf8(output).expect("text")
    }

    /// Puts a program that consists of these bytes into the machine.
    #[track_caller]
    pub fn put_bytes(&self, path: &str, program: &[u8]) {
        let put = format!("cat > {path}; chmod 755 {path}");
        self.run(Root, ["sh", "-euc", &put], program).assert().success();
    }
}
