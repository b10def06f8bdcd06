#!/bin/sh
# Guess:     mq_open() of the crate nix with None for the attributes makes a queue
#            with the default ones, and with the mode that it is given.
# Behaviour: without attributes it passes no mode either, though with O_CREAT the
#            C library takes both: it takes what the registers happen to hold.
#            The call fails, or makes a queue of some mode, whatever was asked.
# Versions:  nix 0.29.0, 0.30.1 and 0.32.0; Rust 1.88 or newer.
# Source:    src/mqueue.rs: None => unsafe { libc::mq_open(NAME, FLAGS) }.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir "$dir/src"
cat > "$dir/src/main.rs" <<'RUST'
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::mqueue::{MQ_OFlag, MqAttr, mq_close, mq_open, mq_unlink};
use nix::sys::stat::{Mode, umask};

/// The mode of a new queue for which this mode is asked, or the error.
fn made(mode: u32, attr: Option<&MqAttr>) -> String {
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDONLY;
    let name = format!("/finding-{}", std::process::id());
    let mode = Mode::from_bits_truncate(mode);
    let queue = match mq_open(name.as_str(), flags, mode, attr) {
        Ok(queue) => queue,
        Err(error) => return error.to_string(),
    };
    let opened = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let mut opened = opened.map(|it| it.path()).filter(|it| {
        fs::read_link(it).is_ok_and(|to| to.to_str() == Some(&name))
    });
    let mode = fs::metadata(opened.next().unwrap()).unwrap().mode();
    mq_close(queue).unwrap();
    mq_unlink(name.as_str()).unwrap();
    format!("{:o}", mode & 0o777)
}

fn main() {
    umask(Mode::empty());
    let some = MqAttr::new(0, 1, 1, 0);
    for mode in [0o400, 0o600, 0o644] {
        let (with, without) = (made(mode, Some(&some)), made(mode, None));
        eprintln!("{mode:o}: {with} with attributes, without: {without}");
        let right = without == with;
        println!("{mode:o}: {with}, {}", if right { "the same" } else { "other" });
    }
}
RUST
for version in 0.29.0 0.30.1 0.32.0; do
    cat > "$dir/Cargo.toml" <<TOML
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
nix = { version = "=$version", features = ["mqueue", "fs"] }
[workspace]
TOML
    rm -f "$dir/Cargo.lock"
    echo "nix $version"
    (cd "$dir" && CARGO_TARGET_DIR=$dir/target cargo run -q)
done > "$dir/seen"
for version in 0.29.0 0.30.1 0.32.0; do
    echo "nix $version"
    printf '%s: %s, other\n' 400 400 600 600 644 644
done > "$dir/expected"
diff "$dir/expected" "$dir/seen" && cat "$dir/seen"
