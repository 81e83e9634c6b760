//! Tests the decoder against a model of a server.
//!
//! Of any history each committed row must arrive exactly once, in the order of the commits, whatever the bounds of
//! batches are, wherever the connection is lost, and at whichever resume point a later run begins.

mod history;
mod reader;
mod server;
mod written;

use std::sync::Arc;

use proptest::prelude::*;

use self::history::{End, Flavor, Head, History, Item, Part, Row, Setup, Step, history};
pub(super) use self::reader::Columns;
use self::reader::*;
use self::written::{Boundary, Void, Written};
use super::writer::{Change, Event, EventBytes, Statement};
use super::{DecodeError, DecodeErrorKind, EndFinder, EventKind, TransactionEnd};
use crate::gtid::GtidSet;
use crate::position::{BinlogPosition, EventOffset, PartialTransaction, ResumePoint};

/// Returns the resume point at which reading begins, and the number of items before it.
fn beginning(written: &Written, reading: Reading) -> (ResumePoint, usize) {
    let starts: Vec<&Boundary> = written.boundaries.iter().filter(|boundary| boundary.is_start()).collect();
    let Boundary { position, committed, executed, .. } = starts[reading.begin % starts.len()];
    let gtids = reading.knows_gtids.then(|| Arc::new(executed.clone()));
    (ResumePoint { gtids, ..ResumePoint::at("server", position.clone()) }, *committed)
}

fn check(history: &History, reading: Reading) -> Result<(), TestCaseError> {
    let written = history.write(false);
    let (start, first) = beginning(&written, reading);
    let dump = written.writer.dump(&start.position);
    let mut whole = Reader::new(&written, start, first, reading);
    if read_on(&mut whole, &dump)? == Outcome::Whole {
        let end = whole.decoder.resume_before();
        let is_held_back = written.boundaries.last().is_some_and(|last| last.has_prepared) || whole.is_far(end);
        prop_assert!(is_held_back || end.partial.is_none(), "the resume point after all transactions is {}", end);
        reconnects(&written, reading, whole.calls)?;
        restarts(&written, reading, &whole)?;
        relocations(history, &written, reading, &whole)?;
        skips(&written, reading)?;
        ends(&written)?;
        faults(&written, reading, &beginning(&written, reading))?;
        if !whole.batches.is_empty() {
            let handed = &whole.batches[reading.pauses as usize % whole.batches.len()];
            faults(&written, reading, &(handed.resume.clone(), next_item(&written, handed)))?;
        }
    }
    Ok(())
}

/// Continues reading, and compares the items that arrived with the committed ones.
fn read_on(reader: &mut Reader<'_>, dump: &[EventBytes]) -> Result<Outcome, TestCaseError> {
    let stop = reader.read(dump);
    let (written, items) = (reader.written, &reader.items[..]);
    let expected = &written.committed[reader.first..];
    match stop {
        Ok(()) => {
            prop_assert_eq!(items, expected);
            Ok(Outcome::Whole)
        }
        Err(Stop::ConnectionLost) => {
            // Rows of a transaction that is rolled back later may have arrived.
            let newest = items.last().and_then(Item::row).map(|Row { transaction, .. }| transaction);
            let begin = newest.map(|Head { file, position, .. }| BinlogPosition::new(file.clone(), *position));
            let void = begin.and_then(|begin| written.voids.get(&begin));
            let reached = reader.first + items.len();
            // Rows that can be held back come too, if big ones among them exceed what is held back.
            let is_expected = expected.starts_with(items);
            let may_come = |void: &Void| !void.is_held || written.has_big_rows && !is_expected;
            let is_in = |void: &&Void| (reader.first..reached).contains(&void.committed) && may_come(void);
            if let Some(void) = void.filter(is_in) {
                let rows = void.rows.iter().cloned().map(Item::Row);
                let expected: Vec<Item> =
                    written.committed[reader.first..void.committed].iter().cloned().chain(rows).collect();
                prop_assert_eq!(items, &expected[..items.len()]);
                return Ok(Outcome::VoidCame);
            }
            prop_assert_eq!(items, &expected[..items.len().min(expected.len())]);
            Ok(Outcome::ConnectionLost)
        }
        Err(Stop::Error(error)) => check_stop(written, items, reader.first, &error).map(|()| Outcome::Stopped),
    }
}

