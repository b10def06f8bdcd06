//! Programs of ours that are no demos: those of `tests/guest`. Cargo builds one
//! program of them beside the harness, and its name says which of them it is.

use std::path::PathBuf;

use assert_cmd::assert::OutputAssertExt;

use crate::common;
use crate::target::{Machine, Root};

/// The program that all of them are.
pub fn guest() -> PathBuf {
    common::program().with_file_name("guest")
}

impl Machine {
    /// Puts it into the machine, at this path. It goes in as the input of a
    /// command: so no other machine is booted.
    #[track_caller]
    pub fn put(&self, path: &str) {
        let program = std::fs::read(guest()).expect("a program");
        let put = format!("cat > {path}; chmod 755 {path}");
        self.run(Root, ["sh", "-euc", &put], &program).assert().success();
    }
}
