//! The encoding of events.

use libdeflater::{CompressionLvl, Compressor};

use super::super::event::EventHeader;
use super::super::event_kind::EventKind;
use super::event::{
    Change, ColumnDefinition, ColumnType, Event, Rows, RowsLayout, Statement, TableDefinition, Value, XaId,
};
use crate::gtid::{Gtid, GtidSet, Newest};

/// The flag of an event that a reader may ignore if it doesn't know the event's type.
const IGNORABLE: u16 = 0x80;

/// The fields of an event's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub timestamp_s: u32,
    pub server_id: u32,
    pub kind: EventKind,
    pub flags: u16,
    pub log_pos: u32,
}

/// Returns an event's bytes.
pub(super) fn frame(header: Header, body: &[u8], checksum: bool) -> Vec<u8> {
    let size = EventHeader::LEN + body.len() + if checksum { 4 } else { 0 };
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(header.timestamp_s.to_le_bytes());
    bytes.push(header.kind.0);
    bytes.extend(header.server_id.to_le_bytes());
    bytes.extend((size as u32).to_le_bytes());
    bytes.extend(header.log_pos.to_le_bytes());
    bytes.extend(header.flags.to_le_bytes());
    bytes.extend(body);
    if checksum {
        bytes.extend(libdeflater::crc32(&bytes).to_le_bytes());
    }
    bytes
}

impl Event {
    /// Returns the event's type.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::PreviousGtids(_) => EventKind::PREVIOUS_GTIDS,
            Self::GtidList(_) => EventKind::MARIADB_GTID_LIST,
            Self::Gtid { gtid: None, .. } => EventKind::ANONYMOUS_GTID,
            Self::Gtid { gtid: Some(Gtid::MySql { source, .. }), .. } if source.tag.is_some() => EventKind::GTID_TAGGED,
            Self::Gtid { .. } => EventKind::GTID,
            Self::MariaDbGtid { .. } => EventKind::MARIADB_GTID,
            Self::Query(_) => EventKind::QUERY,
            Self::CompressedQuery(_) => EventKind::MARIADB_QUERY_COMPRESSED,
            Self::TableMap { .. } => EventKind::TABLE_MAP,
            Self::Rows(rows) => rows.kind(),
            Self::Xid(_) => EventKind::XID,
            Self::XaPrepare { .. } => EventKind::XA_PREPARE,
            Self::Rotate { .. } => EventKind::ROTATE,
            Self::Stop => EventKind::STOP,
            Self::Heartbeat { .. } => EventKind::HEARTBEAT,
            Self::RowsQuery(_) => EventKind::ROWS_QUERY,
            Self::AnnotateRows(_) => EventKind::MARIADB_ANNOTATE_ROWS,
            Self::BinlogCheckpoint(_) => EventKind::MARIADB_BINLOG_CHECKPOINT,
            Self::Payload { .. } => EventKind::TRANSACTION_PAYLOAD,
            Self::Incident(_) => EventKind::INCIDENT,
            Self::Other { kind, .. } => *kind,
        }
    }

    /// Returns the number of rows in the event.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Rows(rows) => rows.rows.len(),
            Self::Payload { events, .. } => events.iter().map(Self::rows).sum(),
            _ => 0,
        }
    }

    /// Returns the flags of the event's header.
    pub(super) fn flags(&self) -> u16 {
        match self {
            Self::PreviousGtids(_) | Self::RowsQuery(_) | Self::Other { ignorable: true, .. } => IGNORABLE,
            _ => 0,
        }
    }

    /// Returns the bytes after the header, without a checksum.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::PreviousGtids(set) => out = set.encode(),
            Self::GtidList(set) => {
                let GtidSet::MariaDb(domains) = set else { panic!("MySQL's GTIDs in a GTID list") };
                out.extend((domains.values().map(Vec::len).sum::<usize>() as u32).to_le_bytes());
                for (domain, Newest { server, sequence }) in
                    domains.iter().flat_map(|(domain, newest)| newest.iter().map(move |newest| (domain, newest)))
                {
                    out.extend(domain.to_le_bytes());
                    out.extend(server.to_le_bytes());
                    out.extend(sequence.to_le_bytes());
                }
            }
            Self::Gtid { gtid, commit_time_us } => gtid_body(gtid.as_ref(), *commit_time_us, &mut out),
            Self::MariaDbGtid { domain, sequence, standalone, commit_id, prepared } => {
                const HEADER_LEN: usize = 19;
                let flags =
                    u8::from(*standalone) | u8::from(commit_id.is_some()) << 1 | u8::from(prepared.is_some()) << 6;
                out.extend(sequence.to_le_bytes());
                out.extend(domain.to_le_bytes());
                out.push(flags);
                out.extend(commit_id.map(u64::to_le_bytes).into_iter().flatten());
                if let Some(XaId { format, global, branch }) = prepared {
                    out.extend(format.to_le_bytes());
                    out.extend([global.len() as u8, branch.len() as u8]);
                    out.extend(global.iter().chain(branch));
                }
                out.resize(out.len().max(HEADER_LEN), 0);
            }
            Self::Query(statement) => statement.write(statement.text.as_bytes(), &mut out),
            Self::CompressedQuery(statement) => statement.write(&deflated(statement.text.as_bytes()), &mut out),
            Self::TableMap { number, table } => table.write(*number, &mut out),
            Self::Rows(rows) => rows.write(&mut out),
            Self::Xid(number) => out.extend(number.to_le_bytes()),
            Self::XaPrepare { one_phase, id: XaId { format, global, branch } } => {
                out.push(u8::from(*one_phase));
                for number in [*format, global.len() as u32, branch.len() as u32] {
                    out.extend(number.to_le_bytes());
                }
                out.extend(global.iter().chain(branch));
            }
            Self::Rotate { file, offset } => {
                out.extend(offset.to_le_bytes());
                out.extend(file.as_bytes());
            }
            Self::Stop => {}
            Self::Heartbeat { file } => out.extend(file.as_bytes()),
            Self::RowsQuery(text) => {
                out.push(text.len().min(255) as u8);
                out.extend(text.as_bytes());
            }
            Self::AnnotateRows(text) => out.extend(text.as_bytes()),
            Self::BinlogCheckpoint(file) => {
                out.extend((file.len() as u32).to_le_bytes());
                out.extend(file.as_bytes());
            }
            Self::Payload { events, zstd } => payload_body(events, *zstd, &mut out),
            Self::Incident(text) => {
                out.extend([1, 0, text.len() as u8]);
                out.extend(text.as_bytes());
            }
            Self::Other { body, .. } => out.extend(body),
        }
        out
    }
}

