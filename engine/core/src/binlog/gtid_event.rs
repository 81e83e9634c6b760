//! GTID events: the GTID of a transaction, and the GTID set at the head of a file.

use super::bytes::Bytes;
use super::error::DecodeErrorKind;
use super::event::EventHeader;
use super::event_kind::EventKind;
use crate::gtid::{Gtid, GtidSet, Interval, Source};

/// The beginning of a transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Begin {
    /// The transaction's GTID; `None` if the server assigns none.
    pub gtid: Option<Gtid>,
    /// When the transaction was committed on this server, in microseconds since 1970; 0 if the event doesn't say.
    pub commit_time_us: i64,
    /// Whether the transaction is a single statement without a commit event after it.
    pub standalone: bool,
    /// The ID of the XA transaction that is prepared at the transaction's end (MariaDB; MySQL logs an `XA START`).
    pub prepared_xa: Option<String>,
    /// Whether the statement that follows has no effect: the start of an `ALTER TABLE` that is logged in two parts
    /// (MariaDB), or its failure.
    pub is_void: bool,
}

/// Returns the beginning of a transaction; `None` for an event with which no transaction begins.
pub(super) fn begin(header: &EventHeader, body: &[u8]) -> Result<Option<Begin>, DecodeErrorKind> {
    match header.kind {
        EventKind::GTID => mysql(body, false).map(Some),
        EventKind::ANONYMOUS_GTID => mysql(body, true).map(Some),
        EventKind::GTID_TAGGED => mysql_tagged(body).map(Some),
        EventKind::MARIADB_GTID => mariadb(body, header.server_id).map(Some),
        _ => Ok(None),
    }
}

/// MySQL's commit times have 55 bits; the 56th says that another commit time follows.
const COMMIT_TIME_MASK: u64 = (1 << 55) - 1;

/// Reads a `GTID_LOG_EVENT` or `ANONYMOUS_GTID_LOG_EVENT`, which have a fixed layout.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Gtid__event.html>
pub(super) fn mysql(body: &[u8], anonymous: bool) -> Result<Begin, DecodeErrorKind> {
    let mut bytes = Bytes(body);
    bytes.u8()?; // flags
    let source = Source::new(bytes.array()?, "");
    let number = bytes.u64()?;
    // MySQL 5.7 and later: 17 bytes of logical clock; 8.0 and later: 7 bytes of commit time.
    let commit_time_us = bytes.take(17).and_then(|_| bytes.uint(7)).map_or(0, |time| time & COMMIT_TIME_MASK);
    let gtid = (!anonymous).then_some(Gtid::MySql { source, number });
    Ok(Begin { gtid, commit_time_us: commit_time_us as i64, ..Begin::default() })
}

/// Reads a `GTID_TAGGED_LOG_EVENT` (8.3 and later), in MySQL's serialization format: fields in ascending order of their
/// numbers, with numbers and values of variable length.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>
pub(super) fn mysql_tagged(body: &[u8]) -> Result<Begin, DecodeErrorKind> {
    const VERSION: u64 = 2;
    let mut bytes = Bytes(body);
    if u64::from(bytes.u8()?) != VERSION {
        return Err(DecodeErrorKind::Malformed(
            "a tagged GTID of an unknown version; the server is newer than this version of rowmill",
        ));
    }
    bytes.serialized_uint()?; // the size
    bytes.serialized_uint()?; // the last field that may not be ignored
    let (mut uuid, mut number, mut tag, mut commit_time_us) = (None, None, "", 0);
    while !bytes.is_empty() {
        match bytes.serialized_uint()? {
            0 => {
                bytes.serialized_uint()?; // flags
            }
            1 => {
                let mut bytes_of_uuid = [0; 16];
                for byte in &mut bytes_of_uuid {
                    *byte = u8::try_from(bytes.serialized_uint()?).map_err(|_| DecodeErrorKind::Malformed("a UUID"))?;
                }
                uuid = Some(bytes_of_uuid);
            }
            // A signed number: its lowest bit is the sign.
            2 => number = Some(bytes.serialized_uint()? >> 1),
            3 => {
                let len = bytes.serialized_uint()? as usize;
                tag = std::str::from_utf8(bytes.take(len)?).map_err(|_| DecodeErrorKind::Malformed("a GTID's tag"))?;
            }
            4 | 5 => {
                bytes.serialized_uint()?; // the logical clock
            }
            6 => {
                commit_time_us = bytes.serialized_uint()? & COMMIT_TIME_MASK;
                break; // no later field is needed
            }
            _ => break,
        }
    }
    let (Some(uuid), Some(number)) = (uuid, number) else { return Err(DecodeErrorKind::Malformed("a tagged GTID")) };
    let gtid = Gtid::MySql { source: Source::new(uuid, tag), number };
    Ok(Begin { gtid: Some(gtid), commit_time_us: commit_time_us as i64, ..Begin::default() })
}

