//! Messages that the host writes, as a transform says of what.

use std::sync::Arc;

use bytestring::ByteString;
use rowmill_core::batch::{Batch, Cell, ColumnIndex, Image, ImageKind, Operation, Row, RowIndex, Table, TableId};
use rowmill_core::envelope::{push_cell, push_cell_text, push_image, push_int, push_string};

use super::instance::types;
use super::message::MessageText;
use super::query::time_us;
use super::want::Interests;

/// Bytes of a message that room is made for at once.
const LENGTH_EXPECTED: usize = 192;

/// Messages of rows.
#[derive(Debug)]
pub(super) struct Written {
    /// Each one's group, empty if the recipe says none, and its body, one behind the other: one piece of memory.
    text: ByteString,
    /// Where each one's group and body end.
    ends: Vec<(RowIndex, usize, usize)>,
    /// Rows of tables that lack a column.
    pub fails: Vec<(RowIndex, String)>,
}

impl Written {
    /// What all of them take.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Rows, and their messages' texts.
    pub fn messages(&self) -> impl Iterator<Item = (RowIndex, MessageText)> {
        let text = &self.text;
        self.ends.iter().scan(0, move |start, &(row, group_end, end)| {
            let group_len = group_end - *start;
            let slice = text.slice_ref(&text[std::mem::replace(start, end)..end]);
            Some((row, MessageText::new(slice, group_len, group_len).expect("groups and bodies are text")))
        })
    }
}

/// A way to make messages.
#[derive(Debug)]
pub(super) struct Recipe {
    pieces: Vec<Piece>,
    /// What stands behind the last piece.
    end: Text,
    /// The message group, if the recipe says one.
    group: Option<Group>,
    columns: OfTables<Vec<ColumnIndex>>,
}

/// Something of a row, and the text before it: separators, the field's name, constants.
#[derive(Debug)]
struct Piece {
    before: Text,
    part: types::Part,
}

/// A short text, copied by blocks of one length: a copy of any length is a call, which costs more than the bytes do.
#[derive(Debug)]
struct Text {
    blocks: Vec<[u8; 16]>,
    len: usize,
}

impl Text {
    fn new(text: &[u8]) -> Self {
        let block = |bytes: &[u8]| std::array::from_fn(|index| bytes.get(index).copied().unwrap_or_default());
        Self { blocks: text.chunks(16).map(block).collect(), len: text.len() }
    }

    fn push_to(&self, out: &mut Vec<u8>) {
        let end = out.len() + self.len;
        self.blocks.iter().for_each(|block| out.extend_from_slice(block));
        out.truncate(end);
    }
}

impl Recipe {
    /// # Errors
    /// If a constant isn't JSON.
    pub fn new(recipe: types::Recipe) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(recipe.fields.len());
        let mut text = Vec::new();
        let mut separator = b'{';
        for types::Field { name, value } in recipe.fields {
            text.push(separator);
            separator = b',';
            push_string(&name, &mut text);
            text.push(b':');
            match value {
                types::Part::Constant(constant) => {
                    serde_json::from_str::<serde::de::IgnoredAny>(&constant)
                        .map_err(|error| format!("the constant `{constant}` of a recipe isn't JSON: {error}"))?;
                    text.extend_from_slice(constant.as_bytes());
                }
                part => {
                    pieces.push(Piece { before: Text::new(&text), part });
                    text.clear();
                }
            }
        }
        if separator == b'{' {
            text.push(b'{');
        }
        text.push(b'}');
        let group = (!recipe.group.is_empty()).then(|| Group::new(recipe.group));
        Ok(Self { pieces, end: Text::new(&text), group, columns: OfTables::default() })
    }

    /// Each row's message, in the rows' order.
    pub fn messages(
        &mut self,
        batch: &Batch<'_>,
        rows: &[RowIndex],
        tables: &[Arc<Table>],
        interests: &Interests,
    ) -> Written {
        let mut text = Vec::with_capacity(rows.len() * LENGTH_EXPECTED);
        let mut ends = Vec::with_capacity(rows.len());
        let mut fails = Vec::new();
        for &index in rows {
            let row = batch.row(index);
            let table = &tables[row.table().0 as usize];
            let start = text.len();
            let written = self.write_group(table, interests, &row, &mut text).and_then(|()| {
                let group_end = text.len();
                self.write(table, interests, batch, &row, &mut text).map(|()| (index, group_end, text.len()))
            });
            match written {
                Ok(end) => ends.push(end),
                Err(fault) => {
                    text.truncate(start);
                    fails.push((index, fault));
                }
            }
        }
        let text = String::from_utf8(text).expect("JSON is written as UTF-8").into();
        Written { text, ends, fails }
    }

    fn write_group(
        &mut self,
        table: &Table,
        interests: &Interests,
        row: &Row<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.group.as_mut().map_or(Ok(()), |group| group.write(table, interests, row, out))
    }

    /// Appends a row's message: UTF-8.
    ///
    /// # Errors
    /// If the table lacks a column, or it isn't among those that the plugin wants.
    fn write(
        &mut self,
        table: &Table,
        interests: &Interests,
        batch: &Batch<'_>,
        row: &Row<'_>,
        body: &mut Vec<u8>,
    ) -> Result<(), String> {
        let Self { pieces, end, columns, .. } = self;
        let columns = columns.get(table, || columns_of(pieces, table, interests))?;
        let mut columns = columns.iter();
        let (newest, old) = (row.newest(), row.before());
        for Piece { before, part } in pieces {
            before.push_to(body);
            let mut cell = |image: Option<&Image<'_>>, body: &mut Vec<u8>| {
                let index = *columns.next().expect("one for each part that names one");
                let cell = image.map_or(Cell::Null, |image| image.cell(index));
                push_cell(&table.columns[index.0 as usize], cell, body);
            };
            let image = |image, body: &mut Vec<u8>| match image {
                Some(image) => push_image(table, image, body),
                None => body.extend_from_slice(b"null"),
            };
            match part {
                types::Part::Column(_) => cell(Some(&newest), body),
                types::Part::Before(_) => cell(old.as_ref(), body),
                types::Part::Row => image(Some(newest), body),
                types::Part::RowBefore => image(old, body),
                types::Part::Operation => body.extend_from_slice(match row.operation() {
                    Operation::Insert => b"\"c\"",
                    Operation::Update => b"\"u\"",
                    Operation::Delete => b"\"d\"",
                }),
                types::Part::Schema => push_string(&table.schema, body),
                types::Part::Table => push_string(&table.name, body),
                types::Part::Time => push_int(time_us(batch, row) / 1000, body),
                types::Part::Constant(_) => unreachable!("constants are text between the pieces"),
            }
        }
        end.push_to(body);
        Ok(())
    }
}

