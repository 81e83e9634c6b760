use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{Decoder, Next, TableSelector};
use super::*;
use crate::gtid::GtidSet;
use crate::position::{EventOffset, PartialTransaction, ResumePoint};

struct Everything;

impl TableSelector for Everything {
    fn table(&self, _: &str, _: &str) -> bool {
        true
    }

    fn schema(&self, _: &str) -> bool {
        true
    }
}

const FILE: &str = "binlog.000001";
const GTID_EVENT: u8 = 162;
const FORMAT_EVENT: u8 = 15;

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/data/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a binlog file")
}

/// Returns the offset and the size of each of a file's events.
fn extents(file: &[u8]) -> Vec<(usize, usize)> {
    let mut at = 4;
    let mut extents = Vec::new();
    while let Some(size) = file.get(at + 9..at + 13) {
        let size = u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
        if file.len() < at + size {
            break; // cut off
        }
        extents.push((at, size));
        at += size;
    }
    extents
}

/// Changes an event, and corrects its checksum.
fn change(file: &mut [u8], (at, size): (usize, usize), change: impl FnOnce(&mut [u8])) {
    let event = &mut file[at..at + size];
    change(event);
    let crc = libdeflater::crc32(&event[..size - 4]);
    event[size - 4..].copy_from_slice(&crc.to_le_bytes());
}

fn events_of_kind(file: &[u8], kind: u8) -> Vec<(usize, usize)> {
    extents(file).into_iter().filter(|(at, _)| file[at + 4] == kind).collect()
}

fn sequence(file: &[u8], (at, _): (usize, usize)) -> u64 {
    u64::from_le_bytes(file[at + 19..at + 27].try_into().expect("eight bytes"))
}

fn with_gtid(file: &mut [u8], extent: (usize, usize), server: u32, sequence: u64) {
    change(file, extent, |event| {
        event[5..9].copy_from_slice(&server.to_le_bytes());
        event[19..27].copy_from_slice(&sequence.to_le_bytes());
    });
}

/// Returns the events that a server sends from an offset on. If that is not the file's head, the server clears the fields of
/// the format description that apply to the whole file.
fn sent(file: &[u8], offset: usize) -> Vec<Vec<u8>> {
    let extents = extents(file);
    let (head, rest) = extents.split_first().expect("a format description");
    let mut format = file[head.0..head.0 + head.1].to_vec();
    if offset > 4 {
        format[13..17].fill(0);
        format[17] &= !1;
        format[EventHeader::LEN + 52..EventHeader::LEN + 56].fill(0);
        let crc = libdeflater::crc32(&format[..head.1 - 4]);
        format[head.1 - 4..].copy_from_slice(&crc.to_le_bytes());
    }
    let rest = rest.iter().filter(|(at, _)| *at >= offset).map(|(at, size)| file[*at..at + size].to_vec());
    std::iter::once(format).chain(rest).collect()
}

/// The result of reading events with a flush after each: each row's event position and index in its event, and each resume
/// point with the number of rows before it.
#[derive(Debug, Default)]
struct Read {
    rows: Vec<(u64, u32)>,
    resumes: Vec<(ResumePoint, usize)>,
}

fn read(resume: ResumePoint, events: &[Vec<u8>]) -> Result<Read, String> {
    let mut decoder = Decoder::new(resume, Box::new(Everything));
    let mut read = Read::default();
    let take = |batch: super::super::RowBatch, read: &mut Read| {
        if let Some(deferred) = &batch.deferred {
            assert!(deferred.bytes() > 0, "it has rows");
        }
        let rows = batch.packed.view();
        read.rows.extend(rows.rows().map(|row| (row.event_position(), row.index_in_event())));
        read.resumes.push((batch.resume, read.rows.len()));
    };
    for event in events {
        loop {
            match decoder.next(event).map_err(|error| error.to_string())? {
                Next::Event => break,
                Next::Batch(batch) => take(*batch, &mut read),
                Next::Columns { .. } => panic!("the binlog names them"),
            }
        }
        while let Some(batch) = decoder.flush() {
            take(batch, &mut read);
        }
    }
    Ok(read)
}

/// Returns the artificial rotation that a server sends on a connection that begins at a file's head.
fn rotation(file: &str) -> Vec<u8> {
    let mut event = vec![0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0];
    event.extend(4u64.to_le_bytes());
    event.extend(file.as_bytes());
    let size = event.len() as u32 + 4;
    event[9..13].copy_from_slice(&size.to_le_bytes());
    event.extend(libdeflater::crc32(&event).to_le_bytes());
    event
}

