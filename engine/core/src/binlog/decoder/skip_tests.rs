//! Tests of changes that cannot be decoded and are skipped.

use super::super::writer::*;
use super::super::{SkippedChange, SkippedContent};
use super::tests::*;
use super::*;

/// Returns a log of transactions in `shop.texts`, each with one event of rows `(id, text)`.
fn log_of_texts(transactions: &[&[(i32, &[u8])]]) -> Log {
    let mut log = Log::new();
    let types = [ColumnType::Int, ColumnType::Varchar { bytes_max: 40 }];
    let columns = ["id", "v"].iter().zip(types);
    let columns = columns
        .map(|(name, column_type)| ColumnDefinition { name: (*name).to_owned(), column_type, nullable: false })
        .collect();
    let (schema, name) = ("shop".to_owned(), "texts".to_owned());
    let table = TableDefinition { schema, name, columns, key: vec![0], named: true };
    for rows in transactions {
        log.begin();
        log.writer.write(&Event::TableMap { number: 8, table: table.clone() });
        let row = |(id, text): &(i32, &[u8])| (Vec::new(), vec![Value::Int(*id), Value::Bytes(text.to_vec())]);
        let (rows, columns) = (rows.iter().map(row).collect(), types.to_vec());
        let (change, layout) = (Change::Write, RowsLayout::V2);
        log.writer.write(&Event::Rows(Rows { number: 8, change, layout, rows, columns }));
        log.commit();
    }
    log
}

fn skipping(resume: ResumePoint, rows_max: u32) -> Decoder {
    decoder(resume, rows_max).with_skipping(true)
}

/// Returns the index in its event, and the content, of each skipped change.
fn skipped(batches: &[RowBatch]) -> Vec<(u32, SkippedContent)> {
    batches.iter().filter_map(|batch| batch.skipped.as_ref()).map(|it| (it.row, it.content.clone())).collect()
}

#[test]
fn a_row_that_cannot_be_decoded_is_passed_over_alone() {
    let log = log_of_texts(&[
        &[(1, b"a"), (2, b"\xff"), (3, b"c")],
        &[(4, b"\xfe\xff")],
        &[(5, b"\xff"), (6, b""), (7, b"\xff")],
    ]);
    let image = |id: u8, text: &[u8]| {
        let bytes = [&[0, id, 0, 0, 0, text.len() as u8][..], text].concat();
        SkippedContent::Images(bytes)
    };
    let bad = [(1, image(2, b"\xff")), (0, image(4, b"\xfe\xff")), (0, image(5, b"\xff")), (2, image(7, b"\xff"))];
    for rows_max in 1..5 {
        let all = read(&mut skipping(begin_of(FILE), rows_max), &log).expect("decoded");
        assert_eq!((all_ids(&all), skipped(&all)), (vec![1, 3, 6], bad.to_vec()), "batches of {rows_max}");
        assert_eq!(all.last().map(|batch| &batch.resume.position), Some(&log.writer.position()));
        // A restart at any resume point repeats no row, and loses neither rows nor skipped changes.
        for (index, batch) in (1..).zip(&all) {
            let rest = read(&mut skipping(batch.resume.clone(), 2), &log).expect("decoded");
            let before = all_ids(&all[..index]);
            assert_eq!([before, all_ids(&rest)].concat(), [1, 3, 6], "from {}", batch.resume);
            let (before, after) = (skipped(&all[..index]), skipped(&rest));
            assert!(bad.iter().all(|bad| before.contains(bad) || after.contains(bad)), "from {}", batch.resume);
            let place = |it: &SkippedChange| EventOffset { event: it.error.position.offset, rows: it.row };
            let mut places = rest.iter().filter_map(|batch| batch.skipped.as_deref()).map(place);
            let partial = batch.resume.partial.as_ref().map(|partial| partial.progress);
            assert!(places.all(|place| partial.is_none_or(|partial| place >= partial)), "from {}", batch.resume);
        }
        let whole = read(&mut skipping(all.last().expect("one").resume.clone(), 2), &log).expect("decoded");
        assert_eq!((all_ids(&whole), skipped(&whole)), (vec![], vec![]), "everything is done");
    }
    let first = &read(&mut skipping(begin_of(FILE), 9), &log).expect("decoded")[0];
    let SkippedChange { error, gtid, bytes, .. } = &**first.skipped.as_ref().expect("it comes before the open rows");
    assert!(gtid.ends_with(":1") && *bytes == 7 && error.transaction.is_some() && error.position.offset > 200);
    assert_eq!((error.kind, error.table.as_deref()), (EventKind::WRITE_ROWS, Some("shop.texts")));
    assert!(matches!(&error.cause, DecodeErrorKind::Text { column, .. } if column == "v"), "{error}");
    // Without `with_skipping` the row is an error.
    let (batches, error) = read_to_error(&mut decoder(begin_of(FILE), 9), &log);
    assert_eq!((all_ids(&batches), matches!(error.cause, DecodeErrorKind::Text { .. })), (vec![1], true));
}

