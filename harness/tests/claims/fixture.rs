//! Programs of ours that are no demos. The compiler that Cargo uses is there
//! wherever a claim runs, and needs no other.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use assert_cmd::assert::OutputAssertExt;

use crate::common;
use crate::target::{Machine, Root};

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

    /// The same for a program that consists of these bytes.
    #[track_caller]
    pub fn put_bytes(&self, path: &str, program: &[u8]) {
        let put = format!("cat > {path}; chmod 755 {path}");
        self.run(Root, ["sh", "-euc", &put], program).assert().success();
    }
}
