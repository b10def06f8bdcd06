//! What the claims and the pages have in common: the machine that they start
//! from, and the users who type in it.

use std::path::Path;
use std::sync::LazyLock;

pub use harness::User::{Reader, Root};
use harness::{Failure, Harness};

/// Made once for all tests of this process.
pub static HARNESS: LazyLock<Result<Harness, Failure>> = LazyLock::new(|| {
    Harness::new(Path::new(env!("CARGO_BIN_EXE_harness")), None)
});
