//! Recipes: messages that the host renders from rows, as the plugin described once.

use std::sync::Arc;

use bytestring::ByteString;
use rowmill_core::ByTable;
use rowmill_core::batch::json::Literal;
use rowmill_core::batch::{Batch, Cell, ColumnIndex, ImageKind, Operation, Row, RowIndex, Table};
use rowmill_core::envelope::{push_cell, push_cell_text, push_image, push_int, push_string};

use super::interest::Interests;
use super::message::MessageText;
use super::query::time_us;
use super::wasm::bindings::types;
use super::wasm::limits::{MESSAGE_BYTES, RECIPES_BYTES_MAX, RECIPES_MAX};

/// The expected size of a message in bytes, for the first allocation.
const LENGTH_EXPECTED: usize = 192;

/// Messages rendered from rows.
#[derive(Debug)]
pub(super) struct RenderedMessages {
    /// The messages' groups (empty if the recipe has none) and bodies, one after another in one buffer.
    text: ByteString,
    /// Each message's row, and the offsets at which it begins, its group ends, and its body ends.
    places: Vec<(RowIndex, usize, usize, usize)>,
    /// The rows for whose table the recipe cannot be compiled, with the causes.
    pub fails: Vec<(RowIndex, String)>,
}

impl RenderedMessages {
    /// Returns the size of all messages in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Returns the rows and their messages' texts.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = (RowIndex, MessageText)> {
        self.places.iter().map(|&(row, start, group_end, end)| {
            let (slice, group_len) = (self.text.slice_ref(&self.text[start..end]), group_end - start);
            (row, MessageText::new(slice, group_len, group_len).expect("groups and bodies are text"))
        })
    }
}

/// The recipes of an instance, numbered from 0 in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Recipes {
    recipes: Vec<Recipe>,
    /// The size of the recipes' texts in bytes.
    bytes: usize,
}

impl Recipes {
    /// Adds a recipe and returns its number.
    ///
    /// # Errors
    /// If a constant is not JSON, or a limit is exceeded.
    pub fn add(&mut self, recipe: types::Recipe) -> Result<u32, String> {
        let bytes = self.bytes.saturating_add(text_bytes(&recipe));
        if self.recipes.len() >= RECIPES_MAX || bytes > RECIPES_BYTES_MAX {
            return Err(format!("more than {RECIPES_MAX} recipes, or recipes of more than {RECIPES_BYTES_MAX} bytes"));
        }
        self.recipes.push(Recipe::new(recipe)?);
        self.bytes = bytes;
        Ok((self.recipes.len() - 1) as u32)
    }

    /// Returns the recipe of this number.
    ///
    /// # Errors
    /// If no recipe has this number.
    pub fn by_number(&mut self, number: u32) -> Result<&mut Recipe, String> {
        let count = self.recipes.len();
        self.recipes
            .get_mut(number as usize)
            .ok_or_else(|| format!("recipe {number} does not exist: there are {count}"))
    }
}

/// Returns the size of a recipe's texts in bytes.
fn text_bytes(recipe: &types::Recipe) -> usize {
    let fields = recipe.fields.iter().map(|types::Field { name, value }| {
        let value = match value {
            types::Part::Constant(text) | types::Part::Column(text) | types::Part::Before(text) => text.len(),
            _ => 0,
        };
        name.len() + value
    });
    let group = recipe.group.iter().map(|(types::GroupPart::Text(text) | types::GroupPart::Column(text))| text.len());
    fields.chain(group).sum()
}

/// A description of a message.
#[derive(Debug)]
pub(super) struct Recipe {
    fields: Vec<types::Field>,
    /// The parts of the message group; empty: the row's own group.
    group: Vec<types::GroupPart>,
    plans: OfTables<Plan>,
}

/// A recipe compiled for one table.
#[derive(Debug)]
struct Plan {
    group: Group,
    pieces: Vec<Piece>,
    /// The text after the last piece.
    end: Literal,
}

/// A value of a row, and the text before it: separators, field names, and values that are the same for all rows.
#[derive(Debug)]
struct Piece {
    before: Literal,
    value: Value,
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Column(ColumnIndex),
    Before(ColumnIndex),
    Row,
    RowBefore,
    Operation,
    Time,
}

impl Recipe {
    fn new(types::Recipe { fields, group }: types::Recipe) -> Result<Self, String> {
        if fields.len() > RECIPES_MAX || group.len() > RECIPES_MAX {
            return Err(format!("recipe of more than {RECIPES_MAX} fields or group parts"));
        }
        for types::Field { value, .. } in &fields {
            if let types::Part::Constant(constant) = value {
                serde_json::from_str::<serde::de::IgnoredAny>(constant)
                    .map_err(|error| format!("the constant `{constant}` of a recipe is not JSON: {error}"))?;
            }
        }
        Ok(Self { fields, group, plans: OfTables::default() })
    }