/// Reads MariaDB's `GTID_EVENT`. <https://mariadb.com/kb/en/gtid_event/>
pub(super) fn mariadb(body: &[u8], server: u32) -> Result<Begin, DecodeErrorKind> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    // In the second byte of flags. With `binlog_alter_two_phase` a statement is logged when it begins, and again when
    // it is done (4) or has failed.
    const START_ALTER: u8 = 2;
    const ROLLBACK_ALTER: u8 = 8;
    let mut bytes = Bytes(body);
    let (sequence, domain, flags) = (bytes.u64()?, bytes.u32()?, bytes.u8()?);
    if flags & GROUP_COMMIT != 0 {
        bytes.u64()?;
    }
    let xa = if flags & (PREPARED_XA | COMPLETED_XA) != 0 { Some(xa_id(&mut bytes)?) } else { None };
    let prepared_xa = xa.filter(|_| flags & PREPARED_XA != 0);
    // Older servers write zeros here, or nothing.
    let more_flags = if bytes.is_empty() { 0 } else { bytes.u8()? };
    let is_void = more_flags & (START_ALTER | ROLLBACK_ALTER) != 0;
    let gtid = Some(Gtid::MariaDb { domain, server, sequence });
    Ok(Begin { gtid, standalone: flags & STANDALONE != 0, prepared_xa, is_void, ..Begin::default() })
}

/// Reads the ID of an XA transaction, in the notation that `XA COMMIT` has in the binlog.
fn xa_id(bytes: &mut Bytes<'_>) -> Result<String, DecodeErrorKind> {
    let (format, global, branch) = (bytes.u32()?, usize::from(bytes.u8()?), usize::from(bytes.u8()?));
    let mut quoted = |len| {
        let hex: String = bytes.take(len)?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok::<_, DecodeErrorKind>(format!("x'{hex}'"))
    };
    Ok(format!("{},{},{format}", quoted(global)?, quoted(branch)?))
}

/// Reads a `PREVIOUS_GTIDS_LOG_EVENT`: all transactions of earlier files.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Previous__gtids__event.html>
pub(super) fn previous_mysql(body: &[u8]) -> Result<GtidSet, DecodeErrorKind> {
    let mut bytes = Bytes(body);
    let header = bytes.u64()?;
    let tagged = header >> 56 != 0;
    let sources = if tagged { header >> 8 & ((1 << 48) - 1) } else { header & ((1 << 56) - 1) };
    let mut set = GtidSet::mysql();
    for _ in 0..sources {
        let uuid = bytes.array()?;
        let len = if tagged { bytes.serialized_uint()? as usize } else { 0 };
        let tag = std::str::from_utf8(bytes.take(len)?).map_err(|_| DecodeErrorKind::Malformed("a GTID's tag"))?;
        let source = Source::new(uuid, tag);
        for _ in 0..bytes.u64()? {
            // The end is exclusive.
            let (first, end) = (bytes.u64()?, bytes.u64()?);
            if first == 0 || end <= first {
                return Err(DecodeErrorKind::Malformed("an interval of GTIDs"));
            }
            set.add_interval(source.clone(), Interval { first, last: end - 1 });
        }
    }
    Ok(set)
}