fn gtid_body(gtid: Option<&Gtid>, commit_time_us: u64, out: &mut Vec<u8>) {
    let (uuid, tag, number) = match gtid {
        None => ([0; 16], None, 0),
        Some(Gtid::MySql { source, number }) => (source.uuid, source.tag.as_deref(), *number),
        Some(Gtid::MariaDb { .. }) => panic!("MariaDB's GTID in a MySQL event"),
    };
    if let Some(tag) = tag {
        let mut fields = Vec::new();
        let mut field = |numbers: &[u64]| numbers.iter().for_each(|number| serialize(*number, &mut fields));
        field(&[0, 1, 1]);
        uuid.iter().for_each(|byte| field(&[u64::from(*byte)]));
        field(&[2, number << 1, 3, tag.len() as u64]);
        fields.extend(tag.as_bytes());
        let mut field = |numbers: &[u64]| numbers.iter().for_each(|number| serialize(*number, &mut fields));
        field(&[4, 2, 5, 4, 6, commit_time_us, 8, 0, 9, 90_704]);
        serialize(1, out); // the format's version
        let len = fields.len() + 3; // with the version, this length and the last mandatory field
        serialize(if len < 128 { len } else { len + 1 } as u64, out);
        serialize(0, out);
        out.extend(fields);
        return;
    }
    out.push(1); // flags: the transaction may have changes that are logged as statements
    out.extend(uuid);
    out.extend(number.to_le_bytes());
    out.push(2); // a logical clock follows
    out.extend(0i64.to_le_bytes());
    out.extend(1i64.to_le_bytes());
    out.extend(&commit_time_us.to_le_bytes()[..7]);
    out.push(0); // the transaction's length: unknown
    out.extend(90_704u32.to_le_bytes());
}

/// Appends a number in MySQL's serialization format: as many low one bits as bytes follow the first.
fn serialize(number: u64, out: &mut Vec<u8>) {
    let bits = 64 - number.leading_zeros() as usize;
    match (1..=8).find(|len| bits <= 7 * len) {
        Some(len) => out.extend(&(number << len | ((1 << (len - 1)) - 1)).to_le_bytes()[..len]),
        None => {
            out.push(0xff);
            out.extend(number.to_le_bytes());
        }
    }
}

