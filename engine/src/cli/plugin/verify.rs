//! Runs a module on rows that are hard to process: each kind's odd values, NULL, absent columns, other tables beside.

use std::path::Path;
use std::sync::Arc;

use anyhow::bail;
use futures_util::FutureExt;
use rowmill_core::batch::{
    Builder, Cell, Column, ColumnIndex, Kind, Operation, PackedBatch, RowHeader, Table, TableId, TransactionHeader,
};
use tracing::subscriber::{NoSubscriber, with_default};

use super::test::{difference, outputs};
use super::{module_in, rows_in};
use crate::fixture::{KINDS, Rows};
use crate::transform::{Chain, Loader, Plugin, Settings};

/// A check of a module: its name, and what is wrong.
pub type Check = (String, Result<String, String>);

/// A row of a check.
#[derive(Clone)]
struct HardRow {
    table: usize,
    operation: Operation,
    /// The values of the images, by column; the second one is of an update.
    images: [Vec<HardValue>; 2],
}

/// A value of a column.
#[derive(Clone)]
enum HardValue {
    Null,
    Absent,
    Value(Vec<u8>),
}

/// Runs a module on hard rows of the tables in `rows`, a file of lines of JSON; else of a sample table. A row that the transform fails is right; a trap, a malformed verdict, a failure of a batch that none of its rows causes, and
/// a result that depends on the batch or on earlier batches are wrong.
///
/// # Errors
/// If the module cannot be loaded, or the rows cannot be read.
pub fn verify(path: &Path, rows: Option<&Path>) -> anyhow::Result<Vec<Check>> {
    let module = module_in(path)?;
    let given = rows_in(rows)?;
    if let Some(file) = rows.filter(|_| given.tables.is_empty()) {
        bail!("{} has no table; a line is {{\"table\": ..., \"columns\": [...], \"key\": [...]}}", file.display());
    }
    let settings = Settings::for_tests(given.sinks.clone()).with_any_sink().with_users_cache();
    let loader = Loader::new(settings)?;
    let mut tables: Vec<Arc<Table>> = given.tables.to_vec();
    let own = tables.len();
    tables.push(Arc::new(unknown_table(TableId(own as u32))));
    let tables: Arc<[Arc<Table>]> = tables.into();
    let of_own = |rows: fn(usize, &Table) -> Vec<HardRow>| {
        tables[..own].iter().enumerate().flat_map(|(index, table)| rows(index, table)).collect::<Vec<_>>()
    };
    let values = of_own(rows_of_values);
    let others = rows_of_values(own, &tables[own]);
    let beside = interleaved(of_own(rows_of_values), &others);
    let many = of_own(|index, table| rows_of_values(index, table).into_iter().cycle().take(2_000).collect());
    let batches: Vec<(&str, Vec<HardRow>)> = vec![
        ("values of each kind, the least and the largest", values),
        ("NULL in each column", of_own(rows_of_nulls)),
        ("columns that are absent", of_own(rows_of_absent)),
        ("rows of another table, with all kinds", others),
        ("rows of other tables beside", beside),
        ("2,000 rows of a table in a batch", many),
    ];
    let mut checks = Vec::new();
    for (name, rows) in batches {
        let plugin = loader.load(&module)?;
        let checked = with_default(NoSubscriber::new(), || check(&plugin, &tables, &rows));
        checks.push((name.to_owned(), checked));
    }
    Ok(checks)
}

/// Runs a plugin on rows: in one batch, again, and each alone.
fn check(plugin: &Arc<Plugin>, tables: &Arc<[Arc<Table>]>, rows: &[HardRow]) -> Result<String, String> {
    let all = packed(tables, rows, 0);
    let singles: Vec<PackedBatch> =
        rows.iter().enumerate().map(|(index, row)| packed(tables, std::slice::from_ref(row), index)).collect();
    let chain = Chain::new(vec![Arc::clone(plugin)]);
    let fixture = Rows {
        sinks: Vec::new(),
        settings: None,
        plugins: Vec::new(),
        singles: Vec::new(),
        packed: all.clone(),
        tables: Arc::clone(tables),
        declared_types: Vec::new(),
    };
    let transformed = chain.transform_in_part(0, &all, tables).now_or_never().flatten();
    let dead = transformed.ok_or("the batch waits for another one")?.dead;
    let is_broken = |code: &str| matches!(code, "trapped" | "malformed-verdict");
    if let Some(broken) = dead.iter().find(|dead| is_broken(dead.error.code)) {
        return Err(format!("row {}: {}", broken.origin, broken.error.message));
    }
    let done = || format!("{} rows, {} failed by the transform", rows.len(), dead.len());
    if plugin.is_stateful() {
        return Ok(done());
    }
    let results = |packed: &PackedBatch, first: usize, number: u64| {
        outputs(&chain, number, &fixture, packed, first as u32).map_err(|error| format!("{error:#}"))
    };
    let first = results(&all, 0, 1)?;
    let again = results(&all, 0, 2)?;
    if let Some(difference) = difference(&first, &again) {
        return Err(format!("the same batch again has another result: {difference}"));
    }
    let mut alone = Vec::new();
    for (index, single) in singles.iter().enumerate() {
        alone.extend(results(single, index, 3 + index as u64)?);
    }
    match difference(&first, &alone) {
        Some(difference) => Err(format!("a row's result depends on its batch; in one batch and alone: {difference}")),
        None => Ok(done()),
    }
}

