//! Packets of the client/server protocol: bytes from the server come in, whole payloads go out, read in place.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_packets.html>

/// A packet of this many bytes is followed by another packet of the same payload.
const PACKET_BYTES_MAX: usize = 0xff_ffff;
const HEADER_LEN: usize = 4;
/// The buffer's size is a multiple of this many bytes. For a larger payload the buffer doubles.
const READ_BYTES: usize = 256 << 10;
/// Maximum bytes of a payload: the server's limit is 1 GiB.
const PAYLOAD_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// A buffer of received bytes that are not yet used.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// The extent of the next payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Bytes of the payload, without packet headers.
    len: usize,
    /// Index of the byte after the payload.
    end: usize,
    /// Sequence number of the last packet.
    pub sequence: u8,
}

/// A payload larger than any server sends.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent a packet of more than 1 GiB")]
pub(super) struct TooLarge;

impl ReadBuffer {
    /// Returns the free part of the buffer for the next read. Used bytes are overwritten.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // Release the memory of one huge row.
            if self.bytes.len() > 16 * READ_BYTES {
                self.bytes = Vec::new();
            }
        }
        if self.bytes.len() - self.end < READ_BYTES / 4 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            // The payload may be large: double the buffer.
            let len = self.bytes.len().max((self.end * 2).next_multiple_of(READ_BYTES)).max(READ_BYTES);
            self.bytes.resize(len, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Adds `len` bytes that were read into [`ReadBuffer::room`].
    pub fn filled(&mut self, len: usize) {
        self.end += len;
    }

    /// Returns the extent of the next payload, or `None` until all of it is received.
    #[inline]
    pub fn extent(&self) -> Result<Option<Extent>, TooLarge> {
        let (mut end, mut payload_len) = (self.start, 0);
        loop {
            let Some(header) = self.bytes[end..self.end].first_chunk::<HEADER_LEN>() else { return Ok(None) };
            let len = usize::from(header[0]) | usize::from(header[1]) << 8 | usize::from(header[2]) << 16;
            payload_len += len;
            if payload_len > PAYLOAD_BYTES_MAX {
                return Err(TooLarge);
            }
            end += HEADER_LEN + len;
            if end > self.end {
                return Ok(None);
            }
            if len < PACKET_BYTES_MAX {
                return Ok(Some(Extent { len: payload_len, end, sequence: header[3] }));
            }
        }
    }

    /// Takes the next payload, which has this extent. The bytes stay valid until the next read.
    #[inline]
    pub fn take(&mut self, Extent { len, end, .. }: Extent) -> &[u8] {
        let begin = self.start + HEADER_LEN;
        if len >= PACKET_BYTES_MAX {
            self.join(begin, len);
        }
        self.start = end;
        &self.bytes[begin..begin + len]
    }

    /// Joins the parts of a payload, overwriting the headers between them.
    fn join(&mut self, begin: usize, payload_len: usize) {
        let mut joined = PACKET_BYTES_MAX;
        let mut part = begin + PACKET_BYTES_MAX + HEADER_LEN;
        while joined < payload_len {
            let len = PACKET_BYTES_MAX.min(payload_len - joined);
            self.bytes.copy_within(part..part + len, begin + joined);
            joined += len;
            part += len + HEADER_LEN;
        }
    }
}

/// Frames a payload as packets, the first with the sequence number `sequence`.
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
            while let Some(extent) = buffer.extent().expect("small enough") {
                let bytes = buffer.take(extent);
                assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8));
                got.push(bytes.len());
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