fn at(offset: u64) -> ResumePoint {
    ResumePoint::at("server", BinlogPosition::new(FILE, offset))
}

#[test]
fn sequences_that_step_down_are_new_rows() {
    let mut file = file("mariadb-11.8.binlog");
    let all = read(at(4), &sent(&file, 4)).expect("rows").rows;
    assert_eq!(all.len(), 56);
    let gtids = events_of_kind(&file, GTID_EVENT);
    for (index, extent) in gtids.iter().enumerate().filter(|(index, _)| index % 3 == 0) {
        let server = if index % 2 == 0 { 1 } else { 2 };
        with_gtid(&mut file, *extent, server, 1 + index as u64 % 7);
    }
    let whole = read(at(4), &sent(&file, 4)).expect("rows");
    assert_eq!(whole.rows, all, "each row, whatever its number");
    // The same holds from every resume point on, whatever the sequence numbers before it.
    for (resume, rows) in &whole.resumes {
        let again = read(resume.clone(), &sent(&file, resume.position.offset as usize)).expect("rows");
        assert_eq!(again.rows, all[*rows..], "from {resume}");
    }
}

#[test]
fn by_gtids_each_domain_and_server_is_compared_up_to_its_last() {
    let mut file = file("mariadb-11.8.binlog");
    let all = read(at(4), &sent(&file, 4)).expect("rows");
    let gtids = events_of_kind(&file, GTID_EVENT);
    let count = gtids.len();
    // Two servers alternate, the second with lower sequence numbers, and at the end the numbers of both decrease.
    let mut numbers: Vec<(u32, u64)> =
        (0..count as u64).map(|i| (1 + i as u32 % 2, if i % 2 == 0 { 1000 + i } else { i })).collect();
    numbers[count - 2].1 = 1;
    numbers[count - 1].1 = 1;
    for (extent, (server, number)) in gtids.iter().zip(&numbers) {
        with_gtid(&mut file, *extent, *server, *number);
    }
    let mut events = vec![rotation(FILE)];
    events.extend(sent(&file, 4));
    let ends: Vec<u64> = gtids.iter().skip(1).map(|(at, _)| *at as u64).collect();
    // Any number of each server's transactions may be done, because the servers of one domain may order them differently.
    for first in 1..(count - 2) / 2 {
        for second in 1..(count - 2) / 2 {
            let done: BTreeSet<usize> = (0..first).map(|i| 2 * i).chain((0..second).map(|i| 2 * i + 1)).collect();
            let set = format!("0-1-{},0-2-{}", numbers[2 * (first - 1)].1, numbers[2 * second - 1].1);
            let gtids: Arc<GtidSet> = Arc::new(set.parse().expect("a set"));
            let start =
                ResumePoint { gtids: Some(Arc::clone(&gtids)), ..ResumePoint::at("other", BinlogPosition::new("", 4)) };
            let found = read(start, &events).expect("rows");
            let transaction = |event: u64| ends.partition_point(|end| *end <= event);
            let expected: Vec<_> =
                all.rows.iter().filter(|(event, _)| !done.contains(&transaction(*event))).copied().collect();
            assert_eq!(found.rows, expected, "after {set}");
            for (resume, rows) in &found.resumes {
                let is_caught_up = !resume.position.file.is_empty();
                assert!(is_caught_up || resume.gtids.as_ref() == Some(&gtids), "{resume}");
                let again = if is_caught_up {
                    read(resume.clone(), &sent(&file, resume.position.offset as usize))
                } else {
                    read(resume.clone(), &events)
                };
                assert_eq!(again.expect("rows").rows, expected[*rows..], "from {resume}, after {set}");
            }
            let (last, _) = found.resumes.last().expect("a resume point");
            let newest = |server| last.gtids.as_ref().and_then(|gtids| gtids.newest(0, server));
            assert_eq!((newest(1), newest(2)), (Some(1), Some(1)), "{set}");
        }
    }
}

#[test]
fn a_gtid_that_is_missing_is_not_passed_over() {
    let mut file = file("mariadb-11.8.binlog");
    let gtids = events_of_kind(&file, GTID_EVENT);
    let read_after = |file: &[u8], sequence: u64| {
        let set: GtidSet = format!("0-1-{sequence}").parse().expect("a set");
        let start = ResumePoint { gtids: Some(Arc::new(set)), ..ResumePoint::at("other", BinlogPosition::new("", 4)) };
        let mut events = vec![rotation(FILE)];
        events.extend(sent(file, 4));
        read(start, &events)
    };
    let third = sequence(&file, gtids[3]);
    assert!(read_after(&file, third).is_ok());
    // The server's sequence numbers continue where the other server's ended.
    assert!(read_after(&file, sequence(&file, gtids[0]) - 1).is_ok());
    with_gtid(&mut file, gtids[3], 7, third);
    with_gtid(&mut file, gtids[4], 7, third + 1);
    let error = read_after(&file, third).expect_err("the transaction isn't there");
    assert!(error.contains(&format!("not 0-1-{third}")), "{error}");
}