/// Checks that an error is expected: rows became void after more of them than can be held back.
fn check_stop(written: &Written, items: &[Item], first: usize, error: &DecodeError) -> Result<(), TestCaseError> {
    match &error.cause {
        DecodeErrorKind::RolledBack { since, .. } => {
            let Some(Void { committed, rows, is_held }) = written.voids.get(since) else {
                return Err(TestCaseError::fail(format!("no row is void since {since}: {error}")));
            };
            prop_assert!(!is_held || written.has_big_rows, "{} rows can be held back: {}", rows.len(), error);
            let expected = &written.committed[first..*committed];
            let (before, within) = items.split_at(expected.len().min(items.len()));
            prop_assert_eq!(before, expected);
            let emitted_items: Vec<Item> = rows.iter().take(within.len()).cloned().map(Item::Row).collect();
            prop_assert_eq!(within, &emitted_items[..]);
            prop_assert!(!within.is_empty(), "no row of the transaction was emitted: {}", error);
        }
        DecodeErrorKind::Unsupported { .. } if written.has_big_rows => {
            prop_assert_eq!(items, &written.committed[first..][..items.len()]);
        }
        cause => prop_assert!(false, "{:?}: {}", cause, error),
    }
    Ok(())
}

fn because(cause: &TestCaseError, what: String) -> TestCaseError {
    TestCaseError::fail(format!("{what}: {cause}"))
}

/// Loses the connection after each call in turn, and once more a little later.
fn reconnects(written: &Written, reading: Reading, calls: usize) -> Result<(), TestCaseError> {
    let (start, first) = beginning(written, reading);
    for lost_after in 0..calls {
        let mut reader = Reader::new(written, start.clone(), first, reading);
        let mut resume = start.clone();
        for calls_left in [Some(lost_after), Some(lost_after * 5 % 17), None] {
            reader.calls_left = calls_left;
            let outcome = read_on(&mut reader, &written.writer.dump(&resume.position))
                .map_err(|cause| because(&cause, format!("lost after call {lost_after}, resumed at {resume}")))?;
            if outcome == Outcome::VoidCame {
                resume = reader.decoder.rewind();
                reader.calls_left = None;
                let stop = reader.read(&written.writer.dump(&resume.position));
                let is_told = matches!(stop, Err(Stop::Error(error)) if matches!(error.cause, DecodeErrorKind::RolledBack { .. }));
                prop_assert!(is_told, "void rows arrived, and no error is reported: resumed at {}", resume);
            }
            if outcome != Outcome::ConnectionLost {
                break;
            }
            resume = reader.reconnect();
        }
    }
    Ok(())
}

/// Begins another run at the resume point of each batch.
fn restarts(written: &Written, reading: Reading, whole: &Reader<'_>) -> Result<(), TestCaseError> {
    for (index, handed) in whole.batches.iter().enumerate() {
        // The other run may have other bounds, pauses and projections.
        let other = Reading {
            rows_max: if index % 2 == 0 { reading.rows_max } else { 1 + (index as u32 * 7) % 20 },
            pauses: reading.pauses.rotate_left(index as u32),
            needs: if index % 3 == 0 { reading.needs } else { None },
            ..reading
        };
        let mut reader = Reader::new(written, handed.resume.clone(), next_item(written, handed), other);
        read_on(&mut reader, &written.writer.dump(&handed.resume.position))
            .map_err(|cause| because(&cause, format!("began at {}", handed.resume)))?;
    }
    Ok(())
}

