//! Tests of the decoder's rules, one by one; `model` tests them together.

use rowmill_batch::ColumnIndex;
use rowmill_pipeline::ack::Cost;

use super::super::writer::{
    BinlogWriter, Change, ColumnDefinition, ColumnType, Event, Rows, RowsLayout, Server, Statement, TableDefinition,
    Value, XaId,
};
use super::super::{CatalogColumn, TableSelector};
use super::*;
use crate::gtid::{Gtid, Source};

pub(super) const FILE: &str = "binlog.000001";

/// Selects every table except those of the schema `hidden`.
pub(super) struct NotHidden;

impl TableSelector for NotHidden {
    fn table(&self, schema: &str, _table: &str) -> bool {
        schema != "hidden"
    }

    fn schema(&self, schema: &str) -> bool {
        schema != "hidden"
    }
}

/// A server's binlog, written statement by statement, with the table `shop.t` and its column `id`.
pub(super) struct Log {
    pub writer: BinlogWriter,
    pub named: bool,
    pub number: u64,
}

impl Log {
    pub fn new() -> Self {
        Self { writer: BinlogWriter::new(Server::MySql, true, "binlog"), named: true, number: 0 }
    }

    pub fn query(&mut self, text: &str) {
        self.writer.write(&Event::Query(Statement::new(text)));
    }

    /// Begins a transaction, and returns its offset.
    pub fn begin(&mut self) -> u64 {
        self.number += 1;
        let gtid = Some(Gtid::MySql { source: Source::new([1; 16], ""), number: self.number });
        self.writer.open(gtid.clone());
        let begin = self.writer.write(&Event::Gtid { gtid, commit_time_us: 0 }).begin;
        self.query("BEGIN");
        begin
    }

    pub fn events(&self, ids: &[i32]) -> [Event; 2] {
        let column = ColumnDefinition { name: "id".to_owned(), column_type: ColumnType::Int, nullable: false };
        let (schema, name) = ("shop".to_owned(), "t".to_owned());
        let table = TableDefinition { schema, name, columns: vec![column], key: vec![0], named: self.named };
        let rows = ids.iter().map(|id| (Vec::new(), vec![Value::Int(*id)])).collect();
        let columns = vec![ColumnType::Int];
        let rows = Rows { number: 5, change: Change::Write, layout: RowsLayout::V2, rows, columns };
        [Event::TableMap { number: 5, table }, Event::Rows(rows)]
    }

    /// Inserts rows in one event, and returns the event's offset.
    pub fn insert(&mut self, ids: &[i32]) -> u64 {
        let [map, rows] = self.events(ids);
        self.writer.write(&map);
        self.writer.write(&rows).begin
    }

    pub fn commit(&mut self) {
        self.writer.write(&Event::Xid(1));
        self.writer.execute();
    }

    pub fn transaction(&mut self, ids: &[i32]) {
        self.begin();
        self.insert(ids);
        self.commit();
    }

    /// Prepares an XA transaction.
    pub fn prepare(&mut self, id: &XaId, ids: &[i32]) {
        let gtid = Some(Gtid::MySql { source: Source::new([1; 16], ""), number: self.number + 1 });
        self.number += 1;
        self.writer.open(gtid.clone());
        self.writer.write(&Event::Gtid { gtid, commit_time_us: 0 });
        self.query(&format!("XA START {id}"));
        self.insert(ids);
        self.query(&format!("XA END {id}"));
        self.writer.write(&Event::XaPrepare { one_phase: false, id: id.clone() });
        self.writer.execute();
    }
}

pub(super) fn xa_id() -> XaId {
    XaId { format: 1, global: b"x1".to_vec(), branch: Vec::new() }
}

pub(super) fn begin_of(file: &str) -> ResumePoint {
    ResumePoint::at("server", BinlogPosition::new(file, BinlogPosition::FIRST_EVENT))
}

pub(super) fn decoder(resume: ResumePoint, rows_max: u32) -> Decoder {
    let mut decoder = Decoder::new(resume, Box::new(NotHidden));
    decoder.bound_batches(Cost { rows: rows_max, bytes: u32::MAX });
    decoder
}

pub(super) fn ids(batch: &RowBatch) -> Vec<i64> {
    let batch = batch.packed.view();
    batch.rows().map(|row| row.newest().cell(ColumnIndex(0)).int().expect("an id")).collect()
}

