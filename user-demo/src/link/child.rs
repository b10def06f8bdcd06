//! The child of an experiment: it goes inside and looks, while its parent
//! stays outside.

use std::io::{self, PipeReader, PipeWriter, Write};

use nix::libc::_exit;
use nix::sys::wait::waitpid;
use nix::unistd::{self, ForkResult, Pid};

use super::{Call, Failure, failed};

/// A child that has looked around inside. It stays there until it is dropped.
pub struct Child {
    pid: Pid,
    release: Option<PipeWriter>,
}

/// fork(2): `None` in the child.
///
/// # Errors
/// As fork(2).
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub fn fork() -> nix::Result<Option<Pid>> {
    // SAFETY: there is one thread only, so the child may go on as we do.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Runs `look` in a child, while this process stays outside. Returns what the
/// child saw, and the child.
///
/// # Errors
/// As pipe(2), fork(2) and read(2), and what `look` says.
#[expect(unsafe_code, reason = "_exit has no safe wrapper")]
pub fn in_child(
    look: impl FnOnce() -> Result<Vec<String>, Failure>,
) -> Result<(Vec<String>, Child), Failure> {
    let (reader, writer) = io::pipe().map_err(failed("pipe"))?;
    let (wait, release) = io::pipe().map_err(failed("pipe"))?;
    match fork().map_err(failed(Call::Fork))? {
        Some(pid) => {
            drop(writer); // Or read never sees the end of the text.
            let child = Child { pid, release: Some(release) };
            Ok((receive(reader)?, child))
        }
        None => {
            drop((reader, release));
            send(look(), writer);
            let _ = io::read_to_string(wait);
            // SAFETY: nothing is left to be done, and no buffer to be written.
            unsafe { _exit(0) }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = waitpid(self.pid, None);
    }
}

/// In a child: tells the parent what it saw, or why it could not.
pub fn send(seen: Result<Vec<String>, Failure>, mut writer: PipeWriter) {
    let text = match seen {
        Ok(values) => format!("+{}\0", values.join("\0")),
        Err(failure) => format!("-{}\0", failure.messages.join("\0")),
    };
    // If this fails, the parent has ended, and nobody waits for the answer.
    let _ = writer.write_all(text.as_bytes());
}

/// In the parent: what the child has sent.
///
/// # Errors
/// As read(2); what the child could not see; and where it was killed.
pub fn receive(reader: PipeReader) -> Result<Vec<String>, Failure> {
    let text = io::read_to_string(reader).map_err(failed("read"))?;
    // Without its end it is a part of what the child saw.
    let Some(text) = text.strip_suffix('\0') else {
        return Err(Failure::new(125, "the child inside was killed".into()));
    };
    let parts = text.get(1..).unwrap_or_default().split('\0');
    let parts = parts.map(String::from).collect();
    match text.starts_with('+') {
        true => Ok(parts),
        false => Err(Failure { status: 125, messages: parts }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_what_a_child_saw_is_nothing() {
        let received = |text: &str| {
            let (reader, mut writer) = io::pipe().expect("a pipe");
            writer.write_all(text.as_bytes()).expect("written");
            drop(writer);
            receive(reader).map_err(|failure| failure.messages)
        };
        let killed = || Err(vec!["the child inside was killed".to_string()]);
        assert_eq!(received("+a\0\0"), Ok(vec!["a".into(), "".into()]));
        assert_eq!(received("-why\0"), Err(vec!["why".into()]));
        assert_eq!(received("+a\0b"), killed());
        assert_eq!(received(""), killed());
    }
}
