//! What fuzz targets call: the decoders that nothing else outside sees.

use rowmill_batch::{Builder, RowHeader, TableId, TransactionHeader};

use super::bytes::Bytes;
use super::rows::{RowsEvent, RowsKind};
use super::table_map::{Family, TableName};
use super::{EventKind, decimal, json, mariadb, temporal};

/// A table map and, behind a length of two bytes, rows of it.
pub fn rows(bytes: &[u8]) {
    let Some((&[kind, low, high], rest)) = bytes.split_first_chunk::<3>() else { return };
    let Some((map, body)) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high]))) else { return };
    let family = if kind & 0x80 == 0 { Family::MySql } else { Family::MariaDb };
    let Ok(Ok(table)) = TableName::parse(map).map(|name| name.columns(family, None)) else { return };
    let Some(kind) = RowsKind::of(EventKind(kind & 0x7f)) else { return };
    let Ok(Some(mut rows)) = RowsEvent::parse(kind, body) else { return };
    if rows.columns() != table.codecs.len() {
        return;
    }
    let mut builder = Builder::with_capacity(0);
    builder.transaction(&TransactionHeader {
        file: "",
        position: 0,
        gtid: "",
        commit_time_us: 0,
        server_id: 0,
        thread_id: 0,
    });
    while !rows.is_done() {
        builder.begin_row(&RowHeader {
            table: TableId(0),
            operation: rows.operation(),
            columns: 0,
            index_in_transaction: 0,
            index_in_event: 0,
            event_position: 0,
            time_us: 0,
        });
        if rows.next_row(&table, &mut builder).is_err() {
            return;
        }
        builder.end_row();
    }
}

/// A document, and changes of it behind a length of two bytes.
pub fn json(bytes: &[u8]) {
    let mut out = Vec::new();
    let _ = json::decode(bytes, &mut out);
    let Some((&[low, high], rest)) = bytes.split_first_chunk::<2>() else { return };
    let Some((document, diffs)) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high]))) else { return };
    let _ = json::apply(document, diffs, &mut out);
    let _ = json::describe(diffs, &mut out);
    assert!(std::str::from_utf8(&out).is_ok(), "what is written is text");
}

/// A decimal behind its precision and scale; and what MariaDB compresses.
pub fn decimal(bytes: &[u8]) {
    let mut out = Vec::new();
    if let Some((&[precision, scale], rest)) = bytes.split_first_chunk::<2>() {
        let _ = decimal::decode(&mut Bytes(rest), precision, scale, &mut out);
    }
    assert!(out.is_ascii());
    let _ = mariadb::unpack(bytes);
    let _ = mariadb::unpack_column(bytes);
}

/// Dates and times of all kinds, behind the digits of the second.
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
    if let Ok(packed) = Bytes(rest).u64() {
        temporal::json_datetime(packed, digits & 1 == 0, &mut out);
        temporal::json_time(packed as i64, &mut out);
    }
    assert!(out.is_ascii());
}