/// Returns the batches before the first bad event of a dump, and its error.
pub(super) fn read_to_error(decoder: &mut Decoder, log: &Log) -> (Vec<RowBatch>, DecodeError) {
    let mut batches = Vec::new();
    for event in log.writer.dump(&decoder.position().clone()) {
        loop {
            match decoder.next(&event) {
                Ok(Next::Batch(batch)) => batches.push(*batch),
                Ok(_) => break,
                Err(error) => return (batches, *error),
            }
        }
    }
    panic!("every event was decoded")
}

/// Returns all batches of a dump; the last one is flushed.
pub(super) fn read(decoder: &mut Decoder, log: &Log) -> Result<Vec<RowBatch>, Box<DecodeError>> {
    let mut batches = Vec::new();
    for event in log.writer.dump(&decoder.position().clone()) {
        loop {
            match decoder.next(&event)? {
                Next::Event => break,
                Next::Batch(batch) => batches.push(*batch),
                Next::Columns { schema, table, .. } => {
                    let name = format!("id_at_{}", decoder.position().offset);
                    let (column_type, charset) = ("int".to_owned(), None);
                    let column = CatalogColumn { is_hidden: false, name, column_type, charset, key_position: Some(1) };
                    decoder.learn(schema, table, vec![column]);
                }
            }
        }
    }
    batches.extend(decoder.flush());
    Ok(batches)
}

pub(super) fn read_all(log: &Log, rows_max: u32) -> Vec<RowBatch> {
    read(&mut decoder(begin_of(FILE), rows_max), log).expect("decoded")
}

pub(super) fn all_ids(batches: &[RowBatch]) -> Vec<i64> {
    batches.iter().flat_map(ids).collect()
}

pub(super) fn cause(log: &Log, rows_max: u32) -> DecodeErrorKind {
    read(&mut decoder(begin_of(FILE), rows_max), log).expect_err("a cause").cause
}

#[test]
fn small_transactions_share_a_batch_and_a_large_one_is_cut() {
    let mut log = Log::new();
    log.transaction(&[1]);
    log.transaction(&[2]);
    let begin = log.begin();
    let event = log.insert(&[3, 4, 5]);
    log.commit();
    let batches = read_all(&log, 3);
    assert_eq!(batches.iter().map(ids).collect::<Vec<_>>(), [vec![1, 2, 3], vec![4, 5]]);
    let partial = PartialTransaction { file: FILE.to_owned(), progress: EventOffset { event, rows: 1 } };
    assert_eq!((batches[0].resume.position.offset, &batches[0].resume.partial), (begin, &Some(partial)));
    assert_eq!((&batches[1].resume.position, &batches[1].resume.partial), (&log.writer.position(), &None));
    assert_eq!((batches[0].new_tables.len(), batches[1].new_tables.len()), (1, 0), "a table is new once");
}

#[test]
fn a_pause_gives_what_is_committed_and_nothing_within_a_transaction() {
    let mut log = Log::new();
    log.transaction(&[1]);
    log.begin();
    log.insert(&[2]);
    let mut decoder = decoder(begin_of(FILE), 10);
    assert!(read(&mut decoder, &log).expect("decoded").is_empty());
    log.commit();
    assert_eq!(all_ids(&read(&mut decoder, &log).expect("decoded")), [1, 2]);
}

#[test]
fn a_position_past_4_gib_is_what_is_past_behind_one_that_a_server_can_be_asked_for() {
    let mut log = Log::new();
    log.transaction(&[1]);
    let last = log.writer.position();
    log.writer.skip(3 << 30);
    log.query("FLUSH PRIVILEGES");
    log.writer.skip(3 << 30);
    let begin = log.begin();
    log.insert(&[2]);
    log.commit();
    assert!(begin > 6 << 30);
    let batches = read_all(&log, 1);
    let resume = &batches.last().expect("a batch").resume;
    assert!(resume.position.offset > last.offset && resume.position.offset <= u64::from(u32::MAX));
    let end = log.writer.position().offset;
    assert_eq!(resume.partial.as_ref().map(|partial| partial.progress), Some(EventOffset { event: end, rows: 0 }));
}

#[test]
fn what_is_in_no_file_moves_no_position() {
    let mut log = Log::new();
    log.transaction(&[1]);
    let mut decoder = decoder(begin_of(FILE), 10);
    read(&mut decoder, &log).expect("decoded");
    let position = decoder.position().clone();
    for event in [log.writer.heartbeat(FILE, 99), log.writer.dump(&position)[0].clone()] {
        assert!(matches!(decoder.next(&event), Ok(Next::Event)));
        assert_eq!(*decoder.position(), position);
    }
}