/// A table with a column of each kind, which transforms do not expect.
fn unknown_table(id: TableId) -> Table {
    let column = |(index, (kind, mysql_type)): (usize, &(Kind, &str))| Column {
        name: format!("Größe {index}"),
        kind: *kind,
        mysql_type: (*mysql_type).to_owned(),
        nullable: index > 0,
        key: index == 0,
    };
    Table {
        id,
        generation: 0,
        schema: "rowmill.verify".to_owned(),
        name: "of `all` kinds".to_owned(),
        columns: KINDS.iter().enumerate().map(column).collect(),
        key: vec![ColumnIndex(0)],
    }
}

/// Returns values of a column that are hard to process.
fn values(column: &Column) -> Vec<Vec<u8>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let ints = |numbers: &[i64]| numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>();
    let uints = |numbers: &[u64]| numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>();
    let floats = |numbers: &[f64]| numbers.iter().map(|number| number.to_le_bytes().to_vec()).collect::<Vec<_>>();
    let nines = format!("-{}.99", "9".repeat(63));
    match column.kind {
        Kind::Int if column.mysql_type == "bigint" => ints(&[0, -1, i64::MAX, i64::MIN, 1 << 53]),
        Kind::Int => ints(&[0, -1, 127, -128]),
        Kind::Uint if column.mysql_type == "bigint unsigned" => uints(&[0, 1, u64::MAX, 1 << 63]),
        Kind::Uint => uints(&[0, 1, 255]),
        Kind::Year => uints(&[0, 1901, 2155]),
        Kind::Bit => uints(&[0, 1, u64::MAX]),
        Kind::Float if column.mysql_type == "float" => floats(&[0.0, -0.0, f64::from(f32::MAX), 0.1f32.into()]),
        Kind::Float => floats(&[0.0, -0.0, f64::MAX, f64::MIN_POSITIVE, 0.1]),
        Kind::Decimal => texts(&["0.00", "-0.01", "9999999.99", &nines]),
        Kind::Text => {
            let long = "ä".repeat(1_000);
            texts(&["", "a", "Größe 😀 \"quoted\" \\ \u{1}\n\t\0", "\u{fffe}\u{ffff}", &long])
        }
        Kind::Bytes => vec![Vec::new(), vec![0], vec![0xff; 300], (0..=255).collect()],
        Kind::Json => texts(&["{}", "[]", "null", "\"\"", "{\"a\": [1, {\"b\": \"\\\"ü\"}], \"n\": -1.5e300}"]),
        Kind::Date => texts(&["2026-11-27", "0000-00-00", "2026-00-00", "9999-12-31"]),
        Kind::Time => texts(&["00:00:00", "-838:59:59", "838:59:59.000001"]),
        Kind::Datetime | Kind::Timestamp => {
            texts(&["2026-11-27 08:30:00", "0000-00-00 00:00:00", "9999-12-31 23:59:59.999999"])
        }
        Kind::Enum => texts(&["", "a", "größe"]),
        Kind::Set => texts(&["", "a", "a,größe"]),
        Kind::Geometry => vec![[&[0; 4][..], &[1, 1, 0, 0, 0], &[0; 16]].concat()],
        Kind::Vector => vec![Vec::new(), vec![0; 8]],
    }
}

fn row(table: usize, operation: Operation, images: [Vec<HardValue>; 2]) -> HardRow {
    HardRow { table, operation, images }
}

/// A row of each operation for each value.
fn rows_of_values(index: usize, table: &Table) -> Vec<HardRow> {
    let columns: Vec<Vec<Vec<u8>>> = table.columns.iter().map(values).collect();
    let most = columns.iter().map(Vec::len).max().unwrap_or(0);
    let image = |nth: usize| -> Vec<HardValue> {
        columns.iter().map(|values| HardValue::Value(values[nth % values.len()].clone())).collect()
    };
    let of = |nth: usize| {
        [
            row(index, Operation::Insert, [image(nth), Vec::new()]),
            row(index, Operation::Read, [image(nth), Vec::new()]),
            row(index, Operation::Update, [image(nth), image(nth + 1)]),
            row(index, Operation::Delete, [image(nth), Vec::new()]),
        ]
    };
    (0..most).flat_map(of).collect()
}

