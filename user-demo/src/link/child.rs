//! The child of an experiment: it goes inside and looks, while its parent
//! stays outside.

use std::io::{self, PipeReader, PipeWriter, Write};

use nix::libc::_exit;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::{Call, Failure, failed};

/// A child that has looked around inside. It stays there until it is dropped.
pub struct Child {
    pid: Pid,
    release: Option<PipeWriter>,
}

/// Runs `look` in a child, while this process stays outside. Returns what the
/// child saw, and the child.
///
/// # Errors
/// As pipe(2), fork(2) and read(2), and what `look` says.
#[expect(unsafe_code, reason = "fork and _exit have no safe wrapper")]
pub fn in_child<const N: usize>(
    look: impl FnOnce() -> Result<[String; N], Failure>,
) -> Result<([String; N], Child), Failure> {
    let (reader, writer) = io::pipe().map_err(failed("pipe"))?;
    let (wait, release) = io::pipe().map_err(failed("pipe"))?;
    // SAFETY: there is one thread only, so the child may go on as we do.
    match unsafe { fork() }.map_err(failed(Call::Fork))? {
        ForkResult::Parent { child: pid } => {
            drop(writer); // Or read never sees the end of the text.
            let child = Child { pid, release: Some(release) };
            Ok((receive(reader)?, child))
        }
        ForkResult::Child => {
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
pub fn send<const N: usize>(
    seen: Result<[String; N], Failure>,
    mut writer: PipeWriter,
) {
    let text = match seen {
        Ok(values) => format!("+{}", values.join("\0")),
        Err(failure) => format!("-{}", failure.messages.join("\0")),
    };
    // If this fails, the parent has ended, and nobody waits for the answer.
    let _ = writer.write_all(text.as_bytes());
}

/// In the parent: what the child has sent.
///
/// # Errors
/// As read(2); what the child could not see; and where it was killed.
pub fn receive<const N: usize>(
    reader: PipeReader,
) -> Result<[String; N], Failure> {
    let text = io::read_to_string(reader).map_err(failed("read"))?;
    let parts = |text: &str| text.split('\0').map(String::from).collect();
    let values: Vec<String> = text.strip_prefix('+').map_or(vec![], parts);
    values.try_into().map_err(|_| match text.strip_prefix('-') {
        Some(messages) => Failure { status: 125, messages: parts(messages) },
        None => Failure::new(125, "the child inside was killed".into()),
    })
}
