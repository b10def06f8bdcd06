//! Makes Cargo set OUT_DIR, from which `programs.rs` knows the target folder.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
