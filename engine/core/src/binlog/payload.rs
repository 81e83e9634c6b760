//! Compressed transactions (`binlog_transaction_compression`): one event that contains the others, which are decompressed
//! one by one. Memory is bounded by the largest inner event, not by the transaction.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Transaction__payload__event.html>

use zstd::stream::raw::{Decoder, Operation};

use super::bytes::Bytes;
use super::error::DecodeErrorKind;
use super::event::EventHeader;

/// The largest size of an event: the server's limit for packets (1 GiB), and space for the framing.
const EVENT_BYTES_MAX: usize = (1 << 30) + (1 << 20);
/// The most bytes that are decompressed in one step.
const STEP_BYTES: usize = 64 << 10;

const DAMAGED: DecodeErrorKind = DecodeErrorKind::Malformed("a compressed transaction");

/// The state of a payload's decompression. The caller keeps the compressed bytes, and passes them to each call.
pub(super) struct Payload {
    compression: Compression,
    /// The offset in the event's body of the compressed bytes that were not read yet.
    read: usize,
    /// The number of decompressed bytes still expected: more would be a decompression bomb, fewer would be damage.
    left: u64,
    /// Decompressed bytes; those before `taken` belong to events that are done.
    buffer: Vec<u8>,
    taken: usize,
    /// The decompressed bytes of all events that are done.
    offset: u64,
}

enum Compression {
    Zstd(Box<Decoder<'static>>),
    None,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload").field("read", &self.read).field("left", &self.left).finish_non_exhaustive()
    }
}

impl Payload {
    /// Parses the fields before the compressed bytes.
    pub fn begin(body: &[u8]) -> Result<Self, DecodeErrorKind> {
        const END: u64 = 0;
        const PAYLOAD_SIZE: u64 = 1;
        const COMPRESSION_TYPE: u64 = 2;
        const UNCOMPRESSED_SIZE: u64 = 3;
        const ZSTD: u64 = 0;
        const NONE: u64 = 255;

        let mut bytes = Bytes(body);
        let (mut compressed, mut compression, mut uncompressed) = (None, NONE, None);
        loop {
            let field = bytes.lenenc()?;
            if field == END {
                break;
            }
            let mut value = Bytes(bytes.lenenc_bytes()?);
            match field {
                PAYLOAD_SIZE => compressed = Some(value.lenenc_usize()?),
                COMPRESSION_TYPE => compression = value.lenenc()?,
                UNCOMPRESSED_SIZE => uncompressed = Some(value.lenenc()?),
                _ => {}
            }
        }
        if compressed.is_some_and(|size| size != bytes.0.len()) {
            return Err(DAMAGED);
        }
        let compression = match compression {
            ZSTD => Compression::Zstd(Box::new(
                Decoder::new().map_err(|_| DecodeErrorKind::Malformed("no memory for zstd"))?,
            )),
            NONE => Compression::None,
            _ => {
                return Err(DecodeErrorKind::Unsupported {
                    what: "a transaction with an unknown compression algorithm".to_owned(),
                    fix: "run `SET PERSIST binlog_transaction_compression = OFF` and start from a position after it",
                });
            }
        };
        let read = body.len() - bytes.0.len();
        let left = uncompressed.unwrap_or(bytes.0.len() as u64);
        Ok(Self { compression, read, left, buffer: Vec::new(), taken: 0, offset: 0 })
    }

    /// Returns the header and the body of the next event in the payload; `None` after the last one.
    ///
    /// The event stays the next one until [`Payload::take`]. `body` is the same as for [`Payload::begin`].
    pub fn event(&mut self, body: &[u8]) -> Result<Option<(EventHeader, &[u8])>, DecodeErrorKind> {
        if !self.fill(body, EventHeader::LEN)? {
            let rest = self.buffer.len() - self.taken;
            return if rest == 0 && self.left == 0 { Ok(None) } else { Err(DAMAGED) };
        }
        let header = EventHeader::parse(&self.buffer[self.taken..])?;
        let size = header.size as usize;
        if !(EventHeader::LEN..=EVENT_BYTES_MAX).contains(&size) || !self.fill(body, size)? {
            return Err(DAMAGED);
        }
        // Events in a payload have no checksum of their own.
        let body = &self.buffer[self.taken + EventHeader::LEN..self.taken + size];
        Ok(Some((header, body)))
    }

