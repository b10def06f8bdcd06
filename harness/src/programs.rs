//! The programs of this workspace, built and found by asking Cargo: its
//! target directory may be anywhere.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Failure;

/// The demos: what of this workspace the guest gets.
pub const DEMOS: [&str; 6] =
    ["uts-demo", "ipc-demo", "pid-demo", "mount-demo", "user-demo", "net-demo"];

/// Builds what is not built yet, and names the programs: the demos, and
/// their examples.
pub fn build() -> Result<Vec<PathBuf>, Failure> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let output = Command::new(&cargo)
        .args(["build", "--quiet", "--bins", "--examples"])
        .args(DEMOS.iter().flat_map(|demo| ["--package", demo]))
        .args(["--message-format=json-render-diagnostics", "--manifest-path"])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::because(cargo.display(), error))?;
    if !output.status.success() {
        return Err(Failure::new("cargo build failed, see above".into()));
    }
    let mut programs: Vec<PathBuf> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(message["executable"].as_str()?.into()))
        .collect();
    programs.sort();
    Ok(programs)
}