    /// Renders the rows' messages, in the rows' order. `None` if the messages take more than `bytes_max` bytes.
    pub fn messages(
        &mut self,
        batch: &Batch<'_>,
        rows: &[RowIndex],
        tables: &[Arc<Table>],
        interests: &Interests,
        bytes_max: usize,
    ) -> Option<RenderedMessages> {
        if rows.len().saturating_mul(MESSAGE_BYTES) > bytes_max {
            return None;
        }
        let mut text = Vec::with_capacity(rows.len() * LENGTH_EXPECTED);
        let mut places = Vec::with_capacity(rows.len());
        let mut fails = Vec::new();
        let table_of = |row: RowIndex| batch.row(row).table();
        // Consecutive rows are mostly of one table.
        for rows in rows.chunk_by(|&row, &next| table_of(row) == table_of(next)) {
            let table = &*tables[table_of(rows[0]).0 as usize];
            let Self { fields, group, plans } = self;
            match plans.get(table, || Plan::new(fields, group, table, interests)) {
                Ok(plan) => {
                    for &index in rows {
                        let (row, start) = (batch.row(index), text.len());
                        let written = plan.group.write(table, &row, bytes_max, &mut text).and_then(|()| {
                            let group_end = text.len();
                            plan.write(table, batch, &row, bytes_max, &mut text).map(|()| group_end)
                        });
                        if text.len() > bytes_max {
                            return None;
                        }
                        match written {
                            Ok(group_end) => places.push((index, start, group_end, text.len())),
                            Err(error) => {
                                text.truncate(start);
                                fails.push((index, error));
                            }
                        }
                    }
                }
                Err(error) => fails.extend(rows.iter().map(|&index| (index, error.clone()))),
            }
        }
        let text = String::from_utf8(text).expect("JSON is written as UTF-8").into();
        Some(RenderedMessages { text, places, fails })
    }
}

impl Plan {
    /// Compiles a recipe for a table.
    ///
    /// # Errors
    /// If the table does not have a column, or the column is outside the plugin's interest.
    fn new(
        fields: &[types::Field],
        group: &[types::GroupPart],
        table: &Table,
        interests: &Interests,
    ) -> Result<Self, String> {
        let mut pieces = Vec::with_capacity(fields.len());
        let mut text = Vec::new();
        let mut separator = b'{';
        for types::Field { name, value } in fields {
            text.push(separator);
            separator = b',';
            push_string(name, &mut text);
            text.push(b':');
            let value = match value {
                types::Part::Column(name) => Value::Column(index(table, interests, name, ImageKind::After)?),
                types::Part::Before(name) => Value::Before(index(table, interests, name, ImageKind::Before)?),
                types::Part::Row => interests.check_all(table, ImageKind::After).map(|()| Value::Row)?,
                types::Part::RowBefore => interests.check_all(table, ImageKind::Before).map(|()| Value::RowBefore)?,
                types::Part::Operation => Value::Operation,
                types::Part::Time => Value::Time,
                same => {
                    match same {
                        types::Part::Schema => push_string(&table.schema, &mut text),
                        types::Part::Table => push_string(&table.name, &mut text),
                        types::Part::Constant(json) => text.extend_from_slice(json.as_bytes()),
                        _ => unreachable!("the other parts are values of a row"),
                    }
                    continue;
                }
            };
            pieces.push(Piece { before: Literal::new(&text), value });
            text.clear();
        }
        if separator == b'{' {
            text.push(b'{');
        }
        text.push(b'}');
        Ok(Self { group: Group::new(group, table, interests)?, pieces, end: Literal::new(&text) })
    }

    /// Appends the message of a row as UTF-8. Stops as soon as `out` has more than `bytes_max` bytes.
    ///
    /// # Errors
    /// If a column is absent from the row's image: it is not known, and to write `null` would be wrong.
    fn write(
        &self,
        table: &Table,
        batch: &Batch<'_>,
        row: &Row<'_>,
        bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let (newest, old) = (row.newest(), row.before());
        for Piece { before, value } in &self.pieces {
            if out.len() > bytes_max {
                return Ok(());
            }
            before.push_to(out);
            let mut cell = |column: ColumnIndex, cell| {
                push_cell(&table.columns[column.0 as usize], known(table, column, cell)?, out);
                Ok::<_, String>(())
            };
            match *value {
                Value::Column(column) => cell(column, newest.cell(column))?,
                Value::Before(column) => cell(column, old.map_or(Cell::Null, |old| old.cell(column)))?,
                Value::Row => push_image(table, newest, out),
                Value::RowBefore => match old {
                    Some(old) => push_image(table, old, out),
                    None => out.extend_from_slice(b"null"),
                },
                Value::Operation => out.extend_from_slice(match row.operation() {
                    Operation::Insert => b"\"c\"",
                    Operation::Update => b"\"u\"",
                    Operation::Delete => b"\"d\"",
                }),
                Value::Time => push_int(time_us(batch, row) / 1000, out),
            }
        }
        self.end.push_to(out);
        Ok(())
    }
}

