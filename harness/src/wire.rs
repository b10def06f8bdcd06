//! What the harness and the guest's PID 1 say to each other over the second
//! serial port, and how: each message is one [COBS] frame of [postcard] bytes,
//! closed by a zero byte. Who comes in late, or misses a byte, is in step
//! again after the next zero.
//!
//! [COBS]: https://doi.org/10.1109/90.769765
//! [postcard]: https://postcard.jamesmunns.com/wire-format

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most data bytes in one message to the guest, so that a UART of 16 bytes
/// and the 4096 of a terminal's buffer behind it never overflow.
pub const CHUNK: usize = 1024;

/// The size of the guest's window: a part of its memory into which the harness
/// writes input. The port takes a hundred times longer: an interrupt for each
/// 14 bytes.
pub const WINDOW: usize = 256 * 1024;

/// The size of a page of the guest's memory, and so of a piece of its window.
pub const PAGE: usize = 4096;

/// The sum that tells whether input has come through the window as it was.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The most data bytes in one message from the guest.
pub const OUTPUT: usize = 16 * 1024;

/// A longer frame is rubbish.
const LONGEST: usize = 64 * 1024;

/// To the guest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Are you there? The time is the one outside, since the guest's own
    /// stood still while its state was a file.
    Hello {
        /// Comes back in the answer: an old answer is no answer.
        nonce: u64,
        /// Since the epoch.
        time: Duration,
    },
    /// A piece of a [`Request`]. Answered by [`FromGuest::Taken`].
    Part(Vec<u8>),
    /// The last piece, or all of it: start it.
    Run {
        /// The piece.
        part: Vec<u8>,
        /// Whether there is any input; else standard input is `/dev/null`.
        input: bool,
    },
    /// For COMMAND's standard input; empty means its end. Answered by
    /// [`FromGuest::Taken`] when COMMAND has room for more.
    Input(Vec<u8>),
    /// The same, but the bytes are in the guest's window already, so many of
    /// them.
    Window {
        /// At most [`WINDOW`].
        length: u32,
        /// Of the bytes (CRC-32).
        sum: u32,
    },
    /// COMMAND's terminal has another size now: rows, columns.
    Resize(u16, u16),
}

/// From the guest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum FromGuest {
    /// The machine has booted. Its state may be saved now. The numbers of the
    /// page frames of its window follow, in their order.
    Ready(Vec<u64>),
    /// The machine cannot be made what it promises to be.
    Unfit(String),
    /// The answer to [`ToGuest::Hello`].
    Hello(u64),
    /// The next [`ToGuest::Part`] or [`ToGuest::Input`] may come.
    Taken,
    /// What COMMAND wrote to standard output, or to its terminal.
    Out(#[serde(with = "shorter")] Vec<u8>),
    /// What COMMAND wrote to standard error.
    Err(#[serde(with = "shorter")] Vec<u8>),
    /// The verdict: COMMAND has ended.
    End(End),
}

/// Data is compressed (LZ4) where that makes it shorter: it takes less time
/// than the serial port does.
mod shorter {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::OUTPUT;

    const FEW: usize = 4096;

    pub fn serialize<S>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        // The port is quicker than the first steps of a compression where
        // the guest's instructions are computed, if the bytes are few.
        if bytes.len() >= FEW {
            let packed = lz4_flex::block::compress(bytes);
            if packed.len() < bytes.len() {
                return (true, packed).serialize(to);
            }
        }
        (false, bytes).serialize(to)
    }

    pub fn deserialize<'de, D>(from: D) -> Result<Vec<u8>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let (packed, bytes) = <(bool, Vec<u8>)>::deserialize(from)?;
        match packed {
            true => lz4_flex::block::decompress(&bytes, OUTPUT)
                .map_err(D::Error::custom),
            false => Ok(bytes),
        }
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// COMMAND and its arguments, as bytes.
    pub argv: Vec<Vec<u8>>,
    /// Who runs it.
    pub user: User,
    /// Where; a directory that is missing is made.
    pub dir: Option<Vec<u8>>,
    /// With a terminal of so many rows and columns, of this `$TERM`.
    pub terminal: Option<(u16, u16, String)>,
}

/// Who runs a command in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// uid 0.
    Root,
    /// uid 1000, without any privilege.
    Reader,
}

/// How a command ended. That it ended is certain: the guest has said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It never began: execve(2) failed with this error number.
    NotStarted(i32),
}

