//! Between the world's functions and a [`Transform`]: what `export!` calls.

use std::borrow::Cow;

use rowmill_batch::{Batch, ColumnIndex, ImageKind, Kind, RowIndex, TableId};

use crate::bindings::rowmill::transform::types;
use crate::bindings::rowmill::transform::{batch, host};
use crate::outcome::{Edit, Message, More, Outcome};
use crate::row::{Row, Table};
use crate::{Interest, Transform};

/// A transform and the tables that it knows.
#[derive(Debug, Default)]
pub struct Runtime<T> {
    transform: T,
    tables: Vec<Option<(Table, Interest)>>,
    sinks: Vec<(String, u32)>,
}

/// `edit.state`.
const NULL: u8 = 1;
const VALUE: u8 = 2;

impl<T: Transform> Runtime<T> {
    /// The world's `configure`.
    pub fn configure(&mut self, settings: &str) -> Result<(), String> {
        self.transform.configure(settings)
    }

    /// The world's `describe`.
    pub fn describe(&mut self, table: types::Table) -> Result<types::Interest, String> {
        let table = Table(packed_table(table));
        let interest = self.transform.interest(&table);
        let index = table.0.id.0 as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        self.tables[index] = Some((table, interest));
        Ok(match interest {
            Interest::Pass => types::Interest::Pass,
            Interest::Drop => types::Interest::Drop,
            Interest::All => types::Interest::All,
        })
    }

    /// The world's `process`.
    pub fn process(&mut self) -> Result<types::Verdict, types::Failure> {
        let bytes = batch::rows();
        let batch = Batch::parse(&bytes).map_err(|error| types::Failure::Reject(error.to_string()))?;
        let Self { transform, tables, sinks } = self;
        let mut out = Out::new(sinks, batch.len());
        for index in 0..batch.len() as u32 {
            let row = batch.row(RowIndex(index));
            let TableId(id) = row.table();
            let Some(Some((table, interest))) = tables.get(id as usize) else {
                return Err(types::Failure::Reject(format!("table id {id} was never described")));
            };
            match interest {
                Interest::Pass => out.keep.push(index),
                Interest::Drop => {}
                Interest::All => match transform.row(&Row { table, row }) {
                    Outcome::Keep => out.keep.push(index),
                    Outcome::Drop => {}
                    Outcome::More(more) => out.more(index, table, *more).map_err(types::Failure::Reject)?,
                },
            }
        }
        Ok(out.verdict())
    }
}

fn packed_table(table: types::Table) -> rowmill_batch::Table {
    let columns: Vec<_> = table
        .columns
        .into_iter()
        .map(|column| rowmill_batch::Column {
            name: column.name,
            kind: packed_kind(column.kind),
            mysql_type: column.mysql_type,
            nullable: column.nullable,
            key: column.key,
        })
        .collect();
    let key = (0..).zip(&columns).filter(|(_, column)| column.key).map(|(index, _)| ColumnIndex(index)).collect();
    rowmill_batch::Table { id: TableId(table.id), schema: table.schema, name: table.name, columns, key }
}

fn packed_kind(kind: types::Kind) -> Kind {
    match kind {
        types::Kind::Int => Kind::Int,
        types::Kind::Uint => Kind::Uint,
        types::Kind::Float => Kind::Float,
        types::Kind::Decimal => Kind::Decimal,
        types::Kind::Text => Kind::Text,
        types::Kind::Bytes => Kind::Bytes,
        types::Kind::Json => Kind::Json,
        types::Kind::Date => Kind::Date,
        types::Kind::Time => Kind::Time,
        types::Kind::Datetime => Kind::Datetime,
        types::Kind::Timestamp => Kind::Timestamp,
        types::Kind::Year => Kind::Year,
        types::Kind::Bit => Kind::Bit,
        types::Kind::Enum => Kind::Enum,
        types::Kind::Set => Kind::Set,
        types::Kind::Geometry => Kind::Geometry,
        types::Kind::Vector => Kind::Vector,
    }
}