fn rows_of_nulls(index: usize, table: &Table) -> Vec<HardRow> {
    rows_without(index, table, HardValue::Null)
}

fn rows_of_absent(index: usize, table: &Table) -> Vec<HardRow> {
    rows_without(index, table, HardValue::Absent)
}

/// Rows in which one column after another, and then all but those of the key, have no value.
fn rows_without(index: usize, table: &Table, nothing: HardValue) -> Vec<HardRow> {
    let image = |is_without: &dyn Fn(usize) -> bool| -> Vec<HardValue> {
        let value = |(nth, column): (usize, &Column)| match is_without(nth) && !column.key {
            true => nothing.clone(),
            false => HardValue::Value(values(column)[0].clone()),
        };
        table.columns.iter().enumerate().map(value).collect()
    };
    let of = |is_without: &dyn Fn(usize) -> bool| {
        [
            row(index, Operation::Insert, [image(is_without), Vec::new()]),
            row(index, Operation::Update, [image(&|_| false), image(is_without)]),
            row(index, Operation::Update, [image(is_without), image(&|_| false)]),
            row(index, Operation::Delete, [image(is_without), Vec::new()]),
        ]
    };
    let one_after_another = (0..table.columns.len()).flat_map(|without| of(&move |nth| nth == without));
    one_after_another.chain(of(&|_| true)).collect()
}

fn interleaved(rows: Vec<HardRow>, others: &[HardRow]) -> Vec<HardRow> {
    rows.into_iter().zip(others.iter().cycle()).flat_map(|(row, beside)| [row, beside.clone()]).collect()
}

fn packed(tables: &[Arc<Table>], rows: &[HardRow], first: usize) -> PackedBatch {
    let mut builder = Builder::with_capacity(64 << 10);
    let (file, gtid) = ("rows", "");
    builder.transaction(&TransactionHeader { file, position: 4, gtid, commit_time_us: 1, server_id: 1, thread_id: 1 });
    for (index, HardRow { table, operation, images }) in (first as u32..).zip(rows) {
        let table = &tables[*table];
        builder.begin_row(&RowHeader {
            table: table.id,
            operation: *operation,
            columns: table.columns.len() as u16,
            index_in_transaction: index,
            index_in_event: index,
            event_position: 4,
            time_us: 1,
        });
        for image in images.iter().filter(|image| !image.is_empty()) {
            builder.begin_image(table.columns.len());
            for value in image {
                match value {
                    HardValue::Null => builder.null(),
                    HardValue::Absent => builder.absent(),
                    HardValue::Value(bytes) => builder.cell(Cell::Value(bytes)),
                }
            }
            builder.end_image();
        }
        builder.end_row();
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Verifies a core module whose `rowmill_process` has this body, by which words of the answer are written from address 0.
    fn verified(body: &str) -> Vec<Check> {
        let text = format!(
            "(module (memory (export \"memory\") 200)
               (func (export \"rowmill_process\") (param $at i32) (param $len i32) (result i64) {body} (i64.const 36))
               (func (export \"rowmill_alloc\") (param i32) (result i32) (i32.const 0x10000)))"
        );
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("guest.wasm");
        std::fs::write(&path, wat::parse_str(text).expect("a module")).expect("written");
        verify(&path, None).expect("verified")
    }

    #[test]
    fn what_a_module_does_wrong_is_found() {
        let checks = verified("");
        assert!(checks.len() == 6 && checks.iter().all(|(_, checked)| checked.is_ok()), "{checks:#?}");
        for (body, error) in [
            ("unreachable", "unreachable"),
            // Keeps a row that does not exist.
            (
                "(i32.store (i32.const 4) (i32.const 1)) (i32.store (i32.const 36) (i32.const -1)) (return (i64.const 40))",
                "malformed verdict: row",
            ),
            // Keeps the first row of each batch.
            (
                "(i32.store (i32.const 4) (i32.const 1)) (i32.store (i32.const 36) (i32.const 0)) (return (i64.const 40))",
                "depends on its batch",
            ),
            // Fails on any batch of more than one row.
            (
                "(if (i32.gt_u (i32.load offset=4 (local.get $at)) (i32.const 1)) (then unreachable))",
                "on none of them alone",
            ),
        ] {
            for (name, checked) in verified(body) {
                assert!(checked.as_ref().is_err_and(|found| found.contains(error)), "{name}: {checked:?}");
            }
        }
        // Keeps the first row in each second call.
        let checks = verified(
            "(i32.store (i32.const 100) (i32.eqz (i32.load (i32.const 100))))
             (i32.store (i32.const 4) (i32.const 0))
             (if (i32.load (i32.const 100)) (then (i32.store (i32.const 4) (i32.const 1)) (return (i64.const 40))))",
        );
        assert!(
            checks.iter().all(|(_, checked)| checked.as_ref().is_err_and(|found| found.contains("another result"))),
            "{checks:#?}"
        );
    }
}