/// Writes a compressed transaction of these events. Returns its offset, and the events' offsets once decompressed.
pub(super) fn compressed(log: &mut Log, events: Vec<Event>) -> (u64, Vec<u32>) {
    log.number += 1;
    log.writer.write(&Event::Gtid { gtid: None, commit_time_us: 0 });
    let sizes = events.iter().map(|event| 19 + event.body().len() as u32);
    let offsets = sizes.scan(0, |end, size| Some(std::mem::replace(end, *end + size))).collect();
    (log.writer.write(&Event::Payload { events, zstd: true }).begin, offsets)
}

#[test]
fn rows_of_a_compressed_transaction_are_numbered_from_where_their_event_begins_in_it() {
    let mut log = Log::new();
    let [map, first] = log.events(&[1, 2]);
    let [_, second] = log.events(&[3, 4]);
    let begin = Event::Query(Statement::new("BEGIN"));
    let (payload, offsets) = compressed(&mut log, vec![begin, map, first, second, Event::Xid(1)]);
    let batches = read_all(&log, 3);
    let partial =
        PartialTransaction { file: FILE.to_owned(), progress: EventOffset { event: payload, rows: offsets[3] + 1 } };
    assert_eq!(batches[0].resume.partial, Some(partial));
    let rest = read(&mut decoder(batches[0].resume.clone(), 3), &log).expect("decoded");
    assert_eq!((all_ids(&batches), all_ids(&rest)), (vec![1, 2, 3, 4], vec![4]));
}

#[test]
fn other_table_patterns_do_not_shift_the_rows_of_a_compressed_transaction() {
    struct All;
    impl TableSelector for All {
        fn table(&self, _schema: &str, _table: &str) -> bool {
            true
        }

        fn schema(&self, _schema: &str) -> bool {
            true
        }
    }

    let mut log = Log::new();
    let [Event::TableMap { number, table }, first] = log.events(&[1, 2]) else { panic!("a map and rows") };
    let hidden = Event::TableMap { number, table: TableDefinition { schema: "hidden".to_owned(), ..table } };
    let [map, second] = log.events(&[3, 4]);
    let begin = Event::Query(Statement::new("BEGIN"));
    compressed(&mut log, vec![begin, hidden, first, map, second, Event::Xid(1)]);
    let mut all = Decoder::new(begin_of(FILE), Box::new(All));
    all.bound_batches(Cost { rows: 2, bytes: u32::MAX });
    let batches = read(&mut all, &log).expect("decoded");
    assert_eq!(all_ids(&batches), [1, 2, 3, 4]);
    let rest = read(&mut decoder(batches[0].resume.clone(), 2), &log).expect("decoded");
    assert_eq!(all_ids(&rest), [3, 4]);
}

#[test]
fn a_transaction_that_is_in_the_set_of_gtids_is_past() {
    let mut log = Log::new();
    log.transaction(&[1]);
    let executed = log.writer.executed().clone();
    log.transaction(&[2]);
    let resume = ResumePoint { gtids: Some(Arc::new(executed)), ..begin_of(FILE) };
    assert_eq!(all_ids(&read(&mut decoder(resume, 10), &log).expect("decoded")), [2]);
}

#[test]
fn rows_wait_where_a_savepoint_may_take_them_back() {
    let mut log = Log::new();
    log.begin();
    log.insert(&[1, 2, 3]);
    log.query("SAVEPOINT `a`");
    log.insert(&[4, 5, 6]);
    log.query("SAVEPOINT `b`");
    log.insert(&[7]);
    log.query("ROLLBACK TO `a`");
    log.insert(&[8]);
    log.commit();
    for rows_max in 1..10 {
        assert_eq!(all_ids(&read_all(&log, rows_max)), [1, 2, 3, 8], "{rows_max} rows in a batch");
    }
}

#[test]
fn a_rollback_takes_back_what_was_not_handed_on_and_stops_otherwise() {
    let mut log = Log::new();
    log.transaction(&[1]);
    let since = BinlogPosition::new(FILE, log.begin());
    log.insert(&[2, 3]);
    log.query("ROLLBACK");
    log.transaction(&[4]);
    assert_eq!(all_ids(&read_all(&log, 3)), [1, 4]);
    assert!(matches!(cause(&log, 2), DecodeErrorKind::RolledBack { since: found, .. } if found == since));
}

