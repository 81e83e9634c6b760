//! Row events: the before and after images of a table's rows.

use rowmill_batch::{Builder, Operation};

use super::bytes::Bytes;
use super::error::Fault;
use super::event::EventKind;
use super::table_map::Columns;
use super::value::ValueFault;

/// The number of a row event that belongs to no table: it only ends a statement.
const NO_TABLE: u64 = 0xff_ffff;

/// A row event, its images not yet read.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowsEvent<'a> {
    pub operation: Operation,
    pub table_number: u64,
    columns: usize,
    before_present: &'a [u8],
    after_present: &'a [u8],
    rows: Bytes<'a>,
}

/// What a row event's type says.
pub(super) fn operation_of(kind: EventKind) -> Option<(Operation, Version)> {
    match kind {
        EventKind::WRITE_ROWS => Some((Operation::Insert, Version::V2)),
        EventKind::UPDATE_ROWS => Some((Operation::Update, Version::V2)),
        EventKind::DELETE_ROWS => Some((Operation::Delete, Version::V2)),
        EventKind::WRITE_ROWS_V1 => Some((Operation::Insert, Version::V1)),
        EventKind::UPDATE_ROWS_V1 => Some((Operation::Update, Version::V1)),
        EventKind::DELETE_ROWS_V1 => Some((Operation::Delete, Version::V1)),
        _ => None,
    }
}

/// Version 2 (MySQL 5.6 and later) has extra data behind the flags; MariaDB writes version 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Version {
    V1,
    V2,
}

impl<'a> RowsEvent<'a> {
    /// Reads what stands before the rows. `None` if the event has no table.
    pub fn parse(operation: Operation, version: Version, body: &'a [u8]) -> Result<Option<Self>, Fault> {
        let mut bytes = Bytes(body);
        let table_number = bytes.uint(6)?;
        bytes.u16()?; // flags
        if table_number == NO_TABLE {
            return Ok(None);
        }
        if version == Version::V2 {
            // The length counts its own two bytes.
            let extra = usize::from(bytes.u16()?).checked_sub(2).ok_or(Fault::Malformed("a row event's extra data"))?;
            bytes.take(extra)?;
        }
        let columns = bytes.lenenc_usize()?;
        let before_present = if operation.has_before() { bytes.take(columns.div_ceil(8))? } else { &[] };
        let after_present = if operation.has_after() { bytes.take(columns.div_ceil(8))? } else { &[] };
        Ok(Some(Self { operation, table_number, columns, before_present, after_present, rows: bytes }))
    }

    /// Columns of the table, as the event counts them.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether all rows were read.
    pub fn is_done(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads the next row's images into the row that was begun in `builder`.
    pub fn next_row(&mut self, table: &Columns, builder: &mut Builder) -> Result<(), Fault> {
        if self.operation.has_before() {
            image(&mut self.rows, table, self.before_present, builder)?;
        }
        if self.operation.has_after() {
            image(&mut self.rows, table, self.after_present, builder)?;
        }
        Ok(())
    }
}

#[inline]
fn bit(bitmap: &[u8], index: usize) -> bool {
    bitmap[index / 8] >> (index % 8) & 1 != 0
}

fn image(rows: &mut Bytes<'_>, table: &Columns, present: &[u8], builder: &mut Builder) -> Result<(), Fault> {
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
        codec.decode(rows, builder.value()).map_err(|fault| match fault {
            ValueFault::Fault(fault) => fault,
            ValueFault::Text(fault) => fault.in_column(&table.columns[index].name),
        })?;
        builder.end_value();
    }
    builder.end_image();
    Ok(())
}
