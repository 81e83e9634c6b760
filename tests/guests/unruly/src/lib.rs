//! Does what the column `act` of a row says: what no transform should do. With the setting `second`, the column `second`.

use std::cell::Cell;

use rowmill_batch::{Batch, Cell as Value, ColumnIndex, RowIndex};
use rowmill_sdk::bindings::rowmill::transform::{batch, host, types};
use rowmill_sdk::bindings::{Failure, Guest, Interest, Table, Verdict};

thread_local! {
    static ACT: Cell<u32> = const { Cell::new(0) };
    static COUNTED: Cell<i64> = const { Cell::new(0) };
    static COLUMN: Cell<&str> = const { Cell::new("act") };
}

struct Unruly;

impl Guest for Unruly {
    fn configure(settings: String) -> Result<(), String> {
        rowmill_sdk::report_panics();
        if settings.contains("\"second\":true") {
            COLUMN.set("second");
        }
        if settings.contains("\"refuse\":true") { Err("told to refuse".to_owned()) } else { Ok(()) }
    }

    fn describe(table: Table) -> Result<Interest, String> {
        let Some(act) = table.columns.iter().position(|column| column.name == COLUMN.get()) else {
            return Ok(Interest::Pass);
        };
        ACT.set(act as u32);
        if table.name == "refused" { Err("told to refuse the table".to_owned()) } else { Ok(Interest::All) }
    }

    fn process(rows: u32) -> Result<Verdict, Failure> {
        let bytes = batch::rows();
        let batch = Batch::parse(&bytes).map_err(|error| Failure::Reject(error.to_string()))?;
        let mut verdict = Verdict {
            keep: Vec::new(),
            reroutes: Vec::new(),
            edits: Vec::new(),
            emits: Vec::new(),
            attributes: Vec::new(),
            writes: Vec::new(),
            fails: Vec::new(),
            arena: Vec::new(),
        };
        let mut why_failed = Vec::new();
        let emit = |row, body_len| types::Emit { row, sink: None, group_len: 0, dedup_len: 0, body_len };
        for row in 0..rows {
            let cell = batch.row(RowIndex(row)).newest().cell(ColumnIndex(ACT.get()));
            match cell.text().unwrap_or_default() {
                "trap" => panic!("told to trap"),
                "loop" => loop {
                    std::hint::black_box(());
                },
                "memory" => {
                    let mut hoard = Vec::new();
                    loop {
                        hoard.push(vec![1u8; 1 << 20]);
                        std::hint::black_box(&hoard);
                    }
                }
                "stack" => {
                    std::hint::black_box(recurse(1));
                }
                "fail" => {
                    // After the texts of all messages.
                    why_failed.extend_from_slice(b"told to fail");
                    verdict.fails.push(types::RowFail { row, message_len: 12 });
                }
                "reject" => return Err(Failure::Reject("told to reject".to_owned())),
                "never" => return Err(Failure::Retry("told to try again".to_owned())),
                "retry" => {
                    COUNTED.set(COUNTED.get() + 1);
                    // Only an instance that is asked three times running has the patience.
                    if COUNTED.get() % 3 != 0 {
                        return Err(Failure::Retry("told to try again".to_owned()));
                    }
                    verdict.keep.push(row);
                }
                "tell" => {
                    verdict.arena.extend_from_slice(b"told");
                    verdict.emits.push(emit(row, 4));
                    verdict.keep.push(row);
                }
                "row" => verdict.keep.push(rows + 7),
                "arena" => verdict.emits.push(emit(row, 1000)),
                "sink" => verdict.emits.push(types::Emit { sink: Some(77), ..emit(row, 0) }),
                "text" => {
                    verdict.arena.push(0xff);
                    verdict.emits.push(emit(row, 1));
                }
                "rest" => verdict.arena.push(b'x'),
                "column" => verdict.edits.push(edit(row, 99, Value::Null)),
                "recipe" => verdict.writes.push(types::Write { recipe: 5, sink: None, rows: vec![row] }),
                "output" => {
                    verdict.arena.resize(verdict.arena.len() + (1 << 20), b'x');
                    verdict.emits.push(emit(row, 1 << 20));
                }
                "count" => {
                    COUNTED.set(COUNTED.get() + 1);
                    let number = COUNTED.get().to_le_bytes();
                    verdict.keep.push(row);
                    verdict.edits.push(edit(row, ACT.get() + 1, Value::Value(&number)));
                    verdict.arena.extend_from_slice(&number);
                    host::count("counted", 1);
                }
                _ => verdict.keep.push(row),
            }
        }
        verdict.arena.append(&mut why_failed);
        Ok(verdict)
    }
}

fn edit(row: u32, column: u32, value: Value<'_>) -> types::Edit {
    let (state, value_len) = match value {
        Value::Value(bytes) => (2, bytes.len() as u32),
        _ => (1, 0),
    };
    types::Edit { row, image: types::Image::After, column, state, value_len }
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}

rowmill_sdk::bindings::export_transform!(Unruly with_types_in rowmill_sdk::bindings);
