//! Does what the column `act` of a row says: what no transform should do. With the setting `second`, the column `second`.

use std::cell::Cell;

use rowmill_batch::{Batch, ColumnIndex, RowIndex};
use rowmill_sdk::bindings::rowmill::transform::{batch, host, outcome, types};
use rowmill_sdk::bindings::{Failure, Guest, Interest, Table};

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

    fn process(rows: u32) -> Result<(), Failure> {
        let bytes = batch::rows();
        let batch = Batch::parse(&bytes).map_err(|error| Failure::Reject(error.to_string()))?;
        let keep = |row| outcome::keep(outcome::Rows::These(&[row]));
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
                "fail" => outcome::fail(row, "told to fail"),
                "reject" => return Err(Failure::Reject("told to reject".to_owned())),
                "never" => return Err(Failure::Retry("told to try again".to_owned())),
                "retry" => {
                    COUNTED.set(COUNTED.get() + 1);
                    // Only an instance that is asked three times running has the patience.
                    if COUNTED.get() % 3 != 0 {
                        return Err(Failure::Retry("told to try again".to_owned()));
                    }
                    keep(row);
                }
                "tell" => {
                    emit(row, None, "told");
                    keep(row);
                }
                "row" => keep(rows + 7),
                "sink" => emit(row, Some(77), ""),
                "text" => {
                    let bytes = [std::hint::black_box(0xff)];
                    // SAFETY: the engine reads bytes, and must not take them for text.
                    emit(row, None, unsafe { std::str::from_utf8_unchecked(&bytes) });
                }
                "column" => edit(row, 99, outcome::Value::Null),
                "recipe" => outcome::write(outcome::Rows::These(&[row]), 5, None),
                "output" => emit(row, None, &"x".repeat(1 << 20)),
                "count" => {
                    COUNTED.set(COUNTED.get() + 1);
                    keep(row);
                    edit(row, ACT.get() + 1, outcome::Value::Packed(&COUNTED.get().to_le_bytes()));
                    host::count("counted", 1);
                }
                _ => keep(row),
            }
        }
        Ok(())
    }
}

fn emit(row: u32, sink: Option<u32>, body: &str) {
    outcome::emit(&[outcome::Message { row, sink, group: "", deduplication_id: "", body, attributes: &[] }]);
}

fn edit(row: u32, column: u32, value: outcome::Value<'_>) {
    outcome::edit(&[outcome::ColumnEdit { row, image: types::Image::After, column, value }]);
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1))) + 1
}

rowmill_sdk::bindings::export_transform!(Unruly with_types_in rowmill_sdk::bindings);
