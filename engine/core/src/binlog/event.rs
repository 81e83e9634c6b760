//! An event's frame: the header with which each event of binlog version 4 begins, and the checksum with which it may
//! end.

use std::ops::Range;

use super::bytes::Bytes;
use super::error::DecodeErrorKind;
use super::event_kind::EventKind;

/// An event's header: its first 19 bytes.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHeader {
    /// When the statement began, in seconds since 1970.
    pub timestamp_s: u32,
    /// The event's type.
    pub kind: EventKind,
    /// The ID of the server that first logged the event.
    pub server_id: u32,
    /// The size of the event with header, body and checksum, in bytes.
    pub size: u32,
    /// The low 32 bits of the next event's position; 0 in events that aren't in the file, and within MariaDB's
    /// transactions.
    pub log_pos: u32,
    /// Flags: see [`EventHeader::is_artificial`] and [`EventHeader::is_ignorable`].
    pub flags: u16,
}

impl EventHeader {
    /// The length of a header, in bytes.
    pub const LEN: usize = 19;

    /// Reads the header that an event begins with.
    ///
    /// # Errors
    /// If there are fewer bytes than a header has.
    #[inline]
    pub fn parse(event: &[u8]) -> Result<Self, DecodeErrorKind> {
        let Some(header) = event.first_chunk::<{ Self::LEN }>() else { return Err(DecodeErrorKind::Truncated) };
        let mut bytes = Bytes(header);
        Ok(Self {
            timestamp_s: bytes.u32()?,
            kind: EventKind(bytes.u8()?),
            server_id: bytes.u32()?,
            size: bytes.u32()?,
            log_pos: bytes.u32()?,
            flags: bytes.u16()?,
        })
    }

    /// Returns the end of the event after `offset`, at which the previous event ends.
    ///
    /// A file may be larger than the header's 32 bits can address, so the nearest position after `offset` counts.
    /// MariaDB omits positions within a transaction.
    #[inline]
    pub fn end_after(&self, offset: u64) -> u64 {
        if self.log_pos == 0 {
            return offset + u64::from(self.size);
        }
        let end = (offset & !0xffff_ffff) | u64::from(self.log_pos);
        if end < offset { end + (1 << 32) } else { end }
    }

    /// Returns the event's range in its file, in which the previous event ends at `offset`; `None` if the event isn't
    /// in the file, but made for the connection.
    pub fn span_after(&self, offset: u64) -> Option<Range<u64>> {
        let is_in_file = match self.kind {
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => false,
            EventKind::FORMAT_DESCRIPTION
            | EventKind::ROTATE
            | EventKind::MARIADB_GTID_LIST
            | EventKind::MARIADB_START_ENCRYPTION => self.log_pos != 0,
            _ => true,
        };
        if !is_in_file || self.is_artificial() {
            return None;
        }
        let end = self.end_after(offset);
        Some(if self.log_pos == 0 { offset..end } else { end.saturating_sub(u64::from(self.size))..end })
    }

    /// Whether the server made the event for this connection, so that it isn't in the file.
    pub fn is_artificial(&self) -> bool {
        self.flags & 0x20 != 0
    }

    /// Whether a reader that doesn't know the event's type may ignore the event.
    pub fn is_ignorable(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// Whether events end with a checksum, according to the format description at the head of each file.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    /// No format description was read yet.
    Unknown,
    None,
    Crc32,
}

const CRC32_LEN: usize = 4;

impl Checksums {
    /// Returns an event's body, between the header and the checksum, which is verified.
    #[inline(always)] // for the caller that reads most events; other callers are rare
    pub fn open<'a>(&mut self, header: &EventHeader, bytes: &'a [u8]) -> Result<&'a [u8], DecodeErrorKind> {
        if header.size as usize != bytes.len() {
            return Err(DecodeErrorKind::Malformed("an event's size"));
        }
        if header.kind == EventKind::FORMAT_DESCRIPTION {
            *self = Self::of_format_description(bytes)?;
        }
        // Not `ok_or`, which would build and drop an error for each event.
        let Some((covered, checksum)) = bytes.split_last_chunk::<CRC32_LEN>() else {
            return Err(DecodeErrorKind::Truncated);
        };
        let expected = u32::from_le_bytes(*checksum);
        let end = match self {
            Self::None => bytes.len(),
            // Before the format description the server sends an artificial rotation, with or without a checksum.
            Self::Unknown => {
                if libdeflater::crc32(covered) == expected {
                    covered.len()
                } else {
                    bytes.len()
                }
            }
            Self::Crc32 => {
                let found = checksum_of(header.kind, covered);
                if found != expected && !cfg!(fuzzing) {
                    return Err(DecodeErrorKind::Checksum { found, expected });
                }
                covered.len()
            }
        };
        let Some(body) = bytes.get(EventHeader::LEN..end) else { return Err(DecodeErrorKind::Truncated) };
        Ok(body)
    }

    /// Reads the checksum algorithm from a format description, which always ends with the algorithm's number and space
    /// for a checksum.
    fn of_format_description(bytes: &[u8]) -> Result<Self, DecodeErrorKind> {
        let algorithm =
            bytes.len().checked_sub(CRC32_LEN + 1).and_then(|at| bytes.get(at)).ok_or(DecodeErrorKind::Truncated)?;
        match algorithm {
            0 => Ok(Self::None),
            1 => Ok(Self::Crc32),
            _ => Err(DecodeErrorKind::Malformed("an unknown checksum algorithm; the server is too old or too new")),
        }
    }
}

