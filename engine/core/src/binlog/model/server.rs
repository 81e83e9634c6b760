//! The model of a server: writes the binlog of a history, and records the committed items.

use std::collections::{HashMap, HashSet};

use super::super::EventKind;
use super::super::writer::{
    BinlogWriter, Change, ColumnDefinition, ColumnType, Event, Rows, RowsLayout, Server, Statement, TableDefinition,
    Value, XaId,
};
use super::history::{End, Flavor, Head, History, Item, Part, Row, Setup, Step};
use super::written::{Boundary, Void, Written};
use crate::gtid::{Gtid, Source};
use crate::position::BinlogPosition;

struct ModelServer {
    setup: Setup,
    out: Written,
    tables: Vec<TableDefinition>,
    prepared: Vec<(XaId, Vec<Row>)>,
    transactions: u64,
    /// The number of the last GTID of each source or domain.
    numbers: HashMap<u32, u64>,
    restarts: u64,
    value: i32,
    altered: usize,
    /// The GTID of the open transaction.
    gtid: Option<Gtid>,
}

/// An event of a transaction, and its effect.
struct Entry {
    event: Event,
    effect: Effect,
}

enum Effect {
    None,
    Rows(Vec<Row>),
    Savepoint(String),
    RollbackTo(String),
}

/// The beginning of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning<'a> {
    Begin,
    /// A statement that is a transaction of its own.
    Standalone,
    Xa(&'a XaId),
}

pub const SERVER_UUID: [u8; 16] = [7; 16];
const TIME_S: u32 = 1_790_000_000;

impl History {
    /// Writes the binlog; a replica's has other file names and rotations.
    pub fn write(&self, is_replica: bool) -> Written {
        let server = if self.setup.flavor == Flavor::MariaDb { Server::MariaDb } else { Server::MySql };
        let prefix = if is_replica { "replica-bin" } else { "binlog" };
        let writer = BinlogWriter::new(server, self.setup.checksums != is_replica, prefix);
        let out = Written {
            writer,
            committed: Vec::new(),
            xa_first: Vec::new(),
            voids: HashMap::new(),
            definitions: vec![(BinlogPosition::new("", 0), tables(self.setup.names_columns))],
            boundaries: Vec::new(),
            with_savepoints: HashSet::new(),
            has_big_rows: false,
        };
        let mut scribe = ModelServer {
            setup: self.setup,
            out,
            tables: tables(self.setup.names_columns),
            prepared: Vec::new(),
            transactions: 0,
            numbers: HashMap::new(),
            restarts: 0,
            value: 0,
            altered: 0,
            gtid: None,
        };
        scribe.boundary(true);
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Rotate | Step::Restart | Step::Crash { parts: None } if is_replica => {}
                step => scribe.step(step),
            }
            if is_replica && index % 3 == 2 {
                scribe.out.writer.rotate();
            }
            scribe.boundary(false);
        }
        scribe.out
    }
}

fn tables(named: bool) -> Vec<TableDefinition> {
    let column = |name: &str, column_type, nullable| ColumnDefinition { name: name.to_owned(), column_type, nullable };
    let table = |schema: &str, name: &str, columns, key| TableDefinition {
        schema: schema.to_owned(),
        name: name.to_owned(),
        columns,
        key,
        named,
    };
    let many = |index: i32| match index % 3 {
        0 => column(&format!("i{index}"), ColumnType::Int, true),
        1 => column(&format!("v{index}"), ColumnType::Varchar { bytes_max: 400 }, true),
        _ => column(&format!("d{index}"), ColumnType::Double, true),
    };
    vec![
        table(
            "shop",
            "orders",
            vec![
                column("id", ColumnType::Int, false),
                column("note", ColumnType::Varchar { bytes_max: 80 }, true),
                column("total", ColumnType::Double, true),
            ],
            vec![0],
        ),
        table(
            "shop",
            "bodies",
            vec![column("id", ColumnType::BigintUnsigned, false), column("body", ColumnType::Longtext, true)],
            vec![0],
        ),
        table("shop", "wide", (0..11).map(many).collect(), vec![]),
        table("hidden", "orders", vec![column("id", ColumnType::Int, false)], vec![0]),
    ]
}

/// Returns a table's name and the names of its columns.
fn shown(table: &TableDefinition) -> String {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    format!("{}.{} {columns:?}", table.schema, table.name)
}

/// Whether the tables of a schema are read.
pub fn is_selected(schema: &str) -> bool {
    schema == "shop"
}

