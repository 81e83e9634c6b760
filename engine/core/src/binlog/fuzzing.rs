//! Entry points of fuzz targets, for decoders that aren't public otherwise.

use rowmill_batch::{Batch, Builder, Cell, ColumnIndex, RowHeader, TableId, TransactionHeader};

use super::bytes::Bytes;
use super::columns::Family;
use super::projection::RowProjection;
use super::projection_plan::RowPlan;
use super::rows::{RowsEvent, RowsKind};
use super::table_map::TableName;
use super::{EventKind, decimal, json, mariadb, temporal};

/// Decodes a row event: its kind, the length of its table map in two bytes, the table map, and the event's body. Rows
/// that can be decoded with all columns must be the same with a projection.
pub fn rows(bytes: &[u8]) {
    let Some((&[kind, low, high], rest)) = bytes.split_first_chunk::<3>() else { return };
    let Some((map, body)) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high]))) else { return };
    let family = if kind & 0x80 == 0 { Family::MySql } else { Family::MariaDb };
    let Ok(Ok(table)) = TableName::parse(map).map(|name| name.columns(family, None)) else { return };
    let Some(kind) = RowsKind::of(EventKind(kind & 0x7f)) else { return };
    let Ok(mut rows) = RowsEvent::parse(kind, body) else { return };
    if rows.columns() != table.widths.len() {
        return;
    }
    // About half of the columns; which ones depends on the input.
    let some = |salt: u32| {
        let columns = (0..table.columns.len() as u32).map(ColumnIndex);
        columns.filter(|column| u32::from(low).rotate_left(column.0 + salt) & 1 == 0).collect()
    };
    let projection = RowProjection { before: some(0), after: some(1) };
    let plan = RowPlan::new(projection.clone(), &table);
    let builder = || {
        let mut builder = Builder::with_capacity(0);
        builder.transaction(&TransactionHeader {
            file: "",
            position: 0,
            gtid: "",
            commit_time_us: 0,
            server_id: 0,
            thread_id: 0,
        });
        builder
    };
    let (mut whole, mut part) = (builder(), builder());
    while !rows.is_done() {
        let header = RowHeader {
            table: TableId(0),
            operation: rows.operation(),
            columns: table.columns.len() as u16,
            index_in_transaction: 0,
            index_in_event: 0,
            event_position: 0,
            time_us: 0,
        };
        let mut again = rows;
        whole.begin_row(&header);
        if rows.next_row(&table, None, &mut whole).is_err() {
            return;
        }
        whole.end_row();
        part.begin_row(&header);
        again.next_row(&table, Some(&plan), &mut part).expect("a row that was decoded with all columns");
        part.end_row();
        assert_eq!(rows.rest().len(), again.rest().len(), "both end at the same byte");
    }
    let (whole, part) = (whole.finish(), part.finish());
    let (whole, part) = (whole.view(), part.view());
    for (whole, part) in whole.rows().zip(part.rows()) {
        let images =
            [(whole.before(), part.before(), &projection.before), (whole.after(), part.after(), &projection.after)];
        for (whole, part, projection) in images {
            let (Some(whole), Some(part)) = (whole, part) else { continue };
            for column in (0..table.columns.len() as u32).map(ColumnIndex) {
                let expected = if projection.contains(column) { whole.cell(column) } else { Cell::Absent };
                assert_eq!(part.cell(column), expected);
            }
        }
    }
}

/// Decodes a document, and applies a partial update to one that follows its length of two bytes.
pub fn json(bytes: &[u8]) {
    let mut out = Vec::new();
    let _ = json::decode(bytes, &mut out);
    let Some((&[low, high], rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((document, diffs)) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high]))) else { return };
    let _ = json::apply(document, diffs, &mut out);
    let _ = json::describe(diffs, &mut out);
    assert!(std::str::from_utf8(&out).is_ok(), "the output is text");
}

/// Decodes a decimal after its precision and scale, and compressed data of MariaDB.
pub fn decimal(bytes: &[u8]) {
    let mut out = Vec::new();
    if let Some((&[precision, scale], rest)) = bytes.split_first_chunk::<2>() {
        let _ = decimal::decode(&mut Bytes(rest), precision, scale, &mut out);
    }
    assert!(out.is_ascii());
    let _ = mariadb::unpack(bytes);
    let _ = mariadb::unpack_column(bytes);
}

/// Decodes dates and times of all kinds, after the number of fractional digits.
pub fn temporal(bytes: &[u8]) {
    let Some((&digits, rest)) = bytes.split_first() else { return };
    let mut out = Vec::new();
    let _ = temporal::date(&mut Bytes(rest), &mut out);
    let _ = temporal::datetime2(&mut Bytes(rest), digits, &mut out);
    let _ = temporal::datetime_old(&mut Bytes(rest), &mut out);
    let _ = temporal::time2(&mut Bytes(rest), digits, &mut out);
    let _ = temporal::time_old(&mut Bytes(rest), &mut out);
    let _ = temporal::timestamp2(&mut Bytes(rest), digits, &mut out);
    let _ = temporal::timestamp_old(&mut Bytes(rest), &mut out);
    let _ = temporal::datetime_hires(&mut Bytes(rest), digits, &mut out);
    let _ = temporal::time_hires(&mut Bytes(rest), digits, &mut out);
    let _ = temporal::timestamp_hires(&mut Bytes(rest), digits, &mut out);
    if let Ok(packed) = Bytes(rest).u64() {
        temporal::json_datetime(packed, digits & 1 == 0, &mut out);
        temporal::json_time(packed as i64, &mut out);
    }
    assert!(out.is_ascii());
}