#[test]
fn what_a_crash_cut_off_never_happened() {
    let mut log = Log::new();
    log.transaction(&[1]);
    log.begin();
    log.insert(&[2]);
    log.writer.crash();
    log.transaction(&[3]);
    assert_eq!(all_ids(&read_all(&log, 10)), [1, 3]);
    let mut log = Log::new();
    log.begin();
    log.writer.rotate();
    assert_eq!(cause(&log, 10), DecodeErrorKind::Malformed("the file ends within a transaction"));
}

#[test]
fn a_prepared_transaction_comes_when_it_is_committed() {
    let (mut log, id) = (Log::new(), xa_id());
    log.transaction(&[0]);
    let before = log.writer.position();
    log.prepare(&id, &[1, 2, 3]);
    log.transaction(&[4]);
    let open = read_all(&log, 2);
    assert_eq!((all_ids(&open), &open[0].resume.position), (vec![0, 4], &before), "it must be read again");
    log.query(&format!("XA COMMIT {id}"));
    let batches = read_all(&log, 2);
    assert_eq!(all_ids(&batches), [0, 4, 1, 2, 3]);
    let [.., first, last] = &batches[..] else { panic!("two batches of it") };
    assert_eq!((&first.resume.position, &last.resume.position), (&before, &log.writer.position()));
    assert_eq!(last.resume.partial, None, "once all of it is emitted it doesn't come again");
    let again = read(&mut decoder(first.resume.clone(), 2), &log).expect("decoded");
    assert_eq!(all_ids(&again), [1, 2, 3], "it comes whole or not at all, and nothing else comes again");
}

#[test]
fn a_prepared_transaction_may_be_rolled_back_or_unknown() {
    let (mut log, id) = (Log::new(), xa_id());
    log.prepare(&id, &[1]);
    let after = log.writer.position();
    log.query(&format!("XA ROLLBACK {id}"));
    let batches = read_all(&log, 2);
    assert_eq!((all_ids(&batches), &batches[0].resume.position), (vec![], &log.writer.position()));
    log.query(&format!("XA COMMIT {id}"));
    assert_eq!(cause(&log, 2), DecodeErrorKind::UnknownXa("x'7831',x'',1".to_owned()));
    let partial = PartialTransaction {
        file: FILE.to_owned(),
        progress: EventOffset { event: log.writer.position().offset, rows: 0 },
    };
    let resume = ResumePoint { partial: Some(partial), ..ResumePoint::at("server", after) };
    assert!(read(&mut decoder(resume, 2), &log).is_ok(), "an earlier run processed it");
}

#[test]
fn a_prepared_transaction_is_not_past_though_the_next_file_lists_it() {
    let (mut log, id) = (Log::new(), xa_id());
    log.transaction(&[1]);
    let start = ResumePoint::at("server", log.writer.position());
    log.prepare(&id, &[2]);
    log.writer.rotate();
    log.transaction(&[3]);
    let mut first = decoder(start.clone(), 1);
    let handed = read(&mut first, &log).expect("decoded").pop().expect("a batch");
    assert_eq!((&handed.resume.position, &handed.resume.gtids), (&start.position, &None));
    log.query(&format!("XA COMMIT {id}"));
    assert_eq!(all_ids(&read(&mut decoder(handed.resume, 1), &log).expect("decoded")), [2]);
}

#[test]
fn the_resume_point_never_goes_back() {
    let (mut log, id) = (Log::new(), xa_id());
    log.prepare(&id, &[1]);
    log.transaction(&[2]);
    log.transaction(&[3]);
    let resume = read_all(&log, 10).pop().expect("a batch").resume;
    let mut decoder = decoder(resume.clone(), 10);
    for event in log.writer.dump(&resume.position) {
        while let Next::Batch(batch) = decoder.next(&event).expect("decoded") {
            assert_eq!(batch.resume, resume);
        }
        decoder.flush().into_iter().for_each(|batch| assert_eq!(batch.resume, resume));
    }
}

#[test]
fn a_lost_connection_begins_where_the_last_batch_ended() {
    let mut log = Log::new();
    log.transaction(&[1]);
    log.begin();
    log.insert(&[2, 3, 4]);
    log.commit();
    let mut decoder = decoder(begin_of(FILE), 2);
    let events = log.writer.dump(&begin_of(FILE).position);
    let batch = events.iter().find_map(|event| match decoder.next(event).expect("decoded") {
        Next::Batch(batch) => Some(*batch),
        _ => None,
    });
    let resume = batch.as_ref().map(|batch| batch.resume.clone());
    assert_eq!((batch.as_ref().map(ids), Some(decoder.rewind())), (Some(vec![1, 2]), resume));
    assert_eq!(all_ids(&read(&mut decoder, &log).expect("decoded")), [3, 4]);
}

