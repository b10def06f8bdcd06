#!/bin/sh
# Guess:     waitpid() of the crate nix says Signaled for a child that a signal
#            killed, whichever signal that was.
# Behaviour: after a real-time signal it is Err(EINVAL), which reads as if the
#            call was wrong. The kernel has handed out the status, so it is lost:
#            a second call is Err(ECHILD). WIFSIGNALED and WTERMSIG are right.
# Versions:  nix 0.29.0 and 0.30.1, and 0.32.0; Rust 1.88 or newer.
# Source:    Signal is an enum without SIGRTMIN to SIGRTMAX, and WaitStatus has
#            a Signal in it: src/sys/wait.rs, src/sys/signal.rs.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

mkdir "$dir/src"
cat > "$dir/src/main.rs" <<'RUST'
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

fn main() {
    for number in ["15", "34", "64"] {
        let script = format!("kill -{number} $$");
        let mut shell = std::process::Command::new("sh");
        let child = shell.args(["-c", &script]).spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        let first = waitpid(pid, None);
        let first = format!("{first:?}").replace(&pid.to_string(), "PID");
        println!("{number}: {first}, then {:?}", waitpid(pid, None));
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
nix = { version = "=$version", features = ["process", "signal"] }
[workspace]
TOML
    rm -f "$dir/Cargo.lock"
    echo "nix $version"
    (cd "$dir" && CARGO_TARGET_DIR=$dir/target cargo run -q)
done > "$dir/seen"
cat > "$dir/expected" <<'SEEN'
nix 0.29.0
15: Ok(Signaled(Pid(PID), SIGTERM, false)), then Err(ECHILD)
34: Err(EINVAL), then Err(ECHILD)
64: Err(EINVAL), then Err(ECHILD)
nix 0.30.1
15: Ok(Signaled(Pid(PID), SIGTERM, false)), then Err(ECHILD)
34: Err(EINVAL), then Err(ECHILD)
64: Err(EINVAL), then Err(ECHILD)
nix 0.32.0
15: Ok(Signaled(Pid(PID), SIGTERM, false)), then Err(ECHILD)
34: Err(EINVAL), then Err(ECHILD)
64: Err(EINVAL), then Err(ECHILD)
SEEN
diff "$dir/expected" "$dir/seen" && cat "$dir/seen"
