//! Rows as lines of JSON, as authors of tests write them.
//!
//! ```json
//! {"sinks": ["warehouse"]}
//! {"table": "shop.orders", "columns": ["id bigint", "status varchar(20)", "total decimal(10,2)"], "key": ["id"]}
//! {"op": "c", "table": "shop.orders", "after": {"id": 1, "status": "new", "total": "9.50"}}
//! {"op": "u", "table": "shop.orders", "before": {"id": 1, "status": "new"}, "after": {"id": 1, "status": "paid"}}
//! ```
//!
//! Further lines that a test may have: `{"settings": {...}}` takes the place of `[settings]` in the plugin's `.toml`;
//! `{"plugins": ["other.wasm"]}` names plugins that the rows pass through after the one that is tested;
//! `{"transaction": {"time": "2026-11-27 08:30:00", "gtid": "..."}}` begins another transaction.
//!
//! Values are written as transforms see them: numbers as numbers, binary values in base64, everything else as text. A JSON
//! column's document is written as it is, or as text; the transform is given MySQL's form of it. A value that a column of its
//! type cannot have is an error. A column that is left out is absent, as in a row image without it.

mod domain;

use std::sync::Arc;

use rowmill_core::batch::{
    Builder, Cell, Column, ColumnIndex, Image, Kind, Operation, PackedBatch, Row, RowHeader, Table, TableId,
    TransactionHeader, quoted, schema_and_table, split_name,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::exact_json::Exact;
use crate::transform::{check_value, time_us};
use domain::Domain;

/// The number of sample rows, which are one batch.
pub(crate) const BATCH_ROWS: usize = 256;

/// Each kind of column, with a MySQL type of it. A `FLOAT` is written in another way than a `DOUBLE`.
pub(crate) const KINDS: [(Kind, &str); 18] = [
    (Kind::Int, "bigint"),
    (Kind::Uint, "bigint unsigned"),
    (Kind::Float, "double"),
    (Kind::Float, "float"),
    (Kind::Decimal, "decimal"),
    (Kind::Text, "text"),
    (Kind::Bytes, "blob"),
    (Kind::Json, "json"),
    (Kind::Date, "date"),
    (Kind::Time, "time"),
    (Kind::Datetime, "datetime"),
    (Kind::Timestamp, "timestamp"),
    (Kind::Year, "year"),
    (Kind::Bit, "bit(64)"),
    (Kind::Enum, "enum"),
    (Kind::Set, "set"),
    (Kind::Geometry, "point"),
    (Kind::Vector, "vector"),
];

/// The time of the first row's change, in microseconds since 1970; each later row's is one second later.
const FIRST_TIME_US: i64 = 1_700_000_000_000_000;

/// Rows for trying a transform.
#[derive(Debug)]
pub struct Rows {
    /// The names of the sinks that the transform may send to.
    pub sinks: Vec<String>,
    /// The tables, in the order of their IDs.
    pub tables: Arc<[Arc<Table>]>,
    /// The types of their columns, as declared.
    pub declared_types: Vec<Vec<String>>,
    /// The settings of the tested plugin, in the place of those of its `.toml`.
    pub settings: Option<Map<String, Value>>,
    /// The files of the plugins that the rows pass through after the tested one.
    pub plugins: Vec<String>,
    /// Each row, packed as a batch of its own.
    pub singles: Vec<PackedBatch>,
    /// All rows, packed as one batch.
    pub packed: PackedBatch,
}

#[derive(Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Line {
    Change(ChangeLine),
    Table(TableLine),
    Sinks { sinks: Vec<String> },
    Settings { settings: Map<String, Value> },
    Plugins { plugins: Vec<String> },
    Transaction { transaction: TransactionLine },
}

#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields)]
struct TransactionLine {
    time: Option<String>,
    #[serde(default)]
    gtid: String,
}

/// A transaction of the rows that follow it.
struct Transaction {
    /// In microseconds since 1970; `None`: each row is one second later.
    time_us: Option<i64>,
    gtid: String,
}