impl End {
    /// The status that a shell would give it.
    pub fn status(self) -> u8 {
        match self {
            End::Exited(status) => status,
            // The guest may say any number.
            End::Killed(signal) => 128_u8.saturating_add(signal),
            End::NotStarted(libc::ENOENT) => 127,
            End::NotStarted(_) => 126,
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(if *self == User::Root { "root" } else { "reader" })
    }
}

/// A message as it goes over the wire.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // A frame begins with a zero as well: it ends what came before, be it
    // half a frame or what the line made of a restored machine.
    let mut frame = vec![0];
    frame.extend(
        postcard::to_stdvec_cobs(message).expect("a message is plain data"),
    );
    frame
}

/// Takes bytes as they come, gives messages.
#[derive(Debug, Default)]
pub struct Decoder {
    frame: Vec<u8>,
    rubbish: bool,
}

impl Decoder {
    /// Whether a frame has begun that has not ended.
    pub fn inside(&self) -> bool {
        self.rubbish || !self.frame.is_empty()
    }

    /// One byte more. `Some` when a frame is complete: a message, or `Err`
    /// for what is none.
    pub fn push<T: DeserializeOwned>(
        &mut self,
        byte: u8,
    ) -> Option<Result<T, Rubbish>> {
        if byte != 0 {
            self.rubbish |= self.frame.len() == LONGEST;
            if !self.rubbish {
                self.frame.push(byte);
            }
            return None;
        }
        let mut frame = std::mem::take(&mut self.frame);
        if std::mem::take(&mut self.rubbish) {
            return Some(Err(Rubbish));
        }
        if frame.is_empty() {
            return None;
        }
        Some(postcard::from_bytes_cobs(&mut frame).map_err(|_| Rubbish))
    }
}

/// A frame that is no message.
#[derive(Debug, PartialEq, Eq)]
pub struct Rubbish;

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use proptest::prelude::*;

    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Result<FromGuest, Rubbish>> {
        let mut decoder = Decoder::default();
        bytes.iter().filter_map(|byte| decoder.push(*byte)).collect()
    }

    proptest! {
        #[test]
        fn what_is_said_is_heard(
            chunks in prop::collection::vec(
                prop::collection::vec(any::<u8>(), 0..CHUNK), 0..8),
        ) {
            let said: Vec<_> = chunks.into_iter().map(FromGuest::Out).collect();
            let bytes: Vec<u8> = said.iter().flat_map(encode).collect();
            let heard: Result<Vec<_>, _> = decode(&bytes).into_iter().collect();
            prop_assert_eq!(heard, Ok(said));
        }

        #[test]
        fn after_any_rubbish_the_next_message_is_heard(
            rubbish in prop::collection::vec(any::<u8>(), 0..3 * CHUNK),
        ) {
            let mut bytes = rubbish;
            bytes.extend(encode(&FromGuest::Taken));
            let heard = decode(&bytes);
            prop_assert_eq!(heard.last(), Some(&Ok(FromGuest::Taken)));
        }

        #[test]
        fn half_a_message_is_never_another_one(cut in 2..40usize) {
            let whole = encode(&FromGuest::Out(vec![7; 40]));
            let mut bytes = whole[..cut].to_vec();
            bytes.push(0);
            prop_assert!(decode(&bytes).iter().all(Result::is_err));
        }
    }

    #[test]
    fn long_output_is_shorter_on_the_wire_and_comes_back_whole() {
        let hasher = BuildHasherDefault::<DefaultHasher>::new();
        let noise = (0..OUTPUT).map(|n| hasher.hash_one(n) as u8).collect();
        for (bytes, length) in [
            (vec![7; OUTPUT], 0..OUTPUT / 100),
            (b"text ".repeat(OUTPUT / 5), 0..OUTPUT / 100),
            (noise, OUTPUT..OUTPUT + OUTPUT / 100),
        ] {
            let said = FromGuest::Err(bytes);
            let sent = encode(&said);
            assert!(length.contains(&sent.len()), "{}", sent.len());
            assert_eq!(decode(&sent), [Ok(said)]);
        }
        // What would be longer than any output is none.
        let sent = encode(&FromGuest::Out(vec![7; OUTPUT + 1]));
        assert_eq!(decode(&sent), [Err(Rubbish)]);
    }

    #[test]
    fn endless_frame_takes_no_endless_memory() {
        let mut decoder = Decoder::default();
        for _ in 0..3 * LONGEST {
            assert_eq!(decoder.push::<FromGuest>(1), None);
            assert!(decoder.frame.len() <= LONGEST);
        }
        assert_eq!(decoder.push::<FromGuest>(0), Some(Err(Rubbish)));
        for byte in encode(&FromGuest::Ready(vec![])) {
            if let Some(message) = decoder.push::<FromGuest>(byte) {
                assert_eq!(message, Ok(FromGuest::Ready(vec![])));
            }
        }
    }
}
