//! Reads a history as the engine does, and collects the items and batches that arrive.

use std::collections::HashMap;
use std::sync::Arc;

use proptest::prelude::*;
use rowmill_batch::{Cell, ColumnIndex, Image, Kind, Operation, RowIndex, Table, TableId};
use rowmill_pipeline::ack::Cost;

use super::super::writer::{Change, Event, EventBytes, Statement, Value};
use super::super::{
    ColumnSet, DecodeError, Decoder, EventHeader, EventKind, Next, RowBatch, RowProjection, SkippedContent,
    TableProjection, TableSelector,
};
use super::history::{Head, Item, Row};
use super::server::is_selected;
use super::written::{Boundary, Written};
use crate::position::{BinlogPosition, PartialTransaction, ResumePoint, file_number};

/// The way in which a history is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub rows_max: u32,
    pub bytes_max: u32,
    /// The events after which there is a pause, as bits of their number modulo 64.
    pub pauses: u64,
    /// The seed of the projections. `None`: no column is deferred.
    pub needs: Option<u64>,
    /// Whether the GTID set at the beginning is known.
    pub knows_gtids: bool,
    /// The boundary at which reading begins, among those at which it may begin.
    pub begin: usize,
    /// Whether changes are logged as statements among the rows, and skipped.
    pub skips: bool,
}

pub(super) fn reading() -> impl Strategy<Value = Reading> {
    let rows_max = prop_oneof![4 => 1u32..20, 1 => Just(2048)];
    let bytes_max = prop_oneof![1 => 1u32..1500, 2 => Just(u32::MAX)];
    let begin = prop_oneof![2 => Just(0usize), 1 => any::<usize>()];
    (rows_max, bytes_max, any::<u64>(), proptest::option::of(any::<u64>()), any::<bool>(), begin).prop_map(
        |(rows_max, bytes_max, pauses, needs, knows_gtids, begin)| Reading {
            rows_max,
            bytes_max,
            pauses,
            needs,
            knows_gtids,
            begin,
            skips: false,
        },
    )
}

/// A projection of some columns of each table, by the seed, which changes now and then.
pub(in crate::binlog) struct Columns {
    pub seed: Option<u64>,
    pub asked: std::cell::Cell<u64>,
}

impl TableSelector for Columns {
    fn table(&self, schema: &str, _table: &str) -> bool {
        is_selected(schema)
    }

    fn schema(&self, schema: &str) -> bool {
        is_selected(schema)
    }

    fn projection(&self, table: &Table) -> Option<TableProjection> {
        let Some(seed) = self.seed else { return Some(TableProjection::default()) };
        // Now and then the projection isn't known yet.
        if self.asked.get().is_multiple_of(5) {
            return None;
        }
        let set = |salt: u64| -> ColumnSet {
            let columns = (0..table.columns.len() as u64).filter(|column| {
                seed.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(*column as u32) & 3 == 0
            });
            columns.map(|column| ColumnIndex(column as u32)).collect()
        };
        let projection = |salt| Some(RowProjection { before: set(salt), after: set(salt + 1) });
        let deletes = if seed % 2 == 0 { None } else { projection(9) };
        Some(TableProjection { inserts: projection(self.version()), updates: projection(7), deletes })
    }

    fn version(&self) -> u64 {
        self.asked.set(self.asked.get() + 1);
        self.asked.get() / 3
    }
}

/// A run of the engine, with what has arrived so far.
pub(super) struct Reader<'a> {
    pub written: &'a Written,
    pub reading: Reading,
    pub decoder: Decoder,
    pub tables: HashMap<TableId, Arc<Table>>,
    /// The index of this connection's first item among the committed ones.
    pub first: usize,
    /// The items that arrived on this connection.
    pub items: Vec<Item>,
    pub batches: Vec<EmittedBatch>,
    /// The statements that were skipped.
    pub skipped: Vec<String>,
    /// All statements that were logged among the rows.
    pub statements: Vec<String>,
    pub events: u64,
    /// Calls of [`Decoder::next`] until the connection is lost.
    pub calls_left: Option<usize>,
    pub calls: usize,
}

/// A batch that was emitted.
#[derive(Debug, Clone)]
pub(super) struct EmittedBatch {
    /// The index of the item after the batch among the committed ones.
    pub next: usize,
    pub rows: usize,
    /// The number of statements that were skipped so far.
    pub skipped: usize,
    pub resume: ResumePoint,
}

pub(super) enum Stop {
    ConnectionLost,
    Error(Box<DecodeError>),
}

