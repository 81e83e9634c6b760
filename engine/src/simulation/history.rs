//! The simulated server's binlog: random rows, in batches with resume points as a source reads them.

use std::sync::Arc;

use rowmill_core::batch::{
    Builder, Cell, Column, ColumnIndex, Kind, Operation, RowHeader, Table, TableId, TransactionHeader,
};
use rowmill_core::binlog::RowBatch;
use rowmill_core::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint, file_number};

use super::{below, one_in};

/// A row of the binlog, which is always an insert.
#[derive(Debug, Clone)]
pub(super) struct HistoryRow {
    pub table: u32,
    /// The primary key, and so the message group.
    pub key: u64,
    file: String,
    /// Offset at which its transaction begins.
    begin: u64,
    /// Offset at which the next transaction begins.
    end: u64,
    /// Offset at which its event begins, and its index in the event.
    progress: EventOffset,
}

/// All rows, in the order of the binlog. A row's index is its ID.
#[derive(Debug)]
pub(super) struct History {
    pub rows: Vec<HistoryRow>,
    /// All tables; the third has no route.
    pub tables: [Arc<Table>; 3],
}

impl History {
    pub fn random() -> Self {
        let mut rows = Vec::new();
        let keys = 1 + below(8);
        let (mut file, mut offset) = (1, 4);
        for _ in 0..1 + below(25) {
            if one_in(8) {
                (file, offset) = (file + 1, 4);
            }
            let count = if one_in(6) { below(30) } else { 1 + below(3) };
            let (begin, mut event, mut index) = (offset, offset + 50, 0);
            let end = begin + 100 + 50 * count;
            for _ in 0..count {
                if one_in(3) {
                    (event, index) = (event + 50, 0);
                }
                rows.push(HistoryRow {
                    table: below(2) as u32,
                    key: below(keys),
                    file: format!("binlog.{file:06}"),
                    begin,
                    end,
                    progress: EventOffset { event, rows: index },
                });
                index += 1;
            }
            offset = end;
        }
        let tables = [0, 1, 2].map(|id| {
            let column = |name: &str, key| Column {
                name: name.to_owned(),
                kind: Kind::Uint,
                mysql_type: "bigint unsigned".to_owned(),
                nullable: false,
                key,
            };
            Arc::new(Table {
                id: TableId(id),
                generation: 0,
                schema: "shop".to_owned(),
                name: ["orders", "lines", "unrouted"][id as usize].to_owned(),
                columns: vec![column("id", false), column("key", true)],
                key: vec![ColumnIndex(1)],
            })
        });
        Self { rows, tables }
    }

    pub fn start() -> ResumePoint {
        ResumePoint::at("simulated", BinlogPosition::new("binlog.000001", 4))
    }

    /// Returns the first row that is not done at a resume point.
    pub fn first_after(&self, resume: &ResumePoint) -> usize {
        let ResumePoint { position, partial, .. } = resume;
        let is_past = |row: &HistoryRow| {
            let is_before = (file_number(&row.file), row.begin) < (file_number(&position.file), position.offset);
            let is_done = partial.as_ref().is_some_and(|PartialTransaction { file, progress }| {
                (file_number(&row.file), row.progress) < (file_number(file), *progress)
            });
            is_before || is_done
        };
        self.rows.partition_point(is_past)
    }

    /// Returns the position at which a row's transaction begins.
    pub fn transaction(&self, row: usize) -> BinlogPosition {
        BinlogPosition::new(self.rows[row].file.clone(), self.rows[row].begin)
    }

    /// Returns the resume point between row `next` and the row before it.
    fn resume_before(&self, next: usize) -> ResumePoint {
        let Some(last) = next.checked_sub(1).map(|last| &self.rows[last]) else { return Self::start() };
        let within = self.rows.get(next).filter(|row| (&row.file, row.begin) == (&last.file, last.begin));
        let offset = if within.is_some() { last.begin } else { last.end };
        let partial = within.map(|row| PartialTransaction { file: row.file.clone(), progress: row.progress });
        ResumePoint { partial, ..ResumePoint::at("simulated", BinlogPosition::new(last.file.clone(), offset)) }
    }

    /// Returns a batch of the rows from `from` to before `to`. Rows in `unrouted` are of the table that has no route.
    pub fn batch(&self, from: usize, to: usize, unrouted: &[usize]) -> RowBatch {
        let mut builder = Builder::with_capacity(4096);
        let mut transaction = None;
        for (id, row) in self.rows.iter().enumerate().take(to).skip(from) {
            if transaction.replace((&row.file, row.begin)) != Some((&row.file, row.begin)) {
                builder.transaction(&TransactionHeader {
                    file: &row.file,
                    position: row.begin,
                    gtid: "",
                    commit_time_us: 0,
                    server_id: 1,
                    thread_id: 1,
                });
            }
            builder.begin_row(&RowHeader {
                table: TableId(if unrouted.contains(&id) { 2 } else { row.table }),
                operation: Operation::Insert,
                columns: 2,
                index_in_transaction: id as u32,
                index_in_event: row.progress.rows,
                event_position: row.progress.event,
                time_us: 0,
            });
            builder.begin_image(2);
            builder.cell(Cell::Value(&(id as u64).to_le_bytes()));
            builder.cell(Cell::Value(&row.key.to_le_bytes()));
            builder.end_image();
            builder.end_row();
        }
        RowBatch {
            packed: builder.finish(),
            deferred: None,
            rows: to - from,
            schema_change: None,
            skipped: None,
            skips_undecodable: false,
            new_tables: Vec::new(),
            before: Arc::new(self.resume_before(from)),
            resume: self.resume_before(to),
        }
    }
}
