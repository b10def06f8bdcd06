//! COMMAND's input, on its way to the guest.

use std::os::fd::BorrowedFd;

use crate::wire::WINDOW;

/// Where a command's input comes from.
#[derive(Debug)]
pub enum Input<'a> {
    /// These bytes, and then EOF.
    Bytes(&'a [u8]),
    /// What is read from this descriptor.
    Stream(BorrowedFd<'a>),
}

/// What the guest does with the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// It has taken the last message, and waits for the next.
    Waits,
    /// It has not taken the last message yet.
    IsBusy,
    /// It has got EOF, after which nothing follows.
    HasAll,
}

/// A command's input: what is read here, and then sent piece by piece. The
/// guest takes a piece before the next one is sent.
#[derive(Debug)]
pub struct Feed<'a> {
    /// `None` if there is no more to read.
    source: Option<Input<'a>>,
    /// Read, but not sent yet.
    read: Vec<u8>,
    guest: Guest,
}

impl<'a> Feed<'a> {
    /// Input of which nothing has been read yet.
    pub fn new(input: Input<'a>) -> Feed<'a> {
        let (source, guest) = match input {
            Input::Bytes([]) => (None, Guest::HasAll),
            input => (Some(input), Guest::Waits),
        };
        Feed { source, read: Vec::new(), guest }
    }

    /// Whether there is any input, or at least EOF, to be sent.
    pub fn is_open(&self) -> bool {
        self.guest != Guest::HasAll
    }

    /// The stream from which the next piece has to be read.
    pub fn awaited(&self) -> Option<BorrowedFd<'a>> {
        match &self.source {
            Some(Input::Stream(stream)) if self.read.is_empty() => {
                Some(*stream)
            }
            _ => None,
        }
    }

    /// Reads the next piece from a stream that is readable.
    pub fn read(&mut self, stream: BorrowedFd) {
        self.read = vec![0; WINDOW];
        // An error, as from a terminal that is gone, counts as EOF.
        let n = nix::unistd::read(stream, &mut self.read).unwrap_or(0);
        self.read.truncate(n);
        if n == 0 {
            self.source = None;
        }
    }

    /// The guest has taken the last piece.
    pub fn taken(&mut self) {
        if self.guest == Guest::IsBusy {
            self.guest = Guest::Waits;
        }
    }

    /// What is to be sent now, if anything is. It stays until the caller
    /// removes from its start what was sent. An empty one is EOF.
    pub fn next(&mut self) -> Option<&mut Vec<u8>> {
        if self.read.is_empty()
            && let Some(Input::Bytes(bytes)) = &mut self.source
        {
            let (now, later) = bytes.split_at(bytes.len().min(WINDOW));
            self.read.extend_from_slice(now);
            *bytes = later;
            if now.is_empty() {
                self.source = None;
            }
        }
        let has_next = !self.read.is_empty() || self.source.is_none();
        if self.guest != Guest::Waits || !has_next {
            return None;
        }
        self.guest = match self.read.is_empty() {
            true => Guest::HasAll,
            false => Guest::IsBusy,
        };
        Some(&mut self.read)
    }
}