/// Reads MariaDB's `GTID_LIST_EVENT`: the last transaction of each domain in earlier files; where several servers wrote
/// to a domain, one of each, the newest last. <https://mariadb.com/kb/en/gtid_list_event/>
pub(super) fn previous_mariadb(body: &[u8]) -> Result<GtidSet, DecodeErrorKind> {
    let mut bytes = Bytes(body);
    let count = bytes.u32()? & 0x0fff_ffff; // the highest four bits are flags
    let mut set = GtidSet::mariadb();
    for _ in 0..count {
        let (domain, server, sequence) = (bytes.u32()?, bytes.u32()?, bytes.u64()?);
        set.add(&Gtid::MariaDb { domain, server, sequence });
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: [u8; 16] =
        [0x3e, 0x11, 0xfa, 0x47, 0x71, 0xca, 0x11, 0xe1, 0x9e, 0x33, 0xc8, 0x0a, 0xa9, 0x42, 0x95, 0x62];

    /// Returns a number in MySQL's serialization format: as many low one bits as bytes follow the first.
    fn serialized(number: u64) -> Vec<u8> {
        let bits = 64 - number.leading_zeros() as usize;
        let len = (1..=8).find(|len| bits <= 7 * len).unwrap_or(9);
        if len == 9 {
            let mut bytes = vec![0xff];
            bytes.extend(number.to_le_bytes());
            return bytes;
        }
        let with_len = number << len | ((1 << (len - 1)) - 1);
        with_len.to_le_bytes()[..len].to_vec()
    }

    #[test]
    fn serialized_numbers() {
        for number in [0, 1, 127, 128, 16_383, 16_384, 1 << 40, (1 << 56) - 1, 1 << 56, u64::MAX] {
            let bytes = serialized(number);
            let mut cursor = Bytes(&bytes);
            assert_eq!((cursor.serialized_uint(), cursor.is_empty()), (Ok(number), true), "{number}");
            assert_eq!(Bytes(&bytes[..bytes.len() - 1]).serialized_uint(), Err(DecodeErrorKind::Truncated));
        }
    }

    #[test]
    fn a_tagged_transaction() {
        let mut fields = Vec::new();
        fields.extend([serialized(0), serialized(1), serialized(1)].concat());
        fields.extend(UUID.iter().flat_map(|byte| serialized(u64::from(*byte))));
        fields.extend([serialized(2), serialized(77 << 1)].concat());
        fields.extend([serialized(3), serialized(3), b"abc".to_vec()].concat());
        fields.extend([serialized(4), serialized(2), serialized(5), serialized(4)].concat());
        fields.extend([serialized(6), serialized(1_790_000_000_000_000), serialized(99)].concat());
        let body = [vec![2], serialized(500), serialized(12), fields].concat();
        let begin = mysql_tagged(&body).expect("a GTID");
        assert_eq!(begin.gtid.expect("a GTID").to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562:abc:77");
        assert_eq!(begin.commit_time_us, 1_790_000_000_000_000);
        assert!(mysql_tagged(&body[..20]).is_err());
        assert!(mysql_tagged(&[3, 0, 0]).is_err());
    }

    #[test]
    fn mariadbs_flags_follow_what_comes_before_them() {
        let head = |flags: u8| [&7u64.to_le_bytes()[..], &[3, 0, 0, 0], &[flags]].concat();
        let begin = |body: &[&[u8]]| mariadb(&body.concat(), 1).expect("a GTID");
        let (group, xid) = (9u64.to_le_bytes(), &[1, 0, 0, 0, 2, 1, b'x', b'1', b'y'][..]);
        // Events that MariaDB 10.11 and 11.8 wrote.
        let start = begin(&[&head(0x29), &[2, 0, 0, 0, 0, 0]]);
        assert!(start.standalone && start.is_void);
        assert!(begin(&[&head(0x29), &[0x12, 11, 0, 0, 0, 0]]).is_void);
        assert!(!begin(&[&head(0x29), &[0x14, 0x41, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0]]).is_void, "done");
        assert!(begin(&[&head(0x29), &[0x18, 0x4a, 0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0]]).is_void, "failed");
        assert!(begin(&[&head(0x2b), &group, &[2]]).is_void);
        assert!(!begin(&[&head(0x2b), &group]).is_void);
        assert!(!begin(&[&head(0xa8), xid, &[4, 2]]).is_void);
        assert!(begin(&[&head(0xa8), xid, &[2]]).is_void);
        assert_eq!(begin(&[&head(0xa8), xid]).prepared_xa, None);
        assert_eq!(begin(&[&head(0x48), xid]).prepared_xa.as_deref(), Some("x'7831',x'79',1"));
    }

    #[test]
    fn sets_before_a_file() {
        let interval = |first: u64, end: u64| [first.to_le_bytes(), end.to_le_bytes()].concat();
        let untagged = [&1u64.to_le_bytes()[..], &UUID, &2u64.to_le_bytes(), &interval(1, 6), &interval(8, 9)].concat();
        let set = previous_mysql(&untagged).expect("a set");
        assert_eq!(set.to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:8");
        let header = 1u64 << 56 | 1 << 8 | 1;
        let tagged =
            [&header.to_le_bytes()[..], &UUID, &serialized(1), b"t", &1u64.to_le_bytes(), &interval(1, 2)].concat();
        let set = previous_mysql(&tagged).expect("a set");
        assert_eq!(set.to_string(), "3e11fa47-71ca-11e1-9e33-c80aa9429562:t:1");
        assert!(previous_mysql(&tagged[..30]).is_err());
        for text in ["", "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:8,3e11fa47-71ca-11e1-9e33-c80aa9429562:a_tag:4"] {
            let set: GtidSet = text.parse().expect("a set");
            assert_eq!(previous_mysql(&set.encode()), Ok(set), "a set is sent as the head of a file has it");
        }

        let list = [
            &2u32.to_le_bytes()[..],
            &[0; 4],
            &1u32.to_le_bytes(),
            &9u64.to_le_bytes(),
            &[5, 0, 0, 0, 2, 0, 0, 0],
            &7u64.to_le_bytes(),
        ]
        .concat();
        assert_eq!(previous_mariadb(&list).expect("a set").to_string(), "0-1-9,5-2-7");
    }
}
