//! Messages that the host writes, as a transform says of what.

use std::collections::HashMap;

use rowmill_core::batch::{Batch, Cell, ColumnIndex, Operation, Row, Table, TableId};
use rowmill_core::envelope::{push_cell, push_cell_text, push_image, push_int, push_string};

use super::instance::types;
use super::query::time_us;

/// A way to make messages.
#[derive(Debug)]
pub(super) struct Recipe {
    /// `"name":` and what stands behind it.
    fields: Vec<(Vec<u8>, types::Part)>,
    group: Vec<types::GroupPart>,
    /// What the columns' names mean in each table.
    of_table: HashMap<TableId, Columns>,
}

#[derive(Debug)]
struct Columns {
    /// By field; those that aren't columns have none.
    fields: Vec<Option<ColumnIndex>>,
    /// By part of the group, likewise.
    group: Vec<Option<ColumnIndex>>,
}

impl Recipe {
    /// # Errors
    /// If a constant isn't JSON.
    pub fn new(recipe: types::Recipe) -> Result<Self, String> {
        let mut fields = Vec::with_capacity(recipe.fields.len());
        for types::Field { name, value } in recipe.fields {
            if let types::Part::Constant(text) = &value {
                serde_json::from_str::<serde::de::IgnoredAny>(text)
                    .map_err(|error| format!("the constant `{text}` of a recipe isn't JSON: {error}"))?;
            }
            let mut label = Vec::new();
            push_string(&name, &mut label);
            label.push(b':');
            fields.push((label, value));
        }
        Ok(Self { fields, group: recipe.group, of_table: HashMap::new() })
    }

    /// A row's message: its body, and its group if the recipe says one.
    ///
    /// # Errors
    /// If the table lacks a column.
    pub fn message(
        &mut self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
    ) -> Result<(String, Option<String>), String> {
        if !self.of_table.contains_key(&table.id) {
            let columns = self.columns(table)?;
            self.of_table.insert(table.id, columns);
        }
        let columns = &self.of_table[&table.id];
        let mut body = Vec::with_capacity(256);
        let mut separator = b'{';
        for ((label, part), column) in self.fields.iter().zip(&columns.fields) {
            body.push(separator);
            separator = b',';
            body.extend_from_slice(label);
            let cell = |cell: Option<Cell<'_>>, body: &mut Vec<u8>| match column.zip(cell) {
                Some((index, cell)) => push_cell(&table.columns[index.0 as usize], cell, body),
                None => body.extend_from_slice(b"null"),
            };
            let image = |image, body: &mut Vec<u8>| match image {
                Some(image) => push_image(table, image, body),
                None => body.extend_from_slice(b"null"),
            };
            match part {
                types::Part::Column(_) => cell(column.map(|index| row.newest().cell(index)), &mut body),
                types::Part::Before(_) => {
                    cell(column.zip(row.before()).map(|(index, before)| before.cell(index)), &mut body);
                }
                types::Part::Row => image(Some(row.newest()), &mut body),
                types::Part::RowBefore => image(row.before(), &mut body),
                types::Part::Operation => body.extend_from_slice(match row.operation() {
                    Operation::Insert => b"\"c\"",
                    Operation::Update => b"\"u\"",
                    Operation::Delete => b"\"d\"",
                }),
                types::Part::Schema => push_string(&table.schema, &mut body),
                types::Part::Table => push_string(&table.name, &mut body),
                types::Part::Time => push_int(time_us(batch, row) / 1000, &mut body),
                types::Part::Constant(text) => body.extend_from_slice(text.as_bytes()),
            }
        }
        if separator == b'{' {
            body.push(b'{');
        }
        body.push(b'}');
        let mut group = Vec::new();
        for (part, column) in self.group.iter().zip(&columns.group) {
            match (part, column) {
                (types::GroupPart::Text(text), _) => group.extend_from_slice(text.as_bytes()),
                (_, Some(index)) => {
                    push_cell_text(&table.columns[index.0 as usize], row.newest().cell(*index), &mut group);
                }
                (_, None) => {}
            }
        }
        let group = String::from_utf8(group).expect("texts are UTF-8");
        let group = Some(group).filter(|_| !self.group.is_empty());
        Ok((String::from_utf8(body).expect("JSON is written as UTF-8"), group))
    }

    fn columns(&self, table: &Table) -> Result<Columns, String> {
        let index = |name: &String| {
            table.column(name).ok_or_else(|| format!("a recipe names the column `{name}`, which {table} hasn't"))
        };
        let field = |(_, part): &(Vec<u8>, types::Part)| match part {
            types::Part::Column(name) | types::Part::Before(name) => index(name).map(Some),
            _ => Ok(None),
        };
        let group = |part: &types::GroupPart| match part {
            types::GroupPart::Column(name) => index(name).map(Some),
            types::GroupPart::Text(_) => Ok(None),
        };
        Ok(Columns {
            fields: self.fields.iter().map(field).collect::<Result<_, _>>()?,
            group: self.group.iter().map(group).collect::<Result<_, _>>()?,
        })
    }
}