impl ModelServer {
    fn is_mariadb(&self) -> bool {
        self.setup.flavor == Flavor::MariaDb
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Transaction { parts, end, payload } => self.transaction(parts, *end, *payload),
            // MariaDB logs a commit in one phase as any other transaction.
            Step::Xa { parts, one_phase: true } if self.is_mariadb() => self.transaction(parts, End::Xid, None),
            Step::Xa { parts, one_phase } => self.xa(parts, *one_phase),
            Step::XaEnd { pick, is_commit } => self.xa_end(*pick, *is_commit),
            Step::Alter { table, rename } => self.alter(*table, *rename),
            Step::CreateWithRows { rows } => self.create_with_rows(*rows),
            Step::Statement { other_schema } => self.statement(*other_schema),
            Step::Ignorable => self.ignorable(),
            Step::Rotate => self.out.writer.rotate(),
            Step::Restart => {
                self.out.writer.write(&Event::Stop);
                self.restarts += 1;
                self.out.writer.crash();
            }
            Step::Crash { parts } => {
                if let Some(parts) = parts {
                    let head = self.begin(Beginning::Begin, true);
                    let entries = self.entries(parts);
                    let (_, written) = self.lay(entries, None, &head);
                    self.void(&head, written, self.is_mariadb());
                    self.out.writer.positions = true;
                }
                self.restarts += 1;
                self.out.writer.crash();
            }
            Step::Grow { gib } => {
                for _ in 0..*gib {
                    self.out.writer.skip(1 << 30);
                    self.ignorable();
                }
            }
        }
    }

    fn boundary(&mut self, is_head: bool) {
        let mut position = self.out.writer.position();
        if is_head {
            position.offset = BinlogPosition::FIRST_EVENT;
        }
        self.out.boundaries.push(Boundary {
            position,
            has_prepared: !self.prepared.is_empty(),
            committed: self.out.committed.len(),
            executed: self.out.writer.executed().clone(),
        });
    }

    fn ignorable(&mut self) {
        self.out.writer.write(&Event::Other { kind: EventKind(250), ignorable: true, body: vec![1, 2, 3] });
    }

    fn transaction(&mut self, parts: &[Part], end: End, payload: Option<bool>) {
        let payload = payload.filter(|_| matches!(self.setup.flavor, Flavor::MySql | Flavor::MySqlAnonymous));
        let head = self.begin(Beginning::Begin, payload.is_none());
        let mut entries = self.entries(parts);
        if payload.is_some() {
            entries.insert(0, Entry { event: self.begin_statement(), effect: Effect::None });
        }
        let text = |text: &str| Event::Query(Statement::new(text));
        let event = match end {
            End::Xid => Event::Xid(self.transactions),
            End::Commit => text("COMMIT"),
            End::Rollback => text("ROLLBACK"),
        };
        entries.push(Entry { event, effect: Effect::None });
        let is_held = self.is_mariadb() || matches!(parts.first(), Some(Part::Savepoint(_)));
        let (rows, written) = self.lay(entries, payload, &head);
        if end == End::Rollback {
            self.void(&head, written, is_held);
        } else {
            self.commit(rows, false);
        }
        self.end();
    }

    fn xa(&mut self, parts: &[Part], one_phase: bool) {
        let id = XaId { format: 1, global: vec![b'x', self.transactions as u8], branch: vec![] };
        let head = self.begin(Beginning::Xa(&id), true);
        let mut entries = self.entries(parts);
        let end = Event::Query(Statement::new(format!("XA END {id}")));
        entries.push(Entry { event: end, effect: Effect::None });
        entries.push(Entry { event: Event::XaPrepare { one_phase, id: id.clone() }, effect: Effect::None });
        let (rows, _) = self.lay(entries, None, &head);
        if one_phase {
            self.commit(rows, true);
        } else {
            self.prepared.push((id, rows));
        }
        self.end();
    }

    fn xa_end(&mut self, pick: usize, is_commit: bool) {
        if self.prepared.is_empty() {
            return;
        }
        let (id, rows) = self.prepared.remove(pick % self.prepared.len());
        let verb = if is_commit { "COMMIT" } else { "ROLLBACK" };
        self.begin(Beginning::Standalone, true);
        self.out.writer.write(&Event::Query(Statement::new(format!("XA {verb} {id}"))));
        if is_commit {
            self.commit(rows, true);
        }
        self.end();
    }

    fn alter(&mut self, table: usize, rename: bool) {
        self.altered += 1;
        let name = format!("c{}", self.altered);
        let table = &mut self.tables[table];
        let schema = table.schema.clone();
        let what = if rename {
            let column = table.columns.last_mut().expect("a column");
            let old = std::mem::replace(&mut column.name, name.clone());
            format!("RENAME COLUMN {old} TO {name}")
        } else {
            let column_type = ColumnType::Int;
            table.columns.push(ColumnDefinition { name: name.clone(), column_type, nullable: true });
            format!("ADD {name} INT")
        };
        let text = format!("ALTER TABLE {schema}.{} {what}", table.name);
        self.begin(Beginning::Standalone, true);
        self.schema_change(text, schema);
        self.end();
        self.out.definitions.push((self.out.writer.position(), self.tables.clone()));
    }

    fn create_with_rows(&mut self, rows: usize) {
        let head = self.begin(Beginning::Begin, true);
        let text = "CREATE TABLE `shop`.`bodies` (id INT) START TRANSACTION".to_owned();
        self.schema_change(text, "shop".to_owned());
        let events = if rows == 0 { vec![] } else { vec![rows] };
        let part = Part::Rows { table: 1, change: Change::Write, events, partial: false, big: false };
        let mut entries = self.entries(&[part]);
        entries.push(Entry { event: Event::Xid(self.transactions), effect: Effect::None });
        let (rows, _) = self.lay(entries, None, &head);
        self.commit(rows, false);
        self.end();
    }

    fn schema_change(&mut self, text: String, schema: String) {
        let changed_schemas = (!self.is_mariadb()).then(|| vec![schema.clone()]);
        let statement =
            Statement { changed_schemas, schema: schema.clone(), text: text.clone(), ..Statement::default() };
        let span = self.out.writer.write(&Event::Query(statement));
        // A change is reported unless it is known to concern other schemas.
        if is_selected(&schema) || self.is_mariadb() {
            self.out.committed.push(Item::SchemaChange {
                statement: text,
                file: self.out.writer.file().to_owned(),
                event_position: span.begin,
                gtid: self.gtid.as_ref().map(ToString::to_string).unwrap_or_default(),
            });
            self.out.xa_first.push(None);
        }
    }

    fn statement(&mut self, other_schema: bool) {
        self.begin(Beginning::Standalone, true);
        let statement = if other_schema && !self.is_mariadb() {
            let changed_schemas = Some(vec!["hidden".to_owned()]);
            Statement { changed_schemas, ..Statement::new("INSERT INTO hidden.log VALUES (1)") }
        } else {
            Statement::new("CREATE USER u IDENTIFIED BY 'x'")
        };
        self.out.writer.write(&Event::Query(statement));
        self.end();
    }

    /// Begins a transaction: writes its GTID event, and its first statement unless a payload has that.
    fn begin(&mut self, beginning: Beginning<'_>, with_statement: bool) -> Head {
        self.transactions += 1;
        let writer = &mut self.out.writer;
        writer.timestamp_s = TIME_S + self.transactions as u32;
        let commit_time_us = 1_790_000_000_000_000 + self.transactions * 1_000;
        let parity = self.transactions % 2 == 1;
        let number = self.numbers.get(&u32::from(parity)).copied().unwrap_or(0) + 1;
        let mut head = Head { file: writer.file().to_owned(), position: 0, server_id: 1, ..Head::default() };
        self.gtid = None;
        match self.setup.flavor {
            Flavor::MySql | Flavor::MySqlTagged | Flavor::MySqlAnonymous => {
                let tag = if self.setup.flavor == Flavor::MySqlTagged && parity { "tag" } else { "" };
                // Without tags all GTIDs have the same source.
                let number = if self.setup.flavor == Flavor::MySql { self.all_numbers() + 1 } else { number };
                let gtid = Gtid::MySql { source: Source::new(SERVER_UUID, tag), number };
                let gtid = (self.setup.flavor != Flavor::MySqlAnonymous).then_some(gtid);
                self.out.writer.open(gtid.clone());
                head.position = self.out.writer.write(&Event::Gtid { gtid: gtid.clone(), commit_time_us }).begin;
                head.commit_time_us = commit_time_us as i64;
                self.gtid = gtid;
            }
            Flavor::MySqlWithoutGtids => head.position = self.out.writer.position().offset,
            Flavor::MariaDb => {
                let domain = u32::from(parity);
                writer.server_id = 1 + domain;
                let gtid = Gtid::MariaDb { domain, server: writer.server_id, sequence: number };
                writer.open(Some(gtid.clone()));
                head.server_id = writer.server_id;
                head.position = writer.position().offset;
                writer.write(&Event::MariaDbGtid {
                    domain,
                    sequence: number,
                    standalone: beginning == Beginning::Standalone,
                    commit_id: parity.then_some(self.transactions),
                    prepared: if let Beginning::Xa(id) = beginning { Some(id.clone()) } else { None },
                });
                writer.positions = !self.setup.terse;
                self.gtid = Some(gtid);
            }
        }
        head.gtid = self.gtid.as_ref().map(ToString::to_string).unwrap_or_default();
        if with_statement && !self.is_mariadb() {
            let thread_id = 10 + self.transactions as u32;
            let text = match beginning {
                Beginning::Begin => "BEGIN".to_owned(),
                Beginning::Xa(id) => format!("XA START {id}"),
                Beginning::Standalone => return head,
            };
            head.thread_id = thread_id;
            self.out.writer.write(&Event::Query(Statement { thread_id, text, ..Statement::default() }));
        }
        head
    }

    fn all_numbers(&self) -> u64 {
        self.numbers.values().sum()
    }

    fn begin_statement(&self) -> Event {
        Event::Query(Statement { thread_id: 9, ..Statement::new("BEGIN") })
    }

    /// Completes the open transaction.
    fn end(&mut self) {
        if self.gtid.is_some() {
            let parity = u32::from(self.transactions % 2 == 1);
            *self.numbers.entry(parity).or_default() += 1;
        }
        self.gtid = None;
        let writer = &mut self.out.writer;
        writer.execute();
        writer.positions = true;
        writer.server_id = 1;
    }

    fn commit(&mut self, mut rows: Vec<Row>, is_xa: bool) {
        if let Some(last) = rows.last_mut() {
            last.is_last = true;
        }
        let first = self.out.committed.len();
        self.out.xa_first.extend(rows.iter().map(|_| is_xa.then_some(first)));
        self.out.committed.extend(rows.into_iter().map(Item::Row));
    }

    fn void(&mut self, head: &Head, rows: Vec<Row>, is_held: bool) {
        let committed = self.out.committed.len();
        let begin = BinlogPosition::new(head.file.clone(), head.position);
        self.out.voids.insert(begin, Void { committed, rows, is_held });
    }

    fn entries(&mut self, parts: &[Part]) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut savepoints: Vec<String> = Vec::new();
        let query = |text: String| Event::Query(Statement::new(text));
        for part in parts {
            match part {
                Part::Rows { table, change, events, partial, big } => {
                    self.rows(*table, *change, events, *partial, *big, &mut entries);
                }
                Part::Savepoint(number) => {
                    let name = format!("s{number}");
                    savepoints.retain(|known| *known != name);
                    savepoints.push(name.clone());
                    let event = query(format!("SAVEPOINT `{name}`"));
                    entries.push(Entry { event, effect: Effect::Savepoint(name) });
                }
                Part::RollbackTo(pick) if !savepoints.is_empty() => {
                    let index = pick % savepoints.len();
                    savepoints.truncate(index + 1);
                    let name = savepoints[index].clone();
                    let event = query(format!("ROLLBACK TO `{name}`"));
                    entries.push(Entry { event, effect: Effect::RollbackTo(name) });
                }
                Part::RollbackTo(_) => {}
                Part::TemporaryTable => {
                    let event = query("CREATE TEMPORARY TABLE shop.scratch (id INT)".to_owned());
                    entries.push(Entry { event, effect: Effect::None });
                }
                Part::Text => {
                    let text = "INSERT INTO shop.orders VALUES (1)".to_owned();
                    let event = if self.is_mariadb() { Event::AnnotateRows(text) } else { Event::RowsQuery(text) };
                    entries.push(Entry { event, effect: Effect::None });
                }
            }
        }
        entries
    }

    /// Appends a table map, and events with rows of the table.
    fn rows(
        &mut self,
        table: usize,
        change: Change,
        events: &[usize],
        partial: bool,
        big: bool,
        entries: &mut Vec<Entry>,
    ) {
        // A restarted server assigns other table numbers.
        let number = (table as u64 + self.restarts) % 4 + 70;
        let definition = self.tables[table].clone();
        self.out.has_big_rows |= big && table == 1;
        entries.push(Entry { event: Event::TableMap { number, table: definition.clone() }, effect: Effect::None });
        let layout = match (self.is_mariadb(), self.setup.terse) {
            (false, _) => RowsLayout::V2,
            (true, false) => RowsLayout::V1,
            (true, true) => RowsLayout::CompressedV1,
        };
        let types: Vec<ColumnType> = definition.columns.iter().map(|column| column.column_type).collect();
        for count in events {
            let mut images = Vec::new();
            for _ in 0..*count {
                let mut image = |is_there: bool, keeps: fn(usize) -> bool| {
                    let values = if is_there { self.image(&definition, big) } else { Vec::new() };
                    let absent = |index: usize| partial && index > 0 && !keeps(index);
                    let values = values.into_iter().enumerate();
                    values.map(|(index, value)| if absent(index) { Value::Absent } else { value }).collect::<Vec<_>>()
                };
                let before = image(change != Change::Write, |_| false);
                let after = image(change != Change::Delete, |index| index % 3 != 1);
                images.push((before, after));
            }
            let is_selected = is_selected(&definition.schema);
            let effect = if is_selected {
                let row = |(before, after): &(Vec<Value>, Vec<Value>)| Row {
                    table: shown(&definition),
                    change,
                    before: before.clone(),
                    after: after.clone(),
                    event_position: 0,
                    index_in_event: 0,
                    index_in_transaction: 0,
                    time_us: 0,
                    is_last: false,
                    transaction: Head::default(),
                };
                Effect::Rows(images.iter().map(row).collect())
            } else {
                Effect::None
            };
            let rows = Rows { number, change, layout, rows: images, columns: types.clone() };
            entries.push(Entry { event: Event::Rows(rows), effect });
        }
    }

    /// Returns the values of a row, which differ from those of other rows.
    fn image(&mut self, table: &TableDefinition, big: bool) -> Vec<Value> {
        let mut values = Vec::new();
        for column in &table.columns {
            self.value += 1;
            let value = self.value;
            values.push(match column.column_type {
                _ if column.nullable && value % 5 == 0 => Value::Null,
                ColumnType::Int => Value::Int(-value),
                ColumnType::BigintUnsigned => Value::Uint(u64::MAX - value as u64),
                ColumnType::Double => Value::Double(f64::from(value) / 4.0),
                ColumnType::Varchar { .. } => Value::Text(format!("é{value}")),
                ColumnType::Longtext if big => Value::Text("b".repeat(30_000)),
                ColumnType::Longtext => Value::Text("t".repeat(value as usize % 40)),
            });
        }
        values
    }

    /// Writes a transaction's events. Returns its remaining rows, and all its rows with those that were rolled back.
    fn lay(&mut self, entries: Vec<Entry>, payload: Option<bool>, head: &Head) -> (Vec<Row>, Vec<Row>) {
        let mut head = head.clone();
        let time_s = if payload.is_some() { TIME_S } else { self.out.writer.timestamp_s };
        let payload_span = payload.map(|zstd| {
            head.thread_id = 9;
            let events = entries.iter().map(|entry| entry.event.clone()).collect();
            self.out.writer.write(&Event::Payload { events, zstd })
        });
        let (mut rows, mut written) = (Vec::<Row>::new(), Vec::new());
        let mut savepoints: Vec<(String, usize)> = Vec::new();
        // In a payload a row's index counts from the offset of its event within the payload.
        let (mut payload_offset, mut is_void) = (0, false);
        for Entry { event, effect } in entries {
            let first_index = if payload.is_some() { payload_offset } else { 0 };
            payload_offset += (crate::binlog::EventHeader::LEN + event.body().len()) as u32;
            let span = payload_span.unwrap_or_else(|| self.out.writer.write(&event));
            match effect {
                Effect::None => {}
                Effect::Rows(new) => {
                    for (index_in_event, row) in (first_index..).zip(new) {
                        let row = Row {
                            event_position: span.begin,
                            index_in_event,
                            index_in_transaction: rows.len() as u32,
                            time_us: i64::from(time_s) * 1_000_000,
                            transaction: head.clone(),
                            ..row
                        };
                        written.push(row.clone());
                        rows.push(row);
                    }
                }
                Effect::Savepoint(name) => {
                    savepoints.retain(|(known, _)| *known != name);
                    savepoints.push((name, rows.len()));
                    self.out.with_savepoints.insert(BinlogPosition::new(head.file.clone(), head.position));
                }
                Effect::RollbackTo(name) => {
                    let index = savepoints.iter().position(|(known, _)| *known == name).expect("an existing savepoint");
                    savepoints.truncate(index + 1);
                    rows.truncate(savepoints[index].1);
                    is_void = true;
                }
            }
        }
        if is_void {
            // Rows after a savepoint are held back.
            self.void(&head, written.clone(), true);
        }
        (rows, written)
    }
}