/// How reading from a connection ended.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Whole,
    ConnectionLost,
    /// The connection was lost after rows of a transaction arrived that is rolled back later.
    VoidCame,
    /// Reading stopped with an error that is expected for the history.
    Stopped,
}

impl<'a> Reader<'a> {
    pub fn new(written: &'a Written, resume: ResumePoint, first: usize, reading: Reading) -> Self {
        let select = Columns { seed: reading.needs, asked: 0.into() };
        let mut decoder = Decoder::new(resume, Box::new(select)).with_schema_changes(true).with_skipping(reading.skips);
        decoder.bound_batches(Cost { rows: reading.rows_max, bytes: reading.bytes_max });
        Self {
            written,
            reading,
            decoder,
            tables: HashMap::new(),
            first,
            items: Vec::new(),
            batches: Vec::new(),
            skipped: Vec::new(),
            statements: Vec::new(),
            events: 0,
            calls_left: None,
            calls: 0,
        }
    }

    /// Drops what wasn't emitted, and returns the resume point.
    pub fn reconnect(&mut self) -> ResumePoint {
        let resume = self.decoder.rewind();
        if let Some(handed) = self.batches.last() {
            assert_eq!(resume, handed.resume, "the resume point is the last batch's");
            self.first = next_item(self.written, handed);
        }
        self.items.clear();
        resume
    }

    pub fn read(&mut self, events: &[EventBytes]) -> Result<(), Stop> {
        // The beginning of the open transaction, and the number of its statements.
        let mut transaction = (BinlogPosition::new("", 0), 0);
        for event in events {
            let kind = EventHeader::parse(event).expect("a header").kind;
            // Before these events a transaction is always open.
            if self.reading.skips && matches!(kind, EventKind::TABLE_MAP | EventKind::XID) {
                let begin = self.decoder.transaction_begin();
                let nth = if transaction.0 == begin { transaction.1 + 1 } else { 1 };
                let text = format!("DELETE FROM t -- {begin} {nth}");
                transaction = (begin, nth);
                let statement = Statement { schema: "shop".to_owned(), ..Statement::new(text.clone()) };
                self.statements.push(text);
                self.read_event(&self.written.writer.artificial(&Event::Query(statement)))?;
            }
            self.read_event(event)?;
            if self.reading.pauses >> (self.events % 64) & 1 != 0 {
                self.pause();
            }
        }
        self.pause();
        Ok(())
    }

    pub fn read_event(&mut self, event: &[u8]) -> Result<(), Stop> {
        self.events += 1;
        loop {
            if self.calls_left == Some(0) {
                return Err(Stop::ConnectionLost);
            }
            self.calls_left = self.calls_left.map(|left| left - 1);
            self.calls += 1;
            match self.decoder.next(event).map_err(Stop::Error)? {
                Next::Event => return Ok(()),
                Next::Batch(batch) => self.take(*batch),
                Next::Columns { schema, table, .. } => {
                    let columns = self.written.catalog(self.decoder.position(), &schema, &table);
                    self.decoder.learn(schema, table, columns);
                }
            }
        }
    }

    /// Flushes the decoder, as when no event is waiting.
    pub fn pause(&mut self) {
        while let Some(batch) = self.decoder.flush() {
            self.take(batch);
        }
    }