#[test]
fn an_event_of_which_no_row_has_an_end_is_passed_over_to_its_end() {
    let mut log = log_of_texts(&[&[(1, b"a")]]);
    log.begin();
    let [map, rows] = log.events(&[2, 3]);
    log.writer.write(&map);
    let mut body = rows.body();
    body.truncate(body.len() - 2);
    let cut = Event::Other { kind: rows.kind(), ignorable: false, body };
    log.writer.write(&cut);
    log.insert(&[4]);
    log.commit();
    let all = read(&mut skipping(begin_of(FILE), 9), &log).expect("decoded");
    assert_eq!(all_ids(&all), [1, 2, 4]);
    let [(1, SkippedContent::Event(body))] = &skipped(&all)[..] else { panic!("{:?}", skipped(&all)) };
    assert!(body.len() > 10);
}

#[test]
fn statements_are_passed_over_and_what_leaves_rows_open_is_not() {
    let mut log = Log::new();
    log.transaction(&[1]);
    log.query("DELETE FROM t");
    log.writer.execute();
    log.begin();
    log.insert(&[2]);
    log.query("UPDATE t SET id = 9");
    log.insert(&[3]);
    log.commit();
    let all = read(&mut skipping(begin_of(FILE), 9), &log).expect("decoded");
    assert_eq!(all_ids(&all), [1, 2, 3]);
    let statement = |text: &str| (0, SkippedContent::Statement(text.to_owned()));
    assert_eq!(skipped(&all), [statement("DELETE FROM t"), statement("UPDATE t SET id = 9")]);

    let commit = Event::Query(Statement::new("XA COMMIT X'7831',X'',1"));
    let unknown = Event::Other { kind: EventKind(200), ignorable: false, body: vec![0; 9] };
    let Event::Rows(rows) = log.events(&[4])[1].clone() else { unreachable!("rows") };
    let unmapped = Event::Rows(Rows { number: 99, ..rows });
    for event in [commit, unknown, unmapped] {
        let mut log = Log::new();
        log.transaction(&[1]);
        log.begin();
        log.writer.write(&event);
        let (batches, error) = read_to_error(&mut skipping(begin_of(FILE), 9), &log);
        assert_eq!((all_ids(&batches), skipped(&batches)), (vec![1], vec![]), "{error}");
    }
}

#[test]
fn rows_of_a_table_that_cannot_be_known_are_passed_over() {
    let mut log = Log::new();
    log.named = false;
    log.begin();
    log.insert(&[1, 2]);
    log.named = true;
    log.insert(&[3]);
    log.commit();
    let mut decoder = skipping(begin_of(FILE), 9);
    let mut batches = Vec::new();
    for event in log.writer.dump(&decoder.position().clone()) {
        loop {
            match decoder.next(&event).expect("decoded") {
                Next::Event => break,
                Next::Batch(batch) => batches.push(*batch),
                Next::Columns { schema, table, .. } => {
                    decoder.give_up_columns(schema, table, "changed since".to_owned())
                }
            }
        }
    }
    batches.extend(decoder.flush());
    assert_eq!(all_ids(&batches), [3]);
    let skipped: Vec<_> = batches.iter().filter_map(|batch| batch.skipped.as_deref()).collect();
    let [SkippedChange { error, content: SkippedContent::Event(_), .. }] = skipped[..] else { panic!("{skipped:?}") };
    assert_eq!((error.table.as_deref(), error.cause.to_string().as_str()), (Some("shop.t"), "changed since"));
}