/// Returns a cell that the row's image contains.
///
/// # Errors
/// If it is absent.
pub(super) fn known<'a>(table: &Table, column: ColumnIndex, cell: Cell<'a>) -> Result<Cell<'a>, String> {
    match cell {
        Cell::Absent => {
            let name = &table.columns[column.0 as usize].name;
            Err(format!("column `{name}` of {table} is absent from the row's image; ask `has` first"))
        }
        cell => Ok(cell),
    }
}

/// The parts of a message group, compiled for one table.
#[derive(Debug)]
pub(super) struct Group(Vec<GroupPart>);

#[derive(Debug)]
enum GroupPart {
    Text(String),
    Column(ColumnIndex),
}

impl Group {
    /// Compiles the parts of a group for a table.
    ///
    /// # Errors
    /// If the table does not have a column, or the column is outside the plugin's interest.
    pub fn new(parts: &[types::GroupPart], table: &Table, interests: &Interests) -> Result<Self, String> {
        let part = |part: &types::GroupPart| match part {
            types::GroupPart::Text(text) => Ok(GroupPart::Text(text.clone())),
            types::GroupPart::Column(name) => index(table, interests, name, ImageKind::After).map(GroupPart::Column),
        };
        parts.iter().map(part).collect::<Result<_, _>>().map(Self)
    }

    /// Appends the group of a row as UTF-8. Stops as soon as `out` has more than `bytes_max` bytes.
    ///
    /// # Errors
    /// If a column is absent from the row's image.
    pub fn write(&self, table: &Table, row: &Row<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), String> {
        for part in &self.0 {
            if out.len() > bytes_max {
                return Ok(());
            }
            match part {
                GroupPart::Text(text) => out.extend_from_slice(text.as_bytes()),
                GroupPart::Column(column) => {
                    let cell = known(table, *column, row.newest().cell(*column))?;
                    push_cell_text(&table.columns[column.0 as usize], cell, out);
                }
            }
        }
        Ok(())
    }
}

/// A value for each table, made at the table's first row.
#[derive(Debug)]
pub(super) struct OfTables<T>(ByTable<T>);

impl<T> Default for OfTables<T> {
    fn default() -> Self {
        Self(ByTable::default())
    }
}

impl<T> OfTables<T> {
    pub fn get(&mut self, table: &Table, make: impl FnOnce() -> Result<T, String>) -> Result<&T, String> {
        let known = self.0.entry(table);
        Ok(match known {
            Some(known) => known,
            None => known.insert(make()?),
        })
    }
}

fn index(table: &Table, interests: &Interests, name: &str, image: ImageKind) -> Result<ColumnIndex, String> {
    let index =
        table.column(name).ok_or_else(|| format!("{}, which a recipe or a group names", table.no_column(name)))?;
    interests.check(table, index, image).map(|()| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_has_a_bounded_number_of_recipes() {
        let constant = |text: String| types::Recipe {
            fields: vec![types::Field { name: "field".to_owned(), value: types::Part::Constant(text) }],
            group: Vec::new(),
        };
        let mut recipes = Recipes::default();
        for number in 0..RECIPES_MAX {
            assert_eq!(recipes.add(constant("1".to_owned())), Ok(number as u32));
        }
        assert!(recipes.add(constant("1".to_owned())).is_err_and(|error| error.contains("more than 1000 recipes")));
        assert!(recipes.by_number(999).is_ok() && recipes.by_number(1000).is_err());

        let mut recipes = Recipes::default();
        let long = format!("\"{}\"", "x".repeat(RECIPES_BYTES_MAX / 2));
        assert_eq!(recipes.add(constant(long.clone())), Ok(0));
        assert!(recipes.add(constant(long)).is_err_and(|error| error.contains("bytes")));
        assert!(recipes.add(constant("not JSON".to_owned())).is_err_and(|error| error.contains("is not JSON")));
        assert_eq!(recipes.add(constant("1".to_owned())), Ok(1), "a refused recipe takes no room");

        let fields = |count| types::Recipe {
            fields: vec![types::Field { name: String::new(), value: types::Part::Row }; count],
            group: Vec::new(),
        };
        assert_eq!(recipes.add(fields(RECIPES_MAX)), Ok(2));
        assert!(recipes.add(fields(RECIPES_MAX + 1)).is_err_and(|error| error.contains("fields")));
    }
}