/// Skips changes that are logged as statements: a record of each arrives, and all rows arrive as without them. After a
/// restart at any batch's resume point no record and no row is missing.
fn skips(written: &Written, reading: Reading) -> Result<(), TestCaseError> {
    let reading = Reading { skips: true, ..reading };
    let (start, first) = beginning(written, reading);
    let mut whole = Reader::new(written, start.clone(), first, reading);
    // Batches that end elsewhere change how much can be held back, so this run may stop earlier.
    if read_on(&mut whole, &written.writer.dump(&start.position))? != Outcome::Whole {
        return Ok(());
    }
    prop_assert_eq!(&whole.skipped, &whole.statements);
    for handed in &whole.batches {
        let mut reader = Reader::new(written, handed.resume.clone(), next_item(written, handed), reading);
        let outcome = read_on(&mut reader, &written.writer.dump(&handed.resume.position))
            .map_err(|cause| because(&cause, format!("began at {}", handed.resume)))?;
        let came = |text: &&String| whole.skipped[..handed.skipped].contains(text) || reader.skipped.contains(text);
        let missing = whole.statements.iter().find(|text| !came(text));
        prop_assert_eq!(missing.filter(|_| outcome == Outcome::Whole), None, "began at {}", handed.resume);
    }
    Ok(())
}

/// Finds the end of each transaction, reading from its beginning and from the head of its file.
fn ends(written: &Written) -> Result<(), TestCaseError> {
    let mut last = None;
    for (item, xa) in written.committed.iter().zip(&written.xa_first) {
        let Item::Row(Row { transaction, .. }) = item else { continue };
        // A prepared transaction ends elsewhere.
        if xa.is_some() || last.replace(transaction) == Some(transaction) {
            continue;
        }
        let begin = BinlogPosition::new(transaction.file.clone(), transaction.position);
        let is_after =
            |boundary: &&Boundary| boundary.position.file == begin.file && boundary.position.offset > begin.offset;
        // If the server ends the file after the transaction, the next boundary is in the next file.
        let Some(end) = written.boundaries.iter().find(is_after) else { continue };
        for offset in [begin.offset, BinlogPosition::FIRST_EVENT] {
            if u32::try_from(offset).is_err() {
                continue; // no server accepts this position
            }
            let mut finder = EndFinder::new(begin.clone(), offset);
            let dump = written.writer.dump(&BinlogPosition { offset, ..begin.clone() });
            let found = dump.iter().find_map(|event| finder.event(event));
            let gtid = (!transaction.gtid.is_empty()).then(|| transaction.gtid.clone());
            let expected = TransactionEnd { position: end.position.clone(), gtid };
            prop_assert_eq!(found, Some(expected), "the end of {}, read from {}", begin, offset);
        }
    }
    Ok(())
}

/// Replaces the server by a replica, at each resume point that has GTIDs.
fn relocations(
    history: &History,
    written: &Written,
    reading: Reading,
    whole: &Reader<'_>,
) -> Result<(), TestCaseError> {
    if matches!(history.setup.flavor, Flavor::MySqlAnonymous | Flavor::MySqlWithoutGtids) {
        return Ok(());
    }
    let replica = history.write(true);
    for (index, handed) in whole.batches.iter().enumerate() {
        let Some(gtids) = handed.resume.gtids.clone() else { continue };
        let (start, first) = beginning(written, reading);
        let mut reader = Reader::new(written, start.clone(), first, reading);
        reader.calls_left = Some(index * 3);
        let _ = reader.read(&written.writer.dump(&start.position));
        reader.calls_left = None;
        reader.reconnect();
        reader.written = &replica;
        reader.first = 0;
        reader.batches.clear();
        let position = BinlogPosition::new("", BinlogPosition::FIRST_EVENT);
        reader
            .decoder
            .relocate(ResumePoint { gtids: Some(Arc::clone(&gtids)), ..ResumePoint::at("replica", position) });
        // For a request by position, a server also sends the transactions in the set. MariaDB is always asked by position.
        let dump = match index % 2 {
            0 => dump_by_gtids(&replica, &gtids),
            _ => replica.writer.dump(&replica.boundaries[0].position),
        };
        match reader.read(&dump) {
            Err(Stop::Error(error))
                if matches!(error.cause, DecodeErrorKind::RolledBack { .. } | DecodeErrorKind::Unsupported { .. }) =>
            {
                continue;
            }
            Err(Stop::Error(error)) => prop_assert!(false, "after {}: {}", gtids, error),
            Ok(()) | Err(Stop::ConnectionLost) => {}
        }
        let is_new = |item: &&Item| !is_in(&gtids, item.gtid());
        let expected: Vec<Item> = replica.committed.iter().filter(is_new).map(Item::elsewhere).collect();
        let found: Vec<Item> = reader.items.iter().map(Item::elsewhere).collect();
        prop_assert_eq!(found, expected, "after {}", gtids);
        // A later run continues from one of the replica's resume points.
        if !reader.batches.is_empty() {
            let handed = reader.batches[reading.pauses as usize % reader.batches.len()].clone();
            again_on_replica(&replica, reading, &reader.items, &handed)?;
        }
    }
    Ok(())
}

