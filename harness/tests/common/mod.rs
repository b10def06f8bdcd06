//! What the claims and the pages have in common: the saved machine that they
//! start from, its users, and what is said first of a test that fails.

mod broken;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

pub use broken::{NO_VERDICT, name_broken_claims};
pub use harness::User::{Reader, Root};
use harness::{Failure, Harness};
use tempfile::TempDir;

/// How long a command, or a session of a page, may take. Even on a busy machine
/// none takes a tenth of this.
pub fn patience() -> Duration {
    harness::patience(Duration::from_secs(60))
}

/// The folder of the harness's package. Cargo says where that is now: a
/// checkout may have been copied or moved since this was compiled.
pub fn package() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let dir = env::var_os("CARGO_MANIFEST_DIR");
        dir.expect("this is run by cargo test").into()
    });
    &DIR
}

/// The `harness` program. Cargo names it since 1.94, and has always put it in
/// the folder above this test's.
pub fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let above = || {
            let this = env::current_exe().expect("this program");
            let dir = this.ancestors().nth(2).expect("Cargo's folder");
            dir.join("harness")
        };
        let named = env::var_os("CARGO_BIN_EXE_harness").map(PathBuf::from);
        named.unwrap_or_else(above)
    });
    &PROGRAM
}

/// A new folder on the disk of the target folder: a saved machine is too large
/// for a /tmp that is in memory.
pub fn scratch() -> TempDir {
    scratch_in(program().ancestors().nth(2).expect("a target folder"))
}

fn scratch_in(target: &Path) -> TempDir {
    // Cargo makes this folder, but only when it compiles.
    let dir = target.join("tmp");
    std::fs::create_dir_all(&dir).expect("a folder");
    tempfile::tempdir_in(dir).expect("a folder")
}

#[test]
fn scratch_folder_is_made_where_cargo_has_made_none() {
    let target = tempfile::tempdir().expect("a folder");
    for made in [false, true] {
        assert_eq!(target.path().join("tmp").exists(), made);
        let scratch = scratch_in(target.path());
        assert!(scratch.path().starts_with(target.path().join("tmp")));
    }
}

/// One for all tests of this process.
static HARNESS: LazyLock<Result<Harness, Failure>> = LazyLock::new(|| {
    name_broken_claims();
    Harness::new(program(), &[])
});

/// Starts machines.
///
/// # Panics
/// If something is missing for that: then no claim has a verdict.
#[track_caller]
pub fn harness() -> &'static Harness {
    match &*HARNESS {
        Ok(harness) => harness,
        Err(failure) => panic!("{NO_VERDICT}{failure}"),
    }
}