/// Appends a length-encoded integer of the client protocol.
fn lenenc(number: usize, out: &mut Vec<u8>) {
    match number {
        0..=250 => out.push(number as u8),
        251..=0xffff => {
            out.push(0xfc);
            out.extend(&number.to_le_bytes()[..2]);
        }
        0x1_0000..=0xff_ffff => {
            out.push(0xfd);
            out.extend(&number.to_le_bytes()[..3]);
        }
        _ => {
            out.push(0xfe);
            out.extend((number as u64).to_le_bytes());
        }
    }
}

fn payload_body(events: &[Event], zstd: bool, out: &mut Vec<u8>) {
    let mut unpacked = Vec::new();
    for event in events {
        let header =
            Header { timestamp_s: 1_790_000_000, server_id: 1, kind: event.kind(), flags: event.flags(), log_pos: 0 };
        unpacked.extend(frame(header, &event.body(), false));
    }
    let packed = if zstd { zstd::encode_all(&unpacked[..], 1).expect("packed") } else { unpacked.clone() };
    for (field, number) in [(2, if zstd { 0 } else { 255 }), (3, unpacked.len()), (1, packed.len())] {
        let mut value = Vec::new();
        lenenc(number, &mut value);
        lenenc(field, out);
        lenenc(value.len(), out);
        out.extend(value);
    }
    out.push(0);
    out.extend(packed);
}

/// Returns bytes compressed, after MariaDB's header of a compressed part.
fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut compressor = Compressor::new(CompressionLvl::default());
    let mut packed = vec![0; compressor.zlib_compress_bound(bytes.len())];
    let len = compressor.zlib_compress(bytes, &mut packed).expect("room for all of it");
    let mut out = vec![0x80 | 4];
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(&packed[..len]);
    out
}

impl Statement {
    /// Returns a statement of a session without a schema.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    fn write(&self, text: &[u8], out: &mut Vec<u8>) {
        const UPDATED_DB_NAMES: u8 = 12;
        let mut status = Vec::new();
        if let Some(schemas) = &self.changed_schemas {
            status.extend([UPDATED_DB_NAMES, schemas.len() as u8]);
            schemas.iter().for_each(|schema| status.extend(schema.bytes().chain([0])));
        }
        out.extend(self.thread_id.to_le_bytes());
        out.extend(0u32.to_le_bytes()); // execution time
        out.push(self.schema.len() as u8);
        out.extend(0u16.to_le_bytes()); // error code
        out.extend((status.len() as u16).to_le_bytes());
        out.extend(status);
        out.extend(self.schema.bytes().chain([0]));
        out.extend(text);
    }
}

impl TableDefinition {
    fn write(&self, number: u64, out: &mut Vec<u8>) {
        out.extend(&number.to_le_bytes()[..6]);
        out.extend(1u16.to_le_bytes());
        for name in [&self.schema, &self.name] {
            out.push(name.len() as u8);
            out.extend(name.bytes().chain([0]));
        }
        lenenc(self.columns.len(), out);
        let mut types: Vec<u8> = Vec::new();
        for column in &self.columns {
            let (code, meta): (u8, &[u8]) = match column.column_type {
                ColumnType::Int => (3, &[]),
                ColumnType::BigintUnsigned => (8, &[]),
                ColumnType::Double => (5, &[8]),
                ColumnType::Varchar { bytes_max } => (15, &bytes_max.to_le_bytes()),
                ColumnType::Longtext => (252, &[4]),
            };
            out.push(code);
            types.extend(meta);
        }
        lenenc(types.len(), out);
        out.extend(types);
        out.extend(bitmap(self.columns.iter().map(|column| column.nullable)));
        self.write_metadata(out);
    }