/// Returns what a server sends for a request of the transactions that aren't in a set.
fn dump_by_gtids(written: &Written, gtids: &GtidSet) -> Vec<EventBytes> {
    match gtids {
        GtidSet::MySql(_) => written.writer.dump_by_gtids(gtids),
        GtidSet::MariaDb(_) => written.writer.dump(&written.writer.file_before(gtids)),
    }
}

/// Begins another run at a resume point of the replica: by GTIDs alone, as long as the resume point has no position.
fn again_on_replica(
    replica: &Written,
    reading: Reading,
    items: &[Item],
    handed: &EmittedBatch,
) -> Result<(), TestCaseError> {
    let ResumePoint { position, gtids, .. } = &handed.resume;
    let dump = match gtids {
        Some(gtids) if position.file.is_empty() => dump_by_gtids(replica, gtids),
        _ => replica.writer.dump(position),
    };
    let mut reader = Reader::new(replica, handed.resume.clone(), 0, reading);
    if let Err(Stop::Error(error)) = reader.read(&dump) {
        let is_deserved =
            matches!(error.cause, DecodeErrorKind::RolledBack { .. } | DecodeErrorKind::Unsupported { .. });
        prop_assert!(is_deserved, "began at {}: {}", handed.resume, error);
        return Ok(());
    }
    let missing = items[handed.next..].len().saturating_sub(reader.items.len());
    prop_assert_eq!(missing, 0, "began at {}", handed.resume);
    let first = items.len() - reader.items.len().min(items.len());
    prop_assert_eq!(&reader.items[..], &items[first..], "began at {}", handed.resume);
    let newest = handed.next.checked_sub(1).and_then(|index| items.get(index));
    let may_repeat = newest.is_some_and(|item| match item {
        Item::SchemaChange { .. } => true,
        Item::Row(_) => {
            let index = replica.committed.iter().position(|committed| committed == item);
            index.is_some_and(|index| replica.xa_first[index].is_some())
        }
    });
    prop_assert!(first == handed.next || may_repeat, "{} items arrive again", handed.next - first);
    Ok(())
}

/// Makes each event in turn undecodable: all items that were committed before it arrive, and the resume point is
/// directly before it.
fn faults(written: &Written, reading: Reading, (start, first): &(ResumePoint, usize)) -> Result<(), TestCaseError> {
    let dump = written.writer.dump(&start.position);
    // The first event is the artificial rotation.
    for bad in 1..dump.len() {
        let mut reader = Reader::new(written, start.clone(), *first, reading);
        let mut events = dump[..bad].to_vec();
        let statement = Event::Query(Statement { schema: "shop".to_owned(), ..Statement::new("DELETE FROM orders") });
        match bad % 3 {
            0 if written.writer.has_checksums() => {
                let mut event = dump[bad].to_vec();
                *event.last_mut().expect("a checksum") ^= 0xff;
                events.push(event.into());
            }
            // Before the format description it is unknown whether events have checksums. A statement that an earlier
            // run processed is skipped.
            1 if start.partial.is_some() => continue,
            1 if bad > 1 => events.push(written.writer.loose(&statement)),
            _ if bad > 1 => {
                let unknown = Event::Other { kind: EventKind(200), ignorable: false, body: vec![0; 9] };
                events.push(written.writer.loose(&unknown));
            }
            _ => continue,
        }
        let Err(Stop::Error(error)) = reader.read(&events) else {
            return Err(TestCaseError::fail(format!("event {bad} was decoded")));
        };
        let what = |cause: &TestCaseError| because(cause, format!("event {bad} is bad: {error}"));
        cause(written, reading, start, &mut reader, &error).map_err(|cause| what(&cause))?;
    }
    Ok(())
}

