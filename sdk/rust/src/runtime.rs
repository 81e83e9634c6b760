//! Between the world's functions and a [`Transform`]: what `export!` calls.

use rowmill_batch::{Batch, ColumnIndex, Kind, RowIndex, TableId};

use crate::bindings::rowmill::transform::{batch, host, types};
use crate::error::{Failure, Reason};
use crate::out::Out;
use crate::outcome::Outcome;
use crate::row::Row;
use crate::table::Table;
use crate::{Interest, Transform};

/// A transform and the tables that it knows.
#[derive(Debug, Default)]
pub struct Runtime<T> {
    transform: T,
    tables: Vec<Option<(Table, Interest)>>,
    out: Out,
}

impl<T: Transform> Runtime<T> {
    /// The world's `configure`.
    pub fn configure(&mut self, settings: &str) -> Result<(), String> {
        self.transform.configure(settings)?;
        self.out.lists.get_mut().declare_sinks(self.transform.sinks(), host::sink)
    }

    /// The world's `describe`.
    pub fn describe(&mut self, table: types::Table) -> Result<types::Interest, String> {
        let mut table = Table::new(packed_table(table));
        let interest = self.transform.interest(&table);
        if let Interest::Columns(names) = interest {
            table.declare(names);
        }
        let index = table.packed.id.0 as usize;
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        self.tables[index] = Some((table, interest));
        Ok(match interest {
            Interest::Pass => types::Interest::Pass,
            Interest::Drop => types::Interest::Drop,
            // No columns would be all columns.
            Interest::Columns(names) if !names.is_empty() => types::Interest::Want(types::Want {
                columns: names.iter().map(|&name| name.to_owned()).collect(),
                before: true,
                inserts: true,
                updates: true,
                deletes: true,
            }),
            Interest::All | Interest::Columns(_) => types::Interest::All,
        })
    }

    /// The world's `process`.
    pub fn process(&mut self) -> Result<(), types::Failure> {
        let bytes = batch::rows();
        let batch = Batch::parse(&bytes).map_err(|error| types::Failure::Reject(error.to_string()))?;
        let Self { transform, tables, out } = self;
        out.batch += 1;
        out.lists.get_mut().begin(batch.len());
        for index in 0..batch.len() as u32 {
            let TableId(id) = batch.row(RowIndex(index)).table();
            // Rows of tables that the plugin's .toml excludes are in the batch as well, and were never described.
            let Some(Some((table, interest))) = tables.get(id as usize) else { continue };
            match interest {
                Interest::Pass => out.lists.get_mut().keep.push(index),
                Interest::Drop => {}
                Interest::All | Interest::Columns(_) => {
                    let outcome = transform.row(&Row::new(table, &batch, index, out));
                    let lists = out.lists.get_mut();
                    let done = match outcome {
                        Ok(Outcome::Keep) => {
                            lists.keep.push(index);
                            continue;
                        }
                        Ok(Outcome::Drop) => continue,
                        Ok(Outcome::More(more)) => lists.more(index, table, *more),
                        Err(failure) => Err(failure),
                    };
                    if let Err(Failure(reason)) = done {
                        match *reason {
                            Reason::Reject(message) => lists.fail(index, message),
                            Reason::Retry(message) => return Err(types::Failure::Retry(message)),
                        }
                    }
                }
            }
        }
        out.lists.get_mut().tell().map_err(types::Failure::Reject)
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
    rowmill_batch::Table { id: TableId(table.id), generation: 0, schema: table.schema, name: table.name, columns, key }
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
