//! What to do where COMMAND cannot be run.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;

/// About execve(2), with any error.
pub fn advice(name: &OsStr, errno: Errno) -> &'static str {
    match errno {
        // execve says the same of the program and of what it needs to run.
        Errno::ENOENT if found(name) => {
            "It is there, but its interpreter is not: see its first line, or \
             `file` of it"
        }
        Errno::ENOENT => "Is the name spelled right, and is it on PATH?",
        Errno::E2BIG => "There is more of arguments and environment than fits",
        Errno::EACCES | Errno::ENOEXEC => {
            "Is it a program, and executable (chmod +x)?"
        }
        _ => "See the man page of the call",
    }
}

fn found(name: &OsStr) -> bool {
    if name.as_bytes().contains(&b'/') {
        return Path::new(name).exists();
    }
    let path = env::var_os("PATH").unwrap_or_default();
    !name.is_empty() && env::split_paths(&path).any(|it| it.join(name).exists())
}

#[test]
fn program_is_found_as_execvp_finds_it() {
    assert!(found("/bin/sh".as_ref()) && found("sh".as_ref()));
    assert!(!found("/bin/nosuch".as_ref()) && !found("nosuch".as_ref()));
    assert!(!found("".as_ref()));
}