fn cause(
    written: &Written,
    reading: Reading,
    start: &ResumePoint,
    reader: &mut Reader<'_>,
    error: &DecodeError,
) -> Result<(), TestCaseError> {
    let (first, next) = (reader.first, reader.first + reader.items.len());
    let committed = written.boundary_before(&error.position).committed.max(first);
    prop_assert!(next >= committed, "{} items committed before the event, {} arrived", committed - first, next - first);
    let resume = reader.batches.last().map_or(start, |handed| &handed.resume).clone();
    // The number of rows of the open transaction that arrived. The transaction may be rolled back later.
    let rows_of_open = next - committed;
    let begin = BinlogPosition::new(error.position.file.clone(), error.transaction.unwrap_or(0));
    if let Some(void) = written.voids.get(&begin).filter(|_| rows_of_open > 0) {
        let (_, found) = reader.items.split_at(committed - first);
        let rows = void.rows.iter().cloned().map(Item::Row).skip_while(|row| Some(row) != found.first());
        prop_assert_eq!(found, &rows.take(rows_of_open).collect::<Vec<_>>()[..]);
        return Ok(());
    }
    let mut expected = written.committed[first..next].to_vec();
    if let Some(Item::Row(last)) = expected.last_mut().filter(|_| rows_of_open > 0) {
        last.is_last = false; // its transaction's end isn't known yet
    }
    prop_assert_eq!(&reader.items[..], &expected[..]);
    if let Some(Item::Row(row)) = written.committed.get(committed).filter(|_| rows_of_open > 0)
        && row.transaction.position == begin.offset
        && !written.with_savepoints.contains(&begin)
    {
        let progress = EventOffset { event: error.position.offset, rows: 0 };
        let expected = PartialTransaction { file: error.position.file.clone(), progress };
        prop_assert_eq!(resume.partial.as_ref(), Some(&expected), "the resume point isn't directly before the event");
    }
    prop_assert_eq!(reader.decoder.next(&[]).err().map(|again| *again), Some(error.clone()), "the error is repeated");
    // The items that arrive after the event is fixed.
    let handed = reader.batches.last();
    let next = handed.map_or(first, |handed| next_item(written, handed));
    let mut retried = Reader::new(written, resume.clone(), next, reading);
    read_on(&mut retried, &written.writer.dump(&resume.position))?;
    Ok(())
}

/// Whether a set contains a transaction.
fn is_in(set: &GtidSet, gtid: &str) -> bool {
    let one: GtidSet = gtid.parse().expect("a GTID");
    !one.is_empty() && one.is_subset_of(set)
}

/// Returns a configuration with cases for a few seconds, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 400 };
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn committed_rows_come_exactly_once(history in history(), reading in reading()) {
        check(&history, reading)?;
    }
}

/// Rows are emitted, a savepoint is set, and the transaction is rolled back: the connection may be lost between the
/// last batch and the error.
#[test]
fn a_transaction_with_a_savepoint_is_rolled_back_too_late() {
    let rows = || {
        let (change, events) = (Change::Write, vec![2, 1]);
        Part::Rows { table: 0, change, events, partial: false, big: false }
    };
    for flavor in [Flavor::MySql, Flavor::MySqlAnonymous, Flavor::MariaDb] {
        let setup = Setup { flavor, checksums: true, terse: false, names_columns: true };
        let transaction = |parts, end| Step::Transaction { parts, end, payload: None };
        let steps = vec![
            transaction(vec![rows()], End::Xid),
            transaction(vec![rows(), Part::Savepoint(0), rows()], End::Rollback),
            transaction(vec![rows()], End::Xid),
        ];
        let history = History { setup, steps };
        for rows_max in 1..8 {
            let (bytes_max, needs, knows_gtids, begin, skips) = (u32::MAX, None, true, 0, false);
            let reading = Reading { rows_max, bytes_max, pauses: 0, needs, knows_gtids, begin, skips };
            check(&history, reading).expect("the model's items");
            let written = history.write(false);
            reconnects(&written, reading, 60).expect("the model's items");
        }
    }
}