/// A verdict in the making. Each list's bytes are gathered apart and joined at the end.
struct Out<'a> {
    keep: Vec<u32>,
    sinks: &'a mut Vec<(String, u32)>,
    reroutes: (Vec<types::Reroute>, Vec<u8>),
    edits: (Vec<types::Edit>, Vec<u8>),
    emits: (Vec<types::Emit>, Vec<u8>),
    attributes: (Vec<types::Attribute>, Vec<u8>),
    fails: (Vec<types::RowFail>, Vec<u8>),
}

impl<'a> Out<'a> {
    fn new(sinks: &'a mut Vec<(String, u32)>, rows: usize) -> Self {
        Self {
            keep: Vec::with_capacity(rows),
            sinks,
            reroutes: Default::default(),
            edits: Default::default(),
            emits: Default::default(),
            attributes: Default::default(),
            fails: Default::default(),
        }
    }

    fn more(&mut self, row: u32, table: &Table, more: More) -> Result<(), String> {
        let More { keep, sink, group, edits, messages, failure } = more;
        if let Some(message) = failure {
            self.fails.0.push(types::RowFail { row, message_len: append(&mut self.fails.1, message) });
            return Ok(());
        }
        if keep {
            self.keep.push(row);
            if sink.is_some() || group.is_some() {
                let sink = self.sink(sink.as_ref())?;
                let group_len = append(&mut self.reroutes.1, group.unwrap_or_default());
                self.reroutes.0.push(types::Reroute { row, sink, group_len });
            }
        }
        for Edit { image, column: name, value } in edits {
            let column = table.column(&name).ok_or_else(|| format!("table {} has no column `{name}`", table.0))?;
            let image = match image {
                ImageKind::Before => types::Image::Before,
                ImageKind::After => types::Image::After,
            };
            let state = if value.is_some() { VALUE } else { NULL };
            let value_len = append(&mut self.edits.1, value.unwrap_or_default());
            self.edits.0.push(types::Edit { row, image, column: column.0, state, value_len });
        }
        for message in messages {
            self.emit(row, message)?;
        }
        Ok(())
    }

    fn emit(&mut self, row: u32, message: Message) -> Result<(), String> {
        let Message { body, sink, group, deduplication_id, attributes } = message;
        let emit = self.emits.0.len() as u32;
        let sink = self.sink(sink.as_ref())?;
        let arena = &mut self.emits.1;
        let group_len = append(arena, group.unwrap_or_default());
        let dedup_len = append(arena, deduplication_id.unwrap_or_default());
        let body_len = append(arena, body);
        self.emits.0.push(types::Emit { row, sink, group_len, dedup_len, body_len });
        for (name, value) in attributes {
            let name_len = append(&mut self.attributes.1, name);
            let value_len = append(&mut self.attributes.1, value);
            self.attributes.0.push(types::Attribute { emit, name_len, value_len });
        }
        Ok(())
    }

    fn sink(&mut self, name: Option<&Cow<'static, str>>) -> Result<Option<u32>, String> {
        let Some(name) = name else { return Ok(None) };
        if let Some((_, number)) = self.sinks.iter().find(|(known, _)| known == name) {
            return Ok(Some(*number));
        }
        let number = host::sink(name).ok_or_else(|| format!("the configuration has no sink `{name}`"))?;
        self.sinks.push((name.clone().into_owned(), number));
        Ok(Some(number))
    }

    fn verdict(self) -> types::Verdict {
        let mut arena = self.reroutes.1;
        for part in [self.edits.1, self.emits.1, self.attributes.1, self.fails.1] {
            arena.extend_from_slice(&part);
        }
        types::Verdict {
            keep: self.keep,
            reroutes: self.reroutes.0,
            edits: self.edits.0,
            emits: self.emits.0,
            attributes: self.attributes.0,
            writes: Vec::new(),
            fails: self.fails.0,
            arena,
        }
    }
}

fn append(arena: &mut Vec<u8>, bytes: impl AsRef<[u8]>) -> u32 {
    arena.extend_from_slice(bytes.as_ref());
    bytes.as_ref().len() as u32
}