    pub fn take(&mut self, batch: RowBatch) {
        if let Some(new) = batch.new_tables.first() {
            self.tables.retain(|_, table| table.generation == new.generation);
        }
        for table in &batch.new_tables {
            assert!(self.tables.insert(table.id, Arc::clone(table)).is_none(), "a table is new once");
        }
        let decoded = batch.packed.view();
        assert_eq!((decoded.len(), batch.rows <= self.reading.rows_max as usize), (batch.rows, true));
        let whole = match &batch.deferred {
            Some(deferred) => {
                let rows = (0..batch.rows as u32).map(RowIndex);
                let (whole, errors) = deferred.decode_rows(&decoded, rows);
                assert_eq!(errors, []);
                whole
            }
            None => batch.packed.clone(),
        };
        let whole = whole.view();
        assert_eq!(whole.len(), batch.rows);
        for row in whole.rows() {
            let (header, transaction) = (row.header(), whole.transaction(row.transaction()).header());
            let table = &self.tables[&header.table];
            let image = |image: Option<Image<'_>>| image.map_or(Vec::new(), |image| values(table, image));
            self.items.push(Item::Row(Row {
                table: {
                    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
                    format!("{table} {columns:?}")
                },
                change: match header.operation {
                    Operation::Insert => Change::Write,
                    Operation::Update => Change::Update,
                    Operation::Delete => Change::Delete,
                    Operation::Read => unreachable!("the binlog has no snapshots"),
                },
                before: image(row.before()),
                after: image(row.after()),
                event_position: header.event_position,
                index_in_event: header.index_in_event,
                index_in_transaction: header.index_in_transaction,
                time_us: header.time_us,
                is_last: row.is_last_in_transaction(),
                transaction: Head {
                    file: transaction.file.to_owned(),
                    position: transaction.position,
                    gtid: transaction.gtid.to_owned(),
                    commit_time_us: transaction.commit_time_us,
                    server_id: transaction.server_id,
                    thread_id: transaction.thread_id,
                },
            }));
        }
        if let Some(change) = batch.schema_change {
            self.items.push(Item::SchemaChange {
                statement: change.statement,
                file: change.file,
                event_position: change.event_position,
                gtid: change.gtid,
            });
        }
        if let Some(skipped) = batch.skipped {
            let SkippedContent::Statement(text) = skipped.content else { panic!("{:?}", skipped.content) };
            self.skipped.push(text);
        }
        self.check_resume(&batch.resume);
        let next = self.first + self.items.len();
        let skipped = self.skipped.len();
        self.batches.push(EmittedBatch { next, rows: batch.rows, skipped, resume: batch.resume });
    }

    /// Checks that a dump can begin at a resume point, and that the resume point's GTID set is that of its position.
    pub fn check_resume(&self, resume: &ResumePoint) {
        assert!(u32::try_from(resume.position.offset).is_ok(), "no server accepts {resume}");
        if resume.position.file.is_empty() {
            return; // the resume point has GTIDs only
        }
        let Some(gtids) = &resume.gtids else { return };
        let Boundary { executed, .. } = self.written.boundary_before(&resume.position);
        // On a replica the position may at first be before the end of the set, and past 4 GiB the position stays.
        let is_further = &*resume.server == "replica" || self.written.has_large_file();
        let is_right = if is_further { executed.is_subset_of(gtids) } else { **gtids == *executed };
        assert!(is_right, "{resume} has the GTIDs {gtids} instead of {executed}");
    }

    /// Whether a resume point is past 4 GiB of its file.
    pub fn is_far(&self, resume: &ResumePoint) -> bool {
        let is_far = |partial: &PartialTransaction| u32::try_from(partial.progress.event).is_err();
        resume.partial.as_ref().is_some_and(is_far)
    }
}

pub(super) fn values(table: &Table, image: Image<'_>) -> Vec<Value> {
    let value = |(cell, kind): (Cell<'_>, Kind)| match (cell, kind) {
        (Cell::Absent, _) => Value::Absent,
        (Cell::Null, _) => Value::Null,
        (cell, Kind::Int) => Value::Int(cell.int().expect("an integer") as i32),
        (cell, Kind::Uint) => Value::Uint(cell.uint().expect("an integer")),
        (cell, Kind::Float) => Value::Double(cell.float().expect("a float")),
        (cell, Kind::Text) => Value::Text(cell.text().expect("text").to_owned()),
        (cell, kind) => panic!("{cell:?} of {kind:?}"),
    };
    image.cells().zip(table.columns.iter().map(|column| column.kind)).map(value).collect()
}

/// Returns the index of the first item that arrives after a restart at a batch's resume point; items before it don't
/// arrive again.
///
/// Two kinds of items may arrive again: a schema change, until its transaction's end or a row of it is known; and an XA
/// transaction that wasn't emitted to its end, as its rows have the positions at which it was prepared.
pub(super) fn next_item(written: &Written, handed: &EmittedBatch) -> usize {
    let next = handed.next;
    let newest = next.checked_sub(1).and_then(|index| written.committed.get(index));
    if let (Some(Item::SchemaChange { file, event_position, .. }), true) = (newest, handed.rows == 0) {
        let ResumePoint { position, partial, .. } = &handed.resume;
        let change = (file_number(file), *event_position);
        let place = partial
            .as_ref()
            .map_or((&position.file, position.offset), |partial| (&partial.file, partial.progress.event));
        let is_done = (file_number(place.0), place.1) > change;
        return if is_done { next } else { next - 1 };
    }
    let xa_of = |index: usize| written.xa_first.get(index).copied().flatten();
    match next.checked_sub(1).and_then(xa_of) {
        Some(first) if xa_of(next) == Some(first) => first,
        _ => next,
    }
}
