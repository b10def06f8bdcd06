//! What to do where COMMAND cannot be run.

use std::env;
use std::path::Path;

use nix::errno::Errno;

pub fn advice(name: &str, errno: Errno) -> &'static str {
    match errno {
        // execve says the same of the program and of what it needs to run.
        Errno::ENOENT if found(name) => {
            "It is there, but its interpreter is not: see its first line, or \
             `file` of it"
        }
        Errno::ENOENT => "Is the name spelled right, and is it on PATH?",
        _ => "Is it a program, and executable (chmod +x)?",
    }
}

fn found(name: &str) -> bool {
    if name.contains('/') {
        return Path::new(name).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    !name.is_empty() && env::split_paths(&path).any(|it| it.join(name).exists())
}
