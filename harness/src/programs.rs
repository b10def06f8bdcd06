//! The programs of this workspace, built and found by asking Cargo: its
//! target directory may be anywhere.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Failure;
use crate::progress::report_if_slow;

/// The demos: the packages of this workspace that go into the guest.
pub const DEMOS: [&str; 6] =
    ["uts-demo", "ipc-demo", "pid-demo", "mount-demo", "user-demo", "net-demo"];

/// Builds what is not built yet, and returns the paths of the programs: the
/// demos and their examples. Cargo runs in the workspace, because the settings
/// of the reader's current directory are not meant for it.
pub fn build() -> Result<Vec<PathBuf>, Failure> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(&cargo);
    command
        .args(["build", "--quiet", "--bins", "--examples"])
        .args(DEMOS.iter().flat_map(|demo| ["--package", demo]))
        .arg("--message-format=json-render-diagnostics")
        .arg("--target-dir")
        .arg(target_dir())
        .current_dir(&workspace)
        .stderr(Stdio::inherit());
    let output = report_if_slow("building the demos", || command.output())
        .map_err(|error| {
            let what =
                format!("{} in {}", cargo.display(), workspace.display());
            Failure::because(what, error)
        })?;
    if !output.status.success() {
        return Err(Failure::new("cargo build failed, see above"));
    }
    let mut programs: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .collect();
    programs.sort();
    Ok(programs)
}

/// Cargo's target directory, in which this program was built.
pub fn target_dir() -> &'static Path {
    // OUT_DIR is .../target/debug/build/harness-.../out. With `--target` there
    // is one more folder below `target`. Cargo puts this file into its target
    // directory, and from 1.97 on also into that folder.
    let mut parents = Path::new(env!("OUT_DIR")).ancestors().skip(4).take(2);
    let marked = |dir: &&Path| dir.join("CACHEDIR.TAG").is_file();
    let found = parents.clone().filter(marked).last();
    found.or(parents.next()).unwrap_or(Path::new("target"))
}