#[test]
fn columns_are_learned_anew_after_statements_and_lost_connections() {
    let mut log = Log::new();
    log.named = false;
    let first = log.begin();
    log.insert(&[1]);
    log.commit();
    log.query("ALTER TABLE shop.t RENAME COLUMN a TO b");
    log.transaction(&[2]);
    let names = |batches: &[RowBatch]| -> Vec<String> {
        let tables = batches.iter().flat_map(|batch| &batch.new_tables);
        tables.map(|table| table.columns[0].name.clone()).collect()
    };
    let mut decoder = decoder(begin_of(FILE), 1);
    let found = names(&read(&mut decoder, &log).expect("decoded"));
    assert_eq!((found.len(), found[0] == found[1]), (2, false));
    decoder.relocate(ResumePoint::at("server", BinlogPosition::new(FILE, first)));
    let batches = read(&mut decoder, &log).expect("decoded");
    let tables: Vec<u32> = batches
        .iter()
        .flat_map(|batch| {
            let batch = batch.packed.view();
            batch.rows().map(|row| row.table().0).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(tables, [0, 1], "the first row has the table version of its time");
}

#[test]
fn what_is_unknown_stops_unless_it_may_be_passed_over() {
    let other = |ignorable| Event::Other { kind: EventKind(200), ignorable, body: vec![] };
    let mut log = Log::new();
    log.transaction(&[1]);
    log.writer.write(&other(true));
    assert_eq!(all_ids(&read_all(&log, 10)), [1]);
    log.writer.write(&other(false));
    assert_eq!(cause(&log, 10), DecodeErrorKind::UnknownEvent);
    let mut log = Log::new();
    log.writer.write(&Event::Incident("lost".to_owned()));
    assert_eq!(cause(&log, 10), DecodeErrorKind::Incident("lost".to_owned()));
}

#[test]
fn a_change_that_is_logged_as_a_statement_stops_where_it_may_be_wanted() {
    let statement = |schema: &str| {
        let changed_schemas = Some(vec![schema.to_owned()]);
        Event::Query(Statement { changed_schemas, ..Statement::new("DELETE FROM t") })
    };
    let mut log = Log::new();
    log.writer.write(&statement("hidden"));
    log.transaction(&[1]);
    assert_eq!(all_ids(&read_all(&log, 10)), [1]);
    log.writer.write(&statement("shop"));
    assert!(matches!(cause(&log, 10), DecodeErrorKind::Statement(_)));
}

#[test]
fn a_bad_event_in_an_open_transaction_stands_directly_after_what_came() {
    let mut log = Log::new();
    log.transaction(&[1]);
    let begin = log.begin();
    log.insert(&[2, 3]);
    let bad = log.writer.write(&Event::Other { kind: EventKind(200), ignorable: false, body: vec![] }).begin;
    let (batches, error) = read_to_error(&mut decoder(begin_of(FILE), 10), &log);
    assert_eq!((all_ids(&batches), error.position.offset, error.transaction), (vec![1, 2, 3], bad, Some(begin)));
    let partial = PartialTransaction { file: FILE.to_owned(), progress: EventOffset { event: bad, rows: 0 } };
    let resume = &batches.last().expect("a batch").resume;
    assert_eq!((resume.position.offset, &resume.partial), (begin, &Some(partial)));
}

#[test]
fn a_bad_event_after_more_than_can_be_held_back() {
    let mut most_handed = 0;
    for rows in (100..2000).step_by(100) {
        let mut log = Log::new();
        log.begin();
        log.query("SAVEPOINT a");
        log.insert(&(0..rows).collect::<Vec<_>>());
        log.query("SAVEPOINT b");
        log.insert(&[rows]);
        log.writer.write(&Event::Other { kind: EventKind(200), ignorable: false, body: vec![] });
        let (batches, _) = read_to_error(&mut decoder(begin_of(FILE), 100), &log);
        let handed = all_ids(&batches).len() as i64;
        most_handed = most_handed.max(handed);
        let Some(last) = batches.last() else { continue };
        let (again, _) = read_to_error(&mut decoder(last.resume.clone(), 1), &log);
        assert!(all_ids(&again).first().is_none_or(|first| *first == handed), "none of {rows} rows comes again");
    }
    assert!(most_handed > 500, "more than {most_handed} rows can be held back");
}