/// Rows that are held back in MariaDB are emitted as a big one among them exceeds the limit, and are rolled back then.
#[test]
fn big_rows_that_are_rolled_back_come_too_early() {
    let setup = Setup { flavor: Flavor::MariaDb, checksums: false, terse: false, names_columns: false };
    let rows = |table, change, events: &[usize], big| {
        let events = events.to_vec();
        Part::Rows { table, change, events, partial: false, big }
    };
    let transaction = |parts, end| Step::Transaction { parts, end, payload: None };
    let (insert, update) = (Change::Write, Change::Update);
    let steps = vec![
        transaction(
            vec![
                rows(2, update, &[6, 1], false),
                rows(2, Change::Delete, &[2], false),
                rows(1, insert, &[3, 2], false),
            ],
            End::Xid,
        ),
        transaction(vec![], End::Xid),
        transaction(vec![Part::Savepoint(0)], End::Xid),
        transaction(
            vec![rows(0, insert, &[2, 3], false), rows(2, update, &[4, 1], false), rows(1, update, &[2, 6], false)],
            End::Xid,
        ),
        transaction(vec![rows(0, insert, &[2], false), rows(1, update, &[2], true)], End::Rollback),
    ];
    let history = History { setup, steps };
    let (rows_max, bytes_max, needs) = (7, 636, Some(16_510_982_228_663_917_814));
    let reading = Reading { rows_max, bytes_max, pauses: 0, needs, knows_gtids: false, begin: 0, skips: false };
    check(&history, reading).expect("the model's items");
}

/// The same for a compressed transaction, whose rollback is within the event that has the rows.
#[test]
fn a_compressed_transaction_is_rolled_back_too_late() {
    let rows = |events| Part::Rows { table: 0, change: Change::Write, events, partial: false, big: false };
    let setup = Setup { flavor: Flavor::MySql, checksums: false, terse: false, names_columns: true };
    let step = |events, end, payload| Step::Transaction { parts: vec![rows(events)], end, payload };
    let steps = vec![
        step(vec![5], End::Xid, None),
        step(vec![3, 4], End::Rollback, Some(false)),
        step(vec![1], End::Xid, None),
    ];
    let history = History { setup, steps };
    for rows_max in 1..9 {
        let (bytes_max, needs, knows_gtids, begin, skips) = (u32::MAX, None, false, 0, false);
        let reading = Reading { rows_max, bytes_max, pauses: 0, needs, knows_gtids, begin, skips };
        check(&history, reading).expect("the model's items");
        reconnects(&history.write(false), reading, 60).expect("the model's items");
    }
}

/// The servers' own tools can read the writer's files, and find the same number of rows.
#[test]
#[ignore = "needs the servers' tools: their paths in MYSQLBINLOG and MARIADB_BINLOG"]
fn the_servers_tools_read_the_same() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let directory = std::env::temp_dir().join(format!("rowmill-model-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut runner = TestRunner::deterministic();
    let (mut rows, mut files) = (0, 0);
    while files < 120 {
        let mut history = history().new_tree(&mut runner).expect("a history").current();
        // No real file has a gap, and the tools reject a transaction that a crash cut off.
        history.steps.retain(|step| !matches!(step, Step::Grow { .. } | Step::Crash { .. } | Step::Ignorable));
        let written = history.write(false);
        let tool = if history.setup.flavor == Flavor::MariaDb { "MARIADB_BINLOG" } else { "MYSQLBINLOG" };
        let tool = std::env::var(tool).expect("the tool's path");
        for index in 0..written.writer.file_count() {
            let path = directory.join(format!("binlog.{index:06}"));
            std::fs::write(&path, written.writer.file_bytes(index)).expect("written");
            let output = std::process::Command::new(&tool)
                .args(["--verify-binlog-checksum", "--verbose"])
                .arg(&path)
                .output()
                .expect("it runs");
            let text = String::from_utf8_lossy(&output.stdout);
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && !complaint.contains("ERROR"),
                "{}: {complaint}\n{history:?}",
                path.display()
            );
            let row =
                |line: &&str| ["### INSERT", "### UPDATE", "### DELETE"].iter().any(|verb| line.starts_with(verb));
            let shown = text.lines().filter(row).count();
            let expected = written.writer.rows_of(index);
            assert_eq!(shown, expected, "{}: {history:?}", path.display());
            rows += shown;
            files += 1;
        }
    }
    std::fs::remove_dir_all(&directory).expect("removed");
    assert!(rows > 500, "{rows} rows in {files} files");
}
