//! The messages between the harness and the guest's PID 1 on the second serial
//! port. Each is one [COBS] frame of [postcard] bytes, ended by a zero byte. A
//! receiver that starts late or loses a byte is in sync again after the next
//! zero.
//!
//! [COBS]: https://doi.org/10.1109/90.769765
//! [postcard]: https://postcard.jamesmunns.com/wire-format

use std::ffi::CString;
use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The most data bytes in one message to the guest, so that its UART (16 bytes)
/// and the terminal's buffer behind that (4096 bytes) never overflow.
pub const CHUNK: usize = 1024;

/// The size of the guest's window: a part of its memory into which the harness
/// writes input. The port would take a hundred times longer, with an interrupt
/// for each 14 bytes.
pub const WINDOW: usize = 256 * 1024;

/// The size of a page of the guest's memory, and so of a part of its window.
pub const PAGE: usize = 4096;

/// The checksum of input that goes through the window.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The most data bytes in one message from the guest.
pub const OUTPUT: usize = 16 * 1024;

/// The longest frame that is accepted.
const LONGEST: usize = 64 * 1024;

/// A message to the guest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum ToGuest {
    /// Asks for an answer, and sets the guest's clock, which was stopped while
    /// the machine was saved, to so many nanoseconds since the epoch.
    Hello(u64),
    /// A piece of a [`Request`]. Answered by [`FromGuest::Taken`].
    Part(Vec<u8>),
    /// The last piece, after which the guest starts COMMAND.
    Run {
        part: Vec<u8>,
        /// Whether there is any input. If not, standard input is `/dev/null`.
        input: bool,
    },
    /// For COMMAND's standard input; empty means EOF. Answered by
    /// [`FromGuest::Taken`] when COMMAND has room for more.
    Input(Vec<u8>),
    /// The same, but the bytes are in the guest's window already.
    Window {
        /// How many bytes: at most [`WINDOW`].
        length: u32,
        /// Their checksum (CRC-32).
        sum: u32,
    },
    /// The new size of COMMAND's terminal: rows, columns.
    Resize(u16, u16),
    /// The next input is no COMMAND's: it is an archive of files, to be
    /// unpacked. Answered by [`FromGuest::Unpacked`] when its end was read.
    Unpack,
}

/// A message from the guest.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum FromGuest {
    /// The machine has booted, and its state may be saved now. It has its
    /// window in these page frames, in order.
    Ready(Vec<u64>),
    /// The machine could not be set up, for this reason.
    Unfit(String),
    /// The answer to [`ToGuest::Hello`].
    Hello,
    /// The next [`ToGuest::Part`] or [`ToGuest::Input`] may come.
    Taken,
    /// What COMMAND wrote to standard output, or to its terminal.
    Out(Data),
    /// What COMMAND wrote to standard error.
    Err(Data),
    /// The verdict: COMMAND has ended.
    End(End),
    /// The archive is unpacked, or could not be, for this reason.
    Unpacked(Result<(), String>),
}

/// Output. It is compressed (LZ4) if that makes it shorter: compression takes
/// less time than the serial port. Measured under TCG, in seconds of the
/// processor: `seq 400000` takes 2.2 instead of 3.0, 10 MB of zeros 0.4 instead
/// of 11.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Data {
    Plain(Vec<u8>),
    Packed(Vec<u8>),
}

impl Data {
    /// At most [`OUTPUT`] bytes.
    pub fn new(bytes: &[u8]) -> Data {
        // Under TCG the port sends a few bytes in less time than compression
        // takes to begin.
        if bytes.len() >= 4096 {
            let packed = lz4_flex::block::compress(bytes);
            if packed.len() < bytes.len() {
                return Data::Packed(packed);
            }
        }
        Data::Plain(bytes.to_vec())
    }

    pub fn bytes(self) -> Result<Vec<u8>, Rubbish> {
        match self {
            Data::Plain(bytes) => Ok(bytes),
            Data::Packed(bytes) => {
                lz4_flex::block::decompress(&bytes, OUTPUT).map_err(|_| Rubbish)
            }
        }
    }
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// COMMAND and its arguments.
    pub argv: Vec<CString>,
    /// Who runs it.
    pub user: User,
    /// The working directory, which is made if it is missing.
    pub dir: Option<Vec<u8>>,
    /// The terminal's rows, columns and `$TERM`, if there is to be one.
    pub terminal: Option<(u16, u16, String)>,
    /// Which of the standard streams are closed for it.
    pub closed: [bool; 3],
}

/// Who runs a command in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum User {
    /// uid 0.
    Root,
    /// uid 1000, without any privilege.
    Reader,
}

/// How a command ended, as the guest reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited with this status.
    Exited(u8),
    /// It was killed by this signal.
    Killed(u8),
    /// It did not start: execve(2) failed with this error number.
    NotStarted(i32),
}