impl Transaction {
    fn of(line: TransactionLine) -> Result<Self, String> {
        let moment = |text: &String| {
            let time = time_us(text);
            time.ok_or_else(|| format!("`{text}` is not a time; write it as 2026-11-27 08:30:00, in UTC"))
        };
        Ok(Self { time_us: line.time.as_ref().map(moment).transpose()?, gtid: line.gtid })
    }
}

/// A change of a row, its line's number and its transaction.
struct Change {
    number: u32,
    table: Arc<DeclaredTable>,
    line: ChangeLine,
    transaction: usize,
    /// The row's index in its transaction.
    index: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableLine {
    table: String,
    columns: Vec<String>,
    #[serde(default)]
    key: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeLine {
    op: char,
    table: String,
    before: Option<Map<String, Value>>,
    after: Option<Map<String, Value>>,
}

impl Rows {
    /// Parses lines of JSON.
    ///
    /// # Errors
    /// If a line is invalid: the error names the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut sinks, mut tables, mut changes) = (Vec::new(), Vec::<Arc<DeclaredTable>>::new(), Vec::<Change>::new());
        let (mut settings, mut plugins) = (None, Vec::new());
        let mut transactions = vec![Transaction { time_us: None, gtid: String::new() }];
        for (number, line) in (1u32..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
            let with_line = |error: String| format!("line {number}: {error}");
            let parsed = serde_json::from_str(line).map_err(|error| {
                let known = "a line is {\"sinks\": [...]}, {\"table\": ..., \"columns\": [...], \"key\": [...]} or {\"op\": \
                             \"c\", \"table\": ..., \"after\": {...}}";
                with_line(format!("{error}; {known}"))
            })?;
            match parsed {
                Line::Sinks { sinks: named } => sinks.extend(named),
                Line::Settings { settings: given } => settings = Some(given),
                Line::Plugins { plugins: named } => plugins.extend(named),
                Line::Transaction { transaction } => {
                    transactions.push(Transaction::of(transaction).map_err(with_line)?);
                }
                Line::Table(line) => {
                    tables.push(Arc::new(declared(TableId(tables.len() as u32), line).map_err(with_line)?))
                }
                Line::Change(line) => {
                    let name = schema_and_table(&line.table);
                    let is_meant = |declared: &&Arc<DeclaredTable>| {
                        let Table { schema: of, name: called, .. } = &*declared.table;
                        name.as_ref().is_some_and(|(schema, name)| schema == of && name == called)
                    };
                    let table = tables.iter().rfind(is_meant).map(Arc::clone);
                    let table =
                        table.ok_or_else(|| with_line(format!("no earlier line declares table {}", line.table)))?;
                    let transaction = transactions.len() - 1;
                    let index = match changes.last() {
                        Some(last) if last.transaction == transaction => last.index + 1,
                        _ => 0,
                    };
                    changes.push(Change { number, table, line, transaction, index });
                }
            }
        }
        let pack = |changes: &[Change], first: usize| {
            let mut builder = Builder::with_capacity(64 << 10);
            let mut last = None;
            for (index, change) in (first as u32..).zip(changes) {
                let Transaction { time_us, gtid } = &transactions[change.transaction];
                if last.replace(change.transaction) != Some(change.transaction) {
                    let commit_time_us = time_us.unwrap_or(FIRST_TIME_US);
                    let (file, position) = ("rows", 4 + change.transaction as u64);
                    let header = TransactionHeader { file, position, gtid, commit_time_us, server_id: 1, thread_id: 1 };
                    builder.transaction(&header);
                }
                let time_us = time_us.unwrap_or(FIRST_TIME_US + i64::from(index) * 1_000_000);
                let pushed = push_change(&mut builder, change, index, time_us);
                pushed.map_err(|error| format!("line {}: {error}", change.number))?;
            }
            Ok::<_, String>(builder.finish())
        };
        let single = |(index, change)| pack(std::slice::from_ref(change), index);
        let singles = changes.iter().enumerate().map(single).collect::<Result<_, _>>()?;
        let packed = pack(&changes, 0)?;
        let declared_types = tables.iter().map(|declared| declared.types.clone()).collect();
        let tables = tables.iter().map(|declared| Arc::clone(&declared.table)).collect();
        Ok(Self { sinks, settings, plugins, packed, singles, tables, declared_types })
    }
}

/// A table, and what its columns' types say besides the kinds.
struct DeclaredTable {
    table: Arc<Table>,
    /// By column.
    domains: Vec<Domain>,
    /// By column, as declared.
    types: Vec<String>,
}

fn declared(id: TableId, line: TableLine) -> Result<DeclaredTable, String> {
    let (schema, table) = schema_and_table(&line.table)
        .ok_or("a table's name is `schema.table`; put a name that has a dot in backticks")?;
    let (mut columns, mut domains, mut types) = (Vec::new(), Vec::new(), Vec::new());
    for column in &line.columns {
        let (name, declared) =
            split_name(column, ' ').ok_or_else(|| format!("column `{column}`: write `name type`"))?;
        let (kind, mysql_type) = kind(declared).ok_or_else(|| format!("column `{name}`: unknown type `{declared}`"))?;
        domains.push(Domain::of(kind, declared));
        types.push(declared.to_owned());
        columns.push(Column {
            nullable: !line.key.iter().any(|key| *key == name),
            key: line.key.iter().any(|key| *key == name),
            name: name.into_owned(),
            kind,
            mysql_type,
        });
    }
    let index = |key: &String| {
        let index = columns.iter().position(|column| column.name == *key);
        index
            .map(|index| ColumnIndex(index as u32))
            .ok_or_else(|| format!("key column `{key}` is not among the columns"))
    };
    let key = line.key.iter().map(index).collect::<Result<_, _>>()?;
    let (schema, name) = (schema.into_owned(), table.into_owned());
    Ok(DeclaredTable { table: Arc::new(Table { id, generation: 0, schema, name, columns, key }), domains, types })
}

/// Returns the kind of a declared type, and the type as transforms see it.
pub(crate) fn kind(declared: &str) -> Option<(Kind, String)> {
    let declared = declared.trim().to_ascii_lowercase();
    let base = declared.split(['(', ' ']).next().unwrap_or_default();
    // `int(10) unsigned zerofill`, but not a member of an enum.
    let is_unsigned = declared.rsplit(')').next().is_some_and(|end| end.split(' ').any(|word| word == "unsigned"));
    let kind = match base {
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" if is_unsigned => Kind::Uint,
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" | "bool" | "boolean" => Kind::Int,
        "float" | "double" | "real" => Kind::Float,
        "decimal" | "numeric" => Kind::Decimal,
        "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => Kind::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
        "json" => Kind::Json,
        "date" => Kind::Date,
        "time" => Kind::Time,
        "datetime" => Kind::Datetime,
        "timestamp" => Kind::Timestamp,
        "year" => Kind::Year,
        "bit" => Kind::Bit,
        "enum" => Kind::Enum,
        "set" => Kind::Set,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
        | "geometrycollection" | "geomcollection" => Kind::Geometry,
        "vector" => Kind::Vector,
        _ => return None,
    };
    let mysql_type = match (kind, is_unsigned) {
        (Kind::Bit, _) => declared.clone(),
        (_, true) => format!("{base} unsigned"),
        (_, false) => base.to_owned(),
    };
    Some((kind, mysql_type))
}

/// Returns the members of a declared enum; none if it does not say.
pub(crate) fn enum_members(declared: &str) -> Vec<String> {
    match Domain::of(Kind::Enum, declared) {
        Domain::Members(members) => members,
        Domain::Any | Domain::Scale(_) => Vec::new(),
    }
}

/// Whether a declared type ends with `not null`.
pub(crate) fn is_not_null(declared: &str) -> bool {
    let end = declared.rsplit(')').next().unwrap_or(declared);
    end.to_ascii_lowercase().split_whitespace().collect::<Vec<_>>().ends_with(&["not", "null"])
}

fn push_change(builder: &mut Builder, change: &Change, index: u32, time_us: i64) -> Result<(), String> {
    let Change { table, line, index: index_in_transaction, transaction, .. } = change;
    let DeclaredTable { table, domains, .. } = &**table;
    let (operation, images): (Operation, &[&Option<Map<String, Value>>]) = match line.op {
        'c' => (Operation::Insert, &[&line.after]),
        'u' => (Operation::Update, &[&line.before, &line.after]),
        'd' => (Operation::Delete, &[&line.before]),
        'r' => (Operation::Read, &[&line.after]),
        other => return Err(format!("unknown op `{other}`; write c, u, d or r")),
    };
    builder.begin_row(&RowHeader {
        table: table.id,
        operation,
        columns: table.columns.len() as u16,
        index_in_transaction: *index_in_transaction,
        index_in_event: index,
        event_position: 4 + *transaction as u64,
        time_us,
    });
    for image in images {
        let image =
            image.as_ref().ok_or("an insert and a read need an `after`, a delete a `before`, an update both")?;
        if let Some(unknown) = image.keys().find(|name| table.column(name).is_none()) {
            return Err(format!("table {table} has no column `{unknown}`"));
        }
        builder.begin_image(table.columns.len());
        for (column, domain) in table.columns.iter().zip(domains) {
            match image.get(&column.name) {
                None => builder.absent(),
                Some(Value::Null) => builder.null(),
                Some(value) => {
                    let packed = packed(column, value).ok_or_else(|| {
                        format!("column `{}` ({}) cannot have the value {value}", column.name, column.mysql_type)
                    })?;
                    check_value(table, column, &packed)?;
                    let refused = value.as_str().and_then(|text| domain.refuses(column.kind, text));
                    if let Some(error) = refused {
                        return Err(format!("column `{}`: {error}", column.name));
                    }
                    builder.cell(Cell::Value(&packed));
                }
            }
        }
        builder.end_image();
    }
    builder.end_row();
    Ok(())
}

fn packed(column: &Column, value: &Value) -> Option<Vec<u8>> {
    Some(match column.kind {
        Kind::Int => value.as_i64()?.to_le_bytes().to_vec(),
        Kind::Uint | Kind::Year | Kind::Bit => value.as_u64()?.to_le_bytes().to_vec(),
        // A `FLOAT` has the number that the server stores, widened.
        Kind::Float if column.mysql_type == "float" => f64::from(value.as_f64()? as f32).to_le_bytes().to_vec(),
        Kind::Float => value.as_f64()?.to_le_bytes().to_vec(),
        Kind::Bytes | Kind::Geometry | Kind::Vector => {
            base64_simd::STANDARD.decode_to_vec(value.as_str()?.as_bytes()).ok()?
        }
        Kind::Json => {
            // Of a text the digits are kept, also those beyond a double's.
            let mut out = String::new();
            Exact::parse(&value.as_str().map_or_else(|| value.to_string(), str::to_owned)).ok()?.push_mysql(&mut out);
            out.into_bytes()
        }
        _ => value.as_str()?.as_bytes().to_vec(),
    })
}

/// Returns a table as a line that `Rows` can be parsed from.
pub fn table_json(table: &Table) -> Value {
    let columns: Vec<String> =
        table.columns.iter().map(|column| format!("{} {}", quoted(&column.name, ' '), column.mysql_type)).collect();
    let key: Vec<&str> = table.key.iter().map(|index| table.columns[index.0 as usize].name.as_str()).collect();
    json!({"table": table.to_string(), "columns": columns, "key": key})
}

/// Returns a row as a line that `Rows` can be parsed from.
pub fn row_json(table: &Table, row: &Row<'_>) -> Value {
    let image = |image: Option<Image<'_>>| image.map(|image| image_json(table, image));
    let mut line = Map::new();
    line.insert("op".to_owned(), json!(row.operation().letter()));
    line.insert("table".to_owned(), json!(table.to_string()));
    for (name, image) in [("before", image(row.before())), ("after", image(row.after()))] {
        if let Some(image) = image {
            line.insert(name.to_owned(), image);
        }
    }
    Value::Object(line)
}

fn image_json(table: &Table, image: Image<'_>) -> Value {
    let mut object = Map::new();
    for (column, cell) in table.columns.iter().zip(image.cells()) {
        let value = match cell {
            Cell::Absent => continue,
            Cell::Null | Cell::Changes(_) => Value::Null,
            Cell::Value(bytes) => match column.kind {
                Kind::Int => json!(cell.int()),
                Kind::Uint | Kind::Year | Kind::Bit => json!(cell.uint()),
                Kind::Float => json!(cell.float()),
                Kind::Bytes | Kind::Geometry | Kind::Vector => json!(base64_simd::STANDARD.encode_to_string(bytes)),
                _ => json!(String::from_utf8_lossy(bytes)),
            },
        };
        object.insert(column.name.clone(), value);
    }
    Value::Object(object)
}

/// Returns the sample rows: a packed batch, and the tables of its rows.
///
/// # Panics
/// If the sample rows are invalid, on which this crate's tests would fail.
pub fn sample_rows() -> (PackedBatch, Arc<[Arc<Table>]>) {
    let rows = Rows::parse(&sample()).expect("the sample rows are valid");
    (rows.packed, rows.tables)
}

/// Returns the sample rows as lines of JSON: ten columns and about 250 bytes each.
pub(crate) fn sample() -> String {
    let mut text = "{\"sinks\": [\"order-management\", \"events\", \"europe\"]}\n{\"table\": \"shop.orders\", \"columns\": [\"id bigint\", \
        \"customer int unsigned\", \"status varchar(20)\", \"total decimal(10,2)\", \"country char(2)\", \"email varchar(100)\", \
        \"rating double\", \"note text\", \"created_at datetime\", \"updated_at timestamp\"], \"key\": [\"id\"]}\n"
        .to_owned();
    for id in 0..BATCH_ROWS {
        // A tenth is paid, a fifth is German.
        let status = if id % 10 == 0 { "paid" } else { "new" };
        let country = if id % 5 == 1 { "DE" } else { "FR" };
        let note = "words about the order ".repeat(3);
        text.push_str(&format!(
            "{{\"op\": \"c\", \"table\": \"shop.orders\", \"after\": {{\"id\": {id}, \"customer\": {}, \"status\": \"{status}\", \
             \"total\": \"{}.50\", \"country\": \"{country}\", \"email\": \"customer{id}@example.com\", \"rating\": 4.5, \
             \"note\": \"{note}\", \"created_at\": \"2026-11-24 10:00:00\", \"updated_at\": \"2026-11-24 10:11:12\"}}}}\n",
            id * 7,
            id * 13
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_written() {
        let rows = Rows::parse(
            "{\"sinks\": [\"a\"]}\n\n\
             {\"table\": \"s.t\", \"columns\": [\"id bigint unsigned\", \"b varbinary(3)\", \"d decimal(4,2)\", \"j json\"], \"key\": [\"id\"]}\n\
             {\"op\": \"c\", \"table\": \"s.t\", \"after\": {\"id\": 18446744073709551615, \"b\": \"AP8=\", \"d\": \"-1.50\"}}\n\
             {\"op\": \"u\", \"table\": \"s.t\", \"before\": {\"id\": 1}, \"after\": {\"id\": 2, \"j\": {\"a\": 1}, \"b\": null}}\n\
             {\"op\": \"d\", \"table\": \"s.t\", \"before\": {\"id\": 1}}\n",
        )
        .expect("valid");
        assert_eq!(
            (&rows.sinks[..], rows.tables[0].columns[0].mysql_type.as_str()),
            (&["a".to_owned()][..], "bigint unsigned")
        );
        let written: Vec<Value> = rows.packed.view().rows().map(|row| row_json(&rows.tables[0], &row)).collect();
        assert_eq!(
            written[0],
            json!({"op": "c", "table": "s.t", "after": {"id": u64::MAX, "b": "AP8=", "d": "-1.50"}})
        );
        assert_eq!(written[1]["after"], json!({"id": 2, "j": "{\"a\": 1}", "b": null}));
        assert_eq!((rows.singles.len(), &written[2]["op"]), (3, &json!("d")));
    }

    #[test]
    fn a_case_has_settings_plugins_and_transactions() {
        let rows = Rows::parse(
            "{\"settings\": {\"limit\": 3}}\n{\"plugins\": [\"../other.wasm\"]}\n\
             {\"table\": \"s.t\", \"columns\": [\"id bigint\"], \"key\": [\"id\"]}\n\
             {\"op\": \"c\", \"table\": \"s.t\", \"after\": {\"id\": 1}}\n\
             {\"transaction\": {\"time\": \"2026-11-27 08:30:00.5\", \"gtid\": \"a:1\"}}\n\
             {\"op\": \"c\", \"table\": \"s.t\", \"after\": {\"id\": 2}}\n\
             {\"op\": \"c\", \"table\": \"s.t\", \"after\": {\"id\": 3}}\n",
        )
        .expect("valid");
        assert_eq!(
            (rows.plugins, rows.settings),
            (vec!["../other.wasm".to_owned()], json!({"limit": 3}).as_object().cloned())
        );
        let batch = rows.packed.view();
        let seen: Vec<_> = batch
            .rows()
            .map(|row| {
                let transaction = batch.transaction(row.transaction()).header();
                (transaction.gtid, transaction.commit_time_us, row.header().time_us, row.header().index_in_transaction)
            })
            .collect();
        let time_us = 1_795_768_200_500_000;
        assert_eq!(
            seen,
            [("", FIRST_TIME_US, FIRST_TIME_US, 0), ("a:1", time_us, time_us, 0), ("a:1", time_us, time_us, 1)]
        );
        let alone = rows.singles[2].view();
        assert_eq!(alone.transaction(0).header().gtid, "a:1");
        for (line, error) in [
            ("{\"transaction\": {\"time\": \"soon\"}}", "write it as 2026-11-27 08:30:00"),
            ("{\"setting\": {}}", "a line is"),
        ] {
            assert!(
                Rows::parse(line).is_err_and(|found| found.contains("line 1: ") && found.contains(error)),
                "{line}"
            );
        }
    }

    #[test]
    fn names_with_dots_and_blanks_are_read_as_they_are_written() {
        let table = |schema: &str, name: &str, column: &str| Table {
            id: TableId(0),
            generation: 0,
            schema: schema.to_owned(),
            name: name.to_owned(),
            columns: vec![Column {
                name: column.to_owned(),
                kind: Kind::Int,
                mysql_type: "bigint".to_owned(),
                nullable: false,
                key: true,
            }],
            key: vec![ColumnIndex(0)],
        };
        let tables = [
            table("my", "db.t", "a b"),
            table("my.db", "t", "`"),
            table("it's ☃", "`x`", "größe"),
            table("s", "t", "."),
        ];
        let lines = tables.iter().map(|table| {
            let after = Map::from_iter([(table.columns[0].name.clone(), json!(1))]);
            format!("{}\n{}\n", table_json(table), json!({"op": "c", "table": table.to_string(), "after": after}))
        });
        let rows = Rows::parse(&lines.collect::<String>()).expect("valid");
        assert_eq!(rows.tables.len(), tables.len());
        for (row, (table, read)) in rows.packed.view().rows().zip(tables.iter().zip(rows.tables.iter())) {
            assert_eq!((&read.schema, &read.name, &read.columns), (&table.schema, &table.name, &table.columns));
            assert_eq!(row.table(), read.id, "{read}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_line() {
        let error = |text: &str| Rows::parse(text).expect_err("refused");
        const TABLE: &str = "{\"table\": \"s.t\", \"columns\": [\"id int\"]}\n";
        assert!(error("{\"op\": \"c\", \"table\": \"s.t\", \"after\": {}}").contains("line 1: no earlier line"));
        assert!(
            error(&format!("{TABLE}{{\"op\": \"c\", \"table\": \"s.t\", \"after\": {{\"x\": 1}}}}")).contains("line 2")
        );
        assert!(
            error(&format!("{TABLE}{{\"op\": \"c\", \"table\": \"s.t\", \"after\": {{\"id\": \"1\"}}}}"))
                .contains("`id` (int)")
        );
        assert!(
            error(&format!("{TABLE}{{\"op\": \"u\", \"table\": \"s.t\", \"after\": {{}}}}")).contains("an update both")
        );
        assert!(error("{\"table\": \"s.t\", \"columns\": [\"id money\"]}").contains("unknown type `money`"));
        assert!(error("{\"rows\": 1}").contains("a line is"));
    }

    #[test]
    fn a_value_that_its_column_cannot_have_is_refused() {
        let with = |declared: &str, value: &str| {
            Rows::parse(&format!(
                "{{\"table\": \"s.t\", \"columns\": [\"v {declared}\"]}}\n{{\"op\": \"c\", \"table\": \"s.t\", \"after\": {{\"v\": {value}}}}}"
            ))
        };
        for (declared, value) in [
            ("decimal(10,2)", "\"12.50\""),
            ("decimal(10,0)", "\"12\""),
            ("enum('new','it''s')", "\"it's\""),
            ("enum('a'',''b', 'c''')", "\"a','b\""),
            ("enum('a'',''b', 'c''')", "\"c'\""),
            ("enum('new')", "\"\""),
            // As information_schema shows a backslash and a line break.
            ("enum('a\\\\\\\\b','c\\\\nd')", "\"a\\\\b\""),
            ("enum('a\\\\\\\\b','c\\\\nd')", "\"c\\nd\""),
            ("set('a','b')", "\"a,b\""),
            ("date", "\"2026-00-00\""),
            ("json", "[1, {\"b\": null}]"),
        ] {
            with(declared, value).unwrap_or_else(|error| panic!("{declared} {value}: {error}"));
        }
        for (declared, value, words) in [
            ("decimal(10,2)", "\"abc\"", "write it as -12.50"),
            ("decimal(10,2)", "\"12.5\"", "2 digits after the point"),
            ("decimal(10,2)", "12.50", "`v` (decimal) cannot have the value"),
            ("date", "\"not a date\"", "write it as 2026-11-26"),
            ("enum('new','paid')", "\"zzz\"", "`zzz` is not one of new, paid"),
            ("set('a','b')", "\"a,c\"", "`c` is not one of a, b"),
            ("json", "\"{\"", "`v` (json) cannot have the value"),
        ] {
            let error = with(declared, value).expect_err(value);
            assert!(error.starts_with("line 2: ") && error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_unsigned_type_is_recognized() {
        assert_eq!(kind("INT(10) UNSIGNED ZEROFILL"), Some((Kind::Uint, "int unsigned".to_owned())));
        assert_eq!(kind("bigint unsigned"), Some((Kind::Uint, "bigint unsigned".to_owned())));
        assert_eq!(kind("enum('an unsigned letter')"), Some((Kind::Enum, "enum".to_owned())));
    }

    #[test]
    fn a_document_is_given_in_mysqls_form() {
        let exact = Exact::parse(r#"{"total":214748364678525163.11,"a":"x"}"#).expect("JSON");
        let mut out = String::new();
        exact.push_mysql(&mut out);
        assert_eq!(out, r#"{"a": "x", "total": 214748364678525163.11}"#, "all digits stay");
        for document in [
            r#"{"bb":1,"a":["x",{"city":"Köln"}],"c":2.5}"#,
            r#""{\"c\": 2.5, \"bb\": 1, \"a\": [\"x\", {\"city\": \"Köln\"}]}""#,
        ] {
            let text = format!(
                "{{\"table\": \"s.t\", \"columns\": [\"d json\"]}}\n{{\"op\": \"c\", \"table\": \"s.t\", \"after\": {{\"d\": {document}}}}}"
            );
            let rows = Rows::parse(&text).expect("rows");
            let cell = rows.packed.view().row(rowmill_core::batch::RowIndex(0)).newest();
            let cell = cell.cell(ColumnIndex(0)).text().map(str::to_owned);
            assert_eq!(cell.as_deref(), Some(r#"{"a": ["x", {"city": "Köln"}], "c": 2.5, "bb": 1}"#));
        }
    }
}
