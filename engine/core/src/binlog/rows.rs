//! Row events: the before and after images of a table's rows.

use rowmill_batch::{Builder, Operation};

use super::bytes::Bytes;
use super::error::Fault;
use super::event::EventKind;
use super::json;
use super::table_map::Columns;
use super::value::{Codec, ValueFault};

/// The number of a row event that belongs to no table: it only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

/// What a row event's type says.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsKind {
    operation: Operation,
    version: Version,
    /// MariaDB's compressed kind.
    compressed: bool,
    /// JSON columns may have what changed in them instead of a value.
    partial: bool,
}

impl RowsKind {
    pub fn of(kind: EventKind) -> Option<Self> {
        use Operation::{Delete, Insert, Update};
        use Version::{V1, V2};
        let (operation, version, compressed, partial) = match kind {
            EventKind::WRITE_ROWS => (Insert, V2, false, false),
            EventKind::UPDATE_ROWS => (Update, V2, false, false),
            EventKind::DELETE_ROWS => (Delete, V2, false, false),
            EventKind::PARTIAL_UPDATE_ROWS => (Update, V2, false, true),
            EventKind::WRITE_ROWS_V1 => (Insert, V1, false, false),
            EventKind::UPDATE_ROWS_V1 => (Update, V1, false, false),
            EventKind::DELETE_ROWS_V1 => (Delete, V1, false, false),
            EventKind::MARIADB_WRITE_ROWS_COMPRESSED_V1 => (Insert, V1, true, false),
            EventKind::MARIADB_UPDATE_ROWS_COMPRESSED_V1 => (Update, V1, true, false),
            EventKind::MARIADB_DELETE_ROWS_COMPRESSED_V1 => (Delete, V1, true, false),
            EventKind::MARIADB_WRITE_ROWS_COMPRESSED => (Insert, V2, true, false),
            EventKind::MARIADB_UPDATE_ROWS_COMPRESSED => (Update, V2, true, false),
            EventKind::MARIADB_DELETE_ROWS_COMPRESSED => (Delete, V2, true, false),
            _ => return None,
        };
        Some(Self { operation, version, compressed, partial })
    }
}

/// Version 2 (MySQL 5.6 and later) has extra data behind the flags; MariaDB writes version 1.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Version {
    V1,
    V2,
}

/// A row event, its images not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsEvent<'a> {
    kind: RowsKind,
    pub table_number: u64,
    columns: usize,
    before_present: &'a [u8],
    after_present: &'a [u8],
    rows: Bytes<'a>,
    /// Whether a row without any column is still to come.
    blank_row: bool,
}

impl<'a> RowsEvent<'a> {
    /// Reads what stands before the rows. `None` if the event has no table.
    pub fn parse(kind: RowsKind, body: &'a [u8]) -> Result<Option<Self>, Fault> {
        let mut bytes = Bytes(body);
        let table_number = bytes.uint(6)?;
        bytes.u16()?; // flags
        if table_number == NO_TABLE {
            return Ok(None);
        }
        if kind.version == Version::V2 {
            // The length counts its own two bytes.
            let extra = usize::from(bytes.u16()?).checked_sub(2).ok_or(Fault::Malformed("a row event's extra data"))?;
            bytes.take(extra)?;
        }
        let columns = bytes.lenenc_usize()?;
        let before_present = if kind.operation.has_before() { bytes.take(columns.div_ceil(8))? } else { &[] };
        let after_present = if kind.operation.has_after() { bytes.take(columns.div_ceil(8))? } else { &[] };
        // `INSERT INTO t () VALUES ()` with a minimal row image: a row that takes no bytes at all.
        let blank_row = before_present.iter().chain(after_present).all(|byte| *byte == 0);
        if blank_row && !bytes.is_empty() && !kind.compressed {
            return Err(Fault::Malformed("rows without columns"));
        }
        Ok(Some(Self { kind, table_number, columns, before_present, after_present, rows: bytes, blank_row }))
    }

    /// What happened to the rows.
    pub fn operation(&self) -> Operation {
        self.kind.operation
    }

