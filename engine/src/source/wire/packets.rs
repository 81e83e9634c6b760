//! Packets of the client/server protocol: bytes from the server in, whole payloads out, read in place.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>

use std::ops::Range;

/// A packet of this many bytes is followed by another one of the same payload.
const PACKET_BYTES_MAX: usize = 0xff_ffff;
const HEADER_LEN: usize = 4;
/// Room for a read.
const READ_BYTES: usize = 256 << 10;
/// No payload is larger: the server's limit is 1 GiB.
const PAYLOAD_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// Bytes that were received and not yet used.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// A whole payload, in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// Where it is: for [`ReadBuffer::get`].
    range: Range<usize>,
    /// The number of its last packet.
    pub sequence: u8,
    /// Where the next packet begins.
    next: usize,
}

/// A payload larger than any server sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sends more than 1 GiB in one packet")]
pub(super) struct TooLarge;

impl ReadBuffer {
    /// Where the next read goes. Bytes that were used are overwritten.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // One huge row doesn't keep its room for ever.
            if self.bytes.len() > 16 * READ_BYTES {
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() - self.end < READ_BYTES / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            // What is waited for may be large: the room doubles with it.
            let len = self.bytes.len().max((self.end * 2).next_multiple_of(READ_BYTES)).max(READ_BYTES);
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were read into [`ReadBuffer::room`].
    pub fn filled(&mut self, len: usize) {
        self.end += len;
    }

    /// The next payload, if all of it is there. It stays the next one until [`ReadBuffer::take`].
    pub fn payload(&mut self) -> Result<Option<Payload>, TooLarge> {
        let header = |at: usize| {
            let header = self.bytes[at..self.end].first_chunk::<HEADER_LEN>()?;
            Some((usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16, header[3]))
        };
        let first = self.start;
        let mut at = first;
        let mut payload_len = 0;
        loop {
            let Some((len, sequence)) = header(at) else { return Ok(None) };
            payload_len += len;
            if payload_len > PAYLOAD_BYTES_MAX {
                return Err(TooLarge);
            }
            at += HEADER_LEN + len;
            if at > self.end {
                return Ok(None);
            }
            if len < PACKET_BYTES_MAX {
                self.join(first, payload_len);
                let begin = first + HEADER_LEN;
                return Ok(Some(Payload { range: begin..begin + payload_len, sequence, next: at }));
            }
        }
    }

    /// Moves the parts of a payload together, over the headers between them.
    fn join(&mut self, first: usize, payload_len: usize) {
        let begin = first + HEADER_LEN;
        let mut joined = PACKET_BYTES_MAX;
        let mut part = begin + PACKET_BYTES_MAX + HEADER_LEN;
        while joined < payload_len {
            let len = PACKET_BYTES_MAX.min(payload_len - joined);
            self.bytes.copy_within(part..part + len, begin + joined);
            joined += len;
            part += len + HEADER_LEN;
        }
    }

    /// A payload's bytes.
    pub fn get(&self, payload: &Payload) -> &[u8] {
        &self.bytes[payload.range.clone()]
    }

    /// A payload was used.
    pub fn take(&mut self, payload: &Payload) {
        self.start = payload.next;
    }
}

/// Frames a payload as packets, the first of which has the number `sequence`.
pub(super) fn framed(payload: &[u8], sequence: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + HEADER_LEN);
    let mut sequence = sequence;
    let mut chunks = payload.chunks(PACKET_BYTES_MAX).peekable();
    loop {
        let chunk = chunks.next().unwrap_or_default();
        out.extend_from_slice(&(chunk.len() as u32).to_le_bytes()[..3]);
        out.push(sequence);
        out.extend_from_slice(chunk);
        sequence = sequence.wrapping_add(1);
        if chunk.len() < PACKET_BYTES_MAX {
            return out;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Payloads of these sizes, received in pieces of `step` bytes.
    fn received(sizes: &[usize], step: usize) -> Vec<usize> {
        let payload = |size: usize| (0..size).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
        let stream: Vec<u8> = sizes.iter().flat_map(|size| framed(&payload(*size), 7)).collect();
        let mut buffer = ReadBuffer::default();
        let mut got = Vec::new();
        let mut rest = &stream[..];
        loop {
            while let Some(next) = buffer.payload().expect("small enough") {
                let bytes = buffer.get(&next);
                assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
                got.push(bytes.len());
                buffer.take(&next);
            }
            if rest.is_empty() {
                return got;
            }
            let room = buffer.room();
            let len = room.len().min(step).min(rest.len());
            room[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            buffer.filled(len);
        }
    }

    #[test]
    fn payloads_come_whole_whatever_the_reads() {
        for step in [1, 7, 1000, usize::MAX] {
            assert_eq!(received(&[0, 1, 100, 5000, 0, 3], step), [0, 1, 100, 5000, 0, 3]);
        }
        let large = [PACKET_BYTES_MAX - 1, PACKET_BYTES_MAX, PACKET_BYTES_MAX + 1, 2 * PACKET_BYTES_MAX, 10];
        assert_eq!(received(&large, 1 << 20), large);
    }
}