    fn write_metadata(&self, out: &mut Vec<u8>) {
        const SIGNEDNESS: u8 = 1;
        const DEFAULT_CHARSET: u8 = 2;
        const COLUMN_NAMES: u8 = 4;
        const SIMPLE_PRIMARY_KEY: u8 = 8;
        const UTF8MB4: usize = 255;
        let mut field = |number: u8, value: &[u8]| {
            out.push(number);
            lenenc(value.len(), out);
            out.extend(value);
        };
        let is_text =
            |column: &ColumnDefinition| matches!(column.column_type, ColumnType::Varchar { .. } | ColumnType::Longtext);
        let numbers = self.columns.iter().filter(|column| !is_text(column));
        let unsigned = numbers.map(|column| column.column_type == ColumnType::BigintUnsigned);
        let signedness: Vec<u8> = bitmap(unsigned).into_iter().map(u8::reverse_bits).collect();
        if !signedness.is_empty() {
            field(SIGNEDNESS, &signedness);
        }
        if self.columns.iter().any(is_text) {
            let mut value = Vec::new();
            lenenc(UTF8MB4, &mut value);
            field(DEFAULT_CHARSET, &value);
        }
        if !self.named {
            return;
        }
        let mut names = Vec::new();
        for column in &self.columns {
            lenenc(column.name.len(), &mut names);
            names.extend(column.name.bytes());
        }
        field(COLUMN_NAMES, &names);
        if !self.key.is_empty() {
            let mut key = Vec::new();
            self.key.iter().for_each(|column| lenenc(*column, &mut key));
            field(SIMPLE_PRIMARY_KEY, &key);
        }
    }
}

impl Rows {
    fn kind(&self) -> EventKind {
        let of_write = match self.layout {
            RowsLayout::V1 => EventKind::WRITE_ROWS_V1,
            RowsLayout::V2 => EventKind::WRITE_ROWS,
            RowsLayout::CompressedV1 => EventKind::MARIADB_WRITE_ROWS_COMPRESSED_V1,
        };
        match self.change {
            Change::Write => of_write,
            Change::Update => EventKind(of_write.0 + 1),
            Change::Delete => EventKind(of_write.0 + 2),
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(&self.number.to_le_bytes()[..6]);
        out.extend(1u16.to_le_bytes()); // flags: the statement's last event
        if self.layout == RowsLayout::V2 {
            out.extend(2u16.to_le_bytes()); // no extra data
        }
        lenenc(self.columns.len(), out);
        let (first_before, first_after) = self.rows.first().expect("a row");
        for first in [first_before, first_after] {
            assert!(first.is_empty() || first.len() == self.columns.len(), "an image has all columns, present or not");
            out.extend(present(first));
        }
        let mut images = Vec::new();
        for (before, after) in &self.rows {
            assert_eq!((present(before), present(after)), (present(first_before), present(first_after)));
            image(before, &self.columns, &mut images);
            image(after, &self.columns, &mut images);
        }
        match self.layout {
            RowsLayout::CompressedV1 => out.extend(deflated(&images)),
            RowsLayout::V1 | RowsLayout::V2 => out.extend(images),
        }
    }
}

fn present(image: &[Value]) -> Vec<u8> {
    bitmap(image.iter().map(|value| *value != Value::Absent))
}

fn bitmap(bits: impl IntoIterator<Item = bool>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, bit) in bits.into_iter().enumerate() {
        if index % 8 == 0 {
            bytes.push(0);
        }
        bytes[index / 8] |= u8::from(bit) << (index % 8);
    }
    bytes
}

/// Appends a row image: which of the present columns are NULL, and the values of the others.
fn image(values: &[Value], types: &[ColumnType], out: &mut Vec<u8>) {
    let there = values.iter().zip(types).filter(|(value, _)| **value != Value::Absent);
    out.extend(bitmap(there.clone().map(|(value, _)| *value == Value::Null)));
    for (value, column_type) in there {
        match (value, column_type) {
            (Value::Absent | Value::Null, _) => {}
            (Value::Int(number), ColumnType::Int) => out.extend(number.to_le_bytes()),
            (Value::Uint(number), ColumnType::BigintUnsigned) => out.extend(number.to_le_bytes()),
            (Value::Double(number), ColumnType::Double) => out.extend(number.to_le_bytes()),
            (Value::Text(_) | Value::Bytes(_), column_type) => {
                let text = match value {
                    Value::Text(text) => text.as_bytes(),
                    Value::Bytes(bytes) => bytes,
                    _ => &[],
                };
                let len_bytes = match column_type {
                    ColumnType::Varchar { bytes_max: ..=255 } => 1,
                    ColumnType::Varchar { .. } => 2,
                    ColumnType::Longtext => 4,
                    _ => panic!("{value:?} in a column of {column_type:?}"),
                };
                out.extend(&text.len().to_le_bytes()[..len_bytes]);
                out.extend(text);
            }
            (value, column_type) => panic!("{value:?} in a column of {column_type:?}"),
        }
    }
}