    /// Returns the next event's offset in the decompressed payload.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves past the event that [`Payload::event`] returned.
    pub fn take(&mut self) {
        let header = EventHeader::parse(&self.buffer[self.taken..]);
        let size = header.map_or(0, |header| header.size as usize);
        self.taken += size;
        self.offset += size as u64;
    }

    /// Decompresses until `len` bytes are available. Returns false if the payload ends before.
    fn fill(&mut self, body: &[u8], len: usize) -> Result<bool, DecodeErrorKind> {
        while self.buffer.len() - self.taken < len {
            if self.left == 0 {
                return Ok(false);
            }
            self.buffer.drain(..self.taken);
            self.taken = 0;
            let at = self.buffer.len();
            let step = usize::try_from(self.left).unwrap_or(usize::MAX).min(STEP_BYTES);
            self.buffer.resize(at + step, 0);
            let input = body.get(self.read..).ok_or(DAMAGED)?;
            let (read, written) = match &mut self.compression {
                Compression::Zstd(decoder) => {
                    let status = decoder.run_on_buffers(input, &mut self.buffer[at..]).map_err(|_| DAMAGED)?;
                    (status.bytes_read, status.bytes_written)
                }
                Compression::None => {
                    let copied = step.min(input.len());
                    self.buffer[at..at + copied].copy_from_slice(&input[..copied]);
                    (copied, copied)
                }
            };
            self.buffer.truncate(at + written);
            self.read += read;
            self.left -= written as u64;
            if read == 0 && written == 0 {
                return Err(DAMAGED);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of `size` bytes whose body repeats `byte`.
    fn inner(byte: u8, size: u32) -> Vec<u8> {
        let mut event = vec![0, 0, 0, 0, 2, 1, 0, 0, 0];
        event.extend(size.to_le_bytes());
        event.resize(size as usize, byte);
        event[13..19].fill(0);
        event
    }

    fn lenenc(number: usize) -> Vec<u8> {
        let mut bytes = vec![0xfe];
        bytes.extend((number as u64).to_le_bytes());
        bytes
    }

    fn payload(compression: u64, packed: &[u8], unpacked: usize) -> Vec<u8> {
        let mut body = Vec::new();
        for (field, value) in [(1, packed.len()), (2, compression as usize), (3, unpacked)] {
            body.push(field);
            body.push(9);
            body.extend(lenenc(value));
        }
        body.push(0);
        body.extend_from_slice(packed);
        body
    }

    fn sizes(body: &[u8]) -> Result<Vec<(usize, u8)>, DecodeErrorKind> {
        let mut payload = Payload::begin(body)?;
        let mut sizes = Vec::new();
        while let Some((_, event)) = payload.event(body)? {
            sizes.push((event.len(), event.first().copied().unwrap_or_default()));
            payload.take();
        }
        Ok(sizes)
    }

    #[test]
    fn events_come_one_by_one() {
        let events: Vec<u8> = [inner(1, 19), inner(2, 500), inner(3, 300_000), inner(4, 20)].concat();
        let expected = vec![(0, 0), (481, 2), (299_981, 3), (1, 4)];
        let packed = zstd::encode_all(&events[..], 3).expect("packed");
        assert_eq!(sizes(&payload(0, &packed, events.len())), Ok(expected.clone()));
        assert_eq!(sizes(&payload(255, &events, events.len())), Ok(expected));
    }

    #[test]
    fn bombs_and_damage_are_refused() {
        let events = [inner(1, 500), inner(2, 500)].concat();
        let packed = zstd::encode_all(&events[..], 3).expect("packed");
        assert_eq!(sizes(&payload(0, &packed, 500)), Ok(vec![(481, 1)]), "no more than announced is decompressed");
        assert_eq!(sizes(&payload(0, &packed, 700)), Err(DAMAGED));
        assert_eq!(sizes(&payload(0, &packed, 5_000)), Err(DAMAGED));
        assert_eq!(sizes(&payload(0, &packed[..packed.len() / 2], events.len())), Err(DAMAGED));
        assert_eq!(sizes(&payload(255, &inner(1, 500)[..300], 300)), Err(DAMAGED));
        assert!(sizes(&payload(9, &events, events.len())).is_err());
        // For a header that claims a gigabyte, only the bytes that exist are allocated.
        let mut claims = inner(1, 19);
        claims[9..13].copy_from_slice(&(1u32 << 30).to_le_bytes());
        assert_eq!(sizes(&payload(255, &claims, 19)), Err(DAMAGED));
    }
}