/// The columns that pieces name, in their order.
fn columns_of(pieces: &[Piece], table: &Table, interests: &Interests) -> Result<Vec<ColumnIndex>, String> {
    let mut columns = Vec::new();
    for Piece { part, .. } in pieces {
        match part {
            types::Part::Column(name) => columns.push(index(table, interests, name, ImageKind::After)?),
            types::Part::Before(name) => columns.push(index(table, interests, name, ImageKind::Before)?),
            types::Part::Row => interests.check_all(table, ImageKind::After)?,
            types::Part::RowBefore => interests.check_all(table, ImageKind::Before)?,
            _ => {}
        }
    }
    Ok(columns)
}

/// What a message group is made of.
#[derive(Debug)]
pub(super) struct Group {
    parts: Vec<types::GroupPart>,
    columns: OfTables<Vec<ColumnIndex>>,
}

impl Group {
    pub fn new(parts: Vec<types::GroupPart>) -> Self {
        Self { parts, columns: OfTables::default() }
    }

    /// Appends a row's group: UTF-8.
    ///
    /// # Errors
    /// If the table lacks a column, or it isn't among those that the plugin wants.
    pub fn write(
        &mut self,
        table: &Table,
        interests: &Interests,
        row: &Row<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let Self { parts, columns } = self;
        let named = |part: &types::GroupPart| match part {
            types::GroupPart::Column(name) => Some(index(table, interests, name, ImageKind::After)),
            types::GroupPart::Text(_) => None,
        };
        let mut columns = columns.get(table, || parts.iter().filter_map(named).collect())?.iter();
        let newest = row.newest();
        for part in parts {
            match part {
                types::GroupPart::Text(text) => out.extend_from_slice(text.as_bytes()),
                types::GroupPart::Column(_) => {
                    let index = *columns.next().expect("one for each part that names one");
                    push_cell_text(&table.columns[index.0 as usize], newest.cell(index), out);
                }
            }
        }
        Ok(())
    }
}

/// What columns' names mean in each table, found out at its first row.
#[derive(Debug)]
pub(super) struct OfTables<T>(Vec<Option<T>>);

impl<T> Default for OfTables<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> OfTables<T> {
    pub fn get(&mut self, table: &Table, make: impl FnOnce() -> Result<T, String>) -> Result<&T, String> {
        let TableId(id) = table.id;
        let index = id as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        let known = &mut self.0[index];
        Ok(match known {
            Some(known) => known,
            None => known.insert(make()?),
        })
    }
}

fn index(table: &Table, interests: &Interests, name: &str, image: ImageKind) -> Result<ColumnIndex, String> {
    let index =
        table.column(name).ok_or_else(|| format!("a recipe names the column `{name}`, which {table} hasn't"))?;
    interests.check(table, index, image).map(|()| index)
}