fn finding(resume: &ResumePoint, file: &[u8]) -> Finding {
    let mut check = FingerprintCheck::new(resume.fingerprint.expect("a fingerprint"));
    let from = check.from(&resume.position);
    for event in sent(file, from.offset as usize) {
        match check.next(&event) {
            Finding::Open => {}
            finding => return finding,
        }
    }
    Finding::OtherEvents
}

#[test]
fn each_resume_point_has_a_fingerprint() {
    for name in
        ["mariadb-11.8.binlog", "mariadb-10.11-compressed.binlog", "mysql-9.7.binlog", "mysql-9.7-compressed.binlog"]
    {
        let original = file(name);
        let resumes = read(at(4), &sent(&original, 4)).expect("rows").resumes;
        assert!(resumes.len() > 10);
        let format = events_of_kind(&original, FORMAT_EVENT)[0];
        let mut other_file = original.clone();
        change(&mut other_file, format, |event| event[0] ^= 1);
        for (resume, _) in &resumes {
            let offset = resume.position.offset as usize;
            assert_eq!(finding(resume, &original), Finding::Fits, "{name}: {resume}");
            assert_eq!(finding(resume, &other_file), Finding::OtherFile, "{name}: {resume}");
            // A connection that begins at the resume point yields the same fingerprints.
            let again = read(resume.clone(), &sent(&original, offset)).expect("rows");
            for (later, _) in again.resumes.iter().filter(|(later, _)| later.position.offset > resume.position.offset) {
                assert!(
                    resumes
                        .iter()
                        .any(|(known, _)| known.position == later.position && known.fingerprint == later.fingerprint),
                    "{name}: {later}"
                );
            }
            if resume.fingerprint.and_then(|fingerprint| fingerprint.end).is_none() {
                continue;
            }
            let last = extents(&original).into_iter().rfind(|(at, _)| *at < offset).expect("an event");
            assert_eq!(last.0 + last.1, offset);
            for byte in [0, 5, last.1 - 5] {
                let mut other = original.clone();
                change(&mut other, last, |event| event[byte] ^= 1);
                assert_eq!(finding(resume, &other), Finding::OtherEvents, "{name}: {resume}, byte {byte}");
            }
            // The last event is missing or cut off.
            assert_eq!(finding(resume, &original[..offset - 4]), Finding::OtherEvents, "{name}: {resume}");
        }
    }
}

#[test]
fn layouts_that_are_not_read_are_refused() {
    let original = file("mysql-9.7.binlog");
    let format = events_of_kind(&original, FORMAT_EVENT)[0];
    let table_map = EventHeader::LEN + format::POST_HEADER_LENS + usize::from(EventKind::TABLE_MAP.0) - 1;
    for (byte, value) in [
        (EventHeader::LEN + format::HEADER_LEN, 27),
        (EventHeader::LEN + format::HEADER_LEN, 13),
        (EventHeader::LEN, 3),
        (table_map, 6),
    ] {
        let mut other = original.clone();
        change(&mut other, format, |event| event[byte] = value);
        let error = read(at(4), &sent(&other, 4)).expect_err("refused");
        assert!(error.contains("not supported yet"), "{error}");
    }
}

#[test]
fn what_is_past_stays_past_until_it_is_reached() {
    let file = file("mysql-9.7.binlog");
    let all = read(at(4), &sent(&file, 4)).expect("rows");
    for (place, rows) in all.resumes.iter().filter(|(place, _)| place.position.offset > 4) {
        // As past 4 GiB, the reading begins at the head of the file, and skips all rows before the resume point.
        let partial = PartialTransaction {
            file: FILE.to_owned(),
            progress: EventOffset { event: place.position.offset, rows: 0 },
        };
        let read_again = read(ResumePoint { partial: Some(partial.clone()), ..at(4) }, &sent(&file, 4)).expect("rows");
        assert_eq!(read_again.rows, all.rows[*rows..]);
        for (resume, _) in
            read_again.resumes.iter().filter(|(resume, _)| resume.position.offset < place.position.offset)
        {
            assert_eq!(resume.partial.as_ref(), Some(&partial), "{resume}");
        }
    }
}