#[inline]
fn checksum_of(kind: EventKind, covered: &[u8]) -> u32 {
    if kind == EventKind::FORMAT_DESCRIPTION { checksum_of_head(covered) } else { libdeflater::crc32(covered) }
}

/// Returns the checksum of a format description, which is computed without the flag that marks a file as being written.
#[cold]
fn checksum_of_head(covered: &[u8]) -> u32 {
    const FLAGS_AT: usize = 17;
    const IN_USE: u8 = 1;
    if covered.get(FLAGS_AT).is_none_or(|flags| flags & IN_USE == 0) {
        return libdeflater::crc32(covered);
    }
    let mut crc = libdeflater::Crc::new();
    crc.update(&covered[..FLAGS_AT]);
    crc.update(&[covered[FLAGS_AT] & !IN_USE]);
    crc.update(&covered[FLAGS_AT + 1..]);
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::super::writer::{BinlogWriter, Event, Server, Statement};
    use super::*;
    use crate::position::BinlogPosition;

    /// Returns a format description, and a statement.
    fn events(checksums: bool) -> (Vec<u8>, Vec<u8>) {
        let mut writer = BinlogWriter::new(Server::MySql, checksums, "binlog");
        writer.write(&Event::Query(Statement::new("FLUSH LOGS")));
        let dump = writer.dump(&BinlogPosition::new("binlog.000001", BinlogPosition::FIRST_EVENT));
        (dump[1].to_vec(), dump[3].to_vec())
    }

    fn open(checksums: &mut Checksums, event: &[u8]) -> Result<Vec<u8>, DecodeErrorKind> {
        checksums.open(&EventHeader::parse(event)?, event).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_header_is_read() {
        let (_, event) = events(true);
        let header = EventHeader::parse(&event).expect("a header");
        assert_eq!((header.kind, header.size as usize, header.server_id), (EventKind::QUERY, event.len(), 1));
        assert!(!header.is_artificial() && !header.is_ignorable());
        assert!(EventHeader { flags: 0x20, ..header }.is_artificial());
        assert!(EventHeader { flags: 0x80, ..header }.is_ignorable());
        assert_eq!(EventHeader::parse(&event[..18]), Err(DecodeErrorKind::Truncated));
    }

    #[test]
    fn a_files_head_says_whether_events_end_with_a_checksum() {
        for (checksums, expected) in [(true, Checksums::Crc32), (false, Checksums::None)] {
            let (description, event) = events(checksums);
            let mut state = Checksums::Unknown;
            open(&mut state, &description).expect("as it was written");
            assert_eq!(state, expected);
            let body = open(&mut state, &event).expect("as it was written");
            assert!(body.ends_with(b"FLUSH LOGS"));
        }
    }

    #[test]
    fn before_the_head_events_are_taken_with_and_without_a_checksum() {
        for checksums in [true, false] {
            let body = open(&mut Checksums::Unknown, &events(checksums).1).expect("as it was written");
            assert!(body.ends_with(b"FLUSH LOGS"));
        }
    }

    #[test]
    fn each_changed_byte_is_found() {
        let (description, event) = events(true);
        let mut state = Checksums::Unknown;
        open(&mut state, &description).expect("as it was written");
        for at in 0..event.len() {
            let mut changed = event.clone();
            changed[at] ^= 0x10;
            assert!(open(&mut state, &changed).is_err(), "byte {at}");
        }
        assert_eq!(open(&mut state, &event[..event.len() - 1]), Err(DecodeErrorKind::Malformed("an event's size")));
    }

    #[test]
    fn a_file_that_is_being_written_says_so_and_its_checksum_does_not() {
        const FLAGS_AT: usize = 17;
        let (mut description, _) = events(true);
        description[FLAGS_AT] |= 1;
        assert!(open(&mut Checksums::Unknown, &description).is_ok());
        description[FLAGS_AT] |= 2;
        assert!(matches!(open(&mut Checksums::Unknown, &description), Err(DecodeErrorKind::Checksum { .. })));
    }

    #[test]
    fn an_unknown_algorithm_is_refused() {
        let (mut description, _) = events(true);
        let at = description.len() - 5;
        description[at] = 9;
        assert!(matches!(open(&mut Checksums::Unknown, &description), Err(DecodeErrorKind::Malformed(_))));
    }
}