    /// Columns of the table, as the event counts them.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The rows that must be unpacked first; `None` where they're as they are.
    pub fn packed(&self) -> Option<&'a [u8]> {
        self.kind.compressed.then_some(self.rows.0)
    }

    /// The same event with its rows unpacked.
    pub fn with_rows(self, rows: &'a [u8]) -> Self {
        Self { rows: Bytes(rows), ..self }
    }

    /// Whether all rows were read.
    pub fn is_done(&self) -> bool {
        self.rows.is_empty() && !self.blank_row
    }

    /// Reads the next row's images into the row that was begun in `builder`.
    pub fn next_row(&mut self, table: &Columns, builder: &mut Builder) -> Result<(), Fault> {
        if self.blank_row && !self.rows.is_empty() {
            return Err(Fault::Malformed("rows without columns"));
        }
        self.blank_row = false;
        if self.kind.partial {
            return self.next_partial_row(table, builder);
        }
        if self.kind.operation.has_before() {
            image(&mut self.rows, table, self.before_present, builder)?;
        }
        if self.kind.operation.has_after() {
            image(&mut self.rows, table, self.after_present, builder)?;
        }
        Ok(())
    }

    /// An update whose JSON columns may have changes instead of values. Where the before image has
    /// the document, the changes are made to it.
    fn next_partial_row(&mut self, table: &Columns, builder: &mut Builder) -> Result<(), Fault> {
        const PARTIAL_JSON: u64 = 1;
        let is_json = |codec: &&Codec| matches!(codec, Codec::Json { .. });
        let mut before = self.rows;
        image(&mut self.rows, table, self.before_present, builder)?;
        let options = self.rows.lenenc()?;
        if options & !PARTIAL_JSON != 0 {
            return Err(Fault::Malformed("row value options that aren't known"));
        }
        if options & PARTIAL_JSON == 0 {
            return image(&mut self.rows, table, self.after_present, builder);
        }
        let partial_bits = self.rows.take(table.codecs.iter().filter(is_json).count().div_ceil(8))?;
        let documents = documents(&mut before, table, self.before_present)?;
        image_by(&mut self.rows, table, self.after_present, builder, |index, codec, rows, builder| {
            let Codec::Json { len_bytes } = codec else {
                return codec.decode(rows, builder.value()).map(|()| Decoded::Value);
            };
            // Bits count JSON columns, whether the image has them or not.
            let nth_json = table.codecs[..index].iter().filter(is_json).count();
            if !bit(partial_bits, nth_json) {
                return codec.decode(rows, builder.value()).map(|()| Decoded::Value);
            }
            let len = rows.uint(*len_bytes)? as usize;
            let diffs = rows.take(len)?;
            match documents[index] {
                Some(document) => {
                    json::apply(document, diffs, builder.value())?;
                    Ok(Decoded::Value)
                }
                None => {
                    json::describe(diffs, builder.value())?;
                    Ok(Decoded::Changes)
                }
            }
        })
    }
}

#[inline]
fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] >> (index % 8) & 1 != 0
}

/// What was appended for a column.
enum Decoded {
    Value,
    /// Not the value, but what changed in it.
    Changes,
}

fn image(rows: &mut Bytes<'_>, table: &Columns, present: &[u8], builder: &mut Builder) -> Result<(), Fault> {
    image_by(rows, table, present, builder, |_, codec, rows, builder| {
        codec.decode(rows, builder.value()).map(|()| Decoded::Value)
    })
}

#[inline]
fn image_by<'a>(
    rows: &mut Bytes<'a>,
    table: &Columns,
    present: &[u8],
    builder: &mut Builder,
    mut decode: impl FnMut(usize, &Codec, &mut Bytes<'a>, &mut Builder) -> Result<Decoded, ValueFault>,
) -> Result<(), Fault> {
    let columns = table.codecs.len();
    let present_count: usize = present.iter().map(|byte| byte.count_ones() as usize).sum();
    let nulls = rows.take(present_count.div_ceil(8))?;
    builder.begin_image(columns);
    let mut nth_present = 0;
    for (index, codec) in table.codecs.iter().enumerate() {
        if !bit(present, index) {
            builder.absent();
            continue;
        }
        let null = bit(nulls, nth_present);
        nth_present += 1;
        if null {
            builder.null();
            continue;
        }
        let decoded = decode(index, codec, rows, builder).map_err(|fault| match fault {
            ValueFault::Fault(fault) => fault,
            ValueFault::Text(fault) => fault.in_column(&table.columns[index].name),
        })?;
        match decoded {
            Decoded::Value => builder.end_value(),
            Decoded::Changes => builder.end_changes(),
        }
    }
    builder.end_image();
    Ok(())
}

/// The JSON documents of an image, by column, as they are in the binlog.
fn documents<'a>(rows: &mut Bytes<'a>, table: &Columns, present: &[u8]) -> Result<Vec<Option<&'a [u8]>>, Fault> {
    let mut documents = vec![None; table.codecs.len()];
    let mut builder = Builder::with_capacity(0);
    image_by(rows, table, present, &mut builder, |index, codec, rows, builder| {
        if let Codec::Json { len_bytes } = codec {
            let len = rows.uint(*len_bytes)? as usize;
            documents[index] = Some(rows.take(len)?);
        } else {
            codec.decode(rows, builder.value())?;
        }
        Ok(Decoded::Value)
    })?;
    Ok(documents)
}