impl End {
    /// The status as a shell reports it.
    pub fn status(self) -> u8 {
        match self {
            End::Exited(status) => status,
            // The guest may send any number.
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
    // A zero also comes before the frame. It ends what was sent before: half a
    // frame, or noise on the line of a restored machine.
    let mut frame = vec![0];
    frame.extend(
        postcard::to_stdvec_cobs(message).expect("a message is plain data"),
    );
    frame
}

/// Decodes messages.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A frame that has begun and has not ended.
    frame: Vec<u8>,
}

impl Decoder {
    /// Whether a frame has begun that has not ended.
    pub fn inside(&self) -> bool {
        !self.frame.is_empty()
    }

    /// Takes more bytes. Returns what the frames are that they complete.
    pub fn push<T: DeserializeOwned>(
        &mut self,
        bytes: &[u8],
    ) -> Vec<Result<T, Rubbish>> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == 0) {
            self.frame.extend_from_slice(part);
            // What is longer is no message.
            self.frame.truncate(LONGEST + 1);
            if part.ends_with(&[0]) {
                let mut frame = std::mem::take(&mut self.frame);
                match frame.len() {
                    1 => {} // Between two frames there are two zeros.
                    ..=LONGEST => messages.push(
                        postcard::from_bytes_cobs(&mut frame)
                            .map_err(|_| Rubbish),
                    ),
                    _ => messages.push(Err(Rubbish)),
                }
            }
        }
        messages
    }
}

/// A frame that is no message.
#[derive(Debug, PartialEq, Eq)]
pub struct Rubbish;

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Vec<Result<FromGuest, Rubbish>> {
        Decoder::default().push(bytes)
    }

    /// Bytes in which each value occurs, also the zero that ends a frame.
    fn noise(length: usize) -> Vec<u8> {
        let next = |number: &u32| Some(number.wrapping_mul(0x915f_77f5) + 1);
        let numbers = std::iter::successors(Some(length as u32), next);
        numbers.take(length).map(|number| (number >> 24) as u8).collect()
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let lengths = [0, 1, 253, 254, 255, 256, CHUNK, OUTPUT];
        let mut sent: Vec<_> =
            lengths.map(|it| FromGuest::Out(Data::new(&noise(it)))).into();
        let same = [0, 255].map(|byte| Data::new(&[byte; OUTPUT]));
        sent.extend(same.map(FromGuest::Err));
        let bytes: Vec<u8> = sent.iter().flat_map(encode).collect();
        let received: Result<Vec<_>, _> = decode(&bytes).into_iter().collect();
        assert_eq!(received, Ok(sent));
    }

    #[test]
    fn after_any_rubbish_the_next_message_arrives() {
        for length in 0..3 * CHUNK {
            let mut bytes = noise(length);
            bytes.extend(encode(&FromGuest::Taken));
            let received = decode(&bytes);
            assert_eq!(received.last(), Some(&Ok(FromGuest::Taken)));
        }
    }

    #[test]
    fn part_of_a_message_is_never_a_message() {
        let message = encode(&FromGuest::Out(Data::new(&[7; 40])));
        for cut in 2..40 {
            let mut bytes = message[..cut].to_vec();
            bytes.push(0);
            assert!(decode(&bytes).iter().all(Result::is_err), "{cut}");
        }
    }

    #[test]
    fn long_output_is_shorter_on_the_wire_and_comes_back_unchanged() {
        for (bytes, length) in [
            (vec![7; OUTPUT], 0..OUTPUT / 100),
            (b"text ".repeat(OUTPUT / 5), 0..OUTPUT / 100),
            (noise(OUTPUT), OUTPUT..OUTPUT + OUTPUT / 100),
        ] {
            let data = Data::new(&bytes);
            let sent = encode(&data);
            assert!(length.contains(&sent.len()), "{}", sent.len());
            assert_eq!(data.bytes(), Ok(bytes));
        }
        // Output that would be longer than the limit is refused.
        let long = Data::new(&[7; OUTPUT + 1]);
        assert_eq!(long.bytes(), Err(Rubbish));
    }

    #[test]
    fn frame_without_end_takes_limited_memory() {
        let mut decoder = Decoder::default();
        for _ in 0..LONGEST {
            assert_eq!(decoder.push::<FromGuest>(&[1; 3]), []);
            assert!(decoder.frame.len() <= LONGEST + 1);
        }
        let mut bytes = vec![0];
        bytes.extend(encode(&FromGuest::Taken));
        let received = decoder.push(&bytes);
        assert_eq!(received, [Err(Rubbish), Ok(FromGuest::Taken)]);
    }

    #[test]
    fn message_arrives_byte_by_byte() {
        let mut decoder = Decoder::default();
        let bytes = encode(&FromGuest::Taken);
        let received = bytes.iter().flat_map(|byte| decoder.push(&[*byte]));
        assert_eq!(received.collect::<Vec<_>>(), [Ok(FromGuest::Taken)]);
        assert!(!decoder.inside());
    }
}
