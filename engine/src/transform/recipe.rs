//! Recipes: messages that the host renders from rows, as the plugin described once (docs/expressions.md).

use std::sync::Arc;

use bytestring::ByteString;
use rowmill_core::ByTable;
use rowmill_core::batch::json::Literal;
use rowmill_core::batch::{Batch, ColumnIndex, RowIndex, Table};
use rowmill_core::envelope::{push_cell, push_string};
use serde_json::value::RawValue;

use super::expression::{
    Compiled, CompiledTemplate, Expression, Row, Scope, Template, absent, items, parse, push_json,
};
use super::interest::Interests;
use super::message::MessageText;
use super::wasm::limits::{ATTRIBUTE_BYTES, MESSAGE_BYTES, RECIPES_BYTES_MAX, RECIPES_MAX};
use crate::config::nearest;
use crate::exact_json::RawFields;

/// The expected size of a message in bytes, for the first allocation.
const LENGTH_EXPECTED: usize = 192;

/// The fields of a recipe.
const FIELDS: [&str; 5] = ["body", "group", "deduplication_id", "attributes", "for_each"];

/// Messages rendered from rows.
#[derive(Debug)]
pub(super) struct RenderedMessages {
    /// The messages' groups, deduplication IDs and bodies, one after another in one buffer.
    text: ByteString,
    places: Vec<Place>,
    /// The size of all messages in bytes.
    bytes: usize,
    /// The rows whose messages cannot be rendered, with the causes.
    pub fails: Vec<(RowIndex, String)>,
}

/// A message's row, its attributes, and the offsets of its parts in the buffer.
#[derive(Debug)]
struct Place {
    row: RowIndex,
    start: usize,
    group_end: usize,
    id_end: usize,
    end: usize,
    attributes: Vec<(String, String)>,
}

impl RenderedMessages {
    /// Returns the size of all messages in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the rows, their messages' texts and attributes.
    pub fn messages(self) -> impl ExactSizeIterator<Item = (RowIndex, MessageText, Vec<(String, String)>)> {
        let Self { text, places, .. } = self;
        places.into_iter().map(move |Place { row, start, group_end, id_end, end, attributes }| {
            let slice = text.slice_ref(&text[start..end]);
            let message = MessageText::new(slice, group_end - start, id_end - start);
            (row, message.expect("groups, IDs and bodies are text"), attributes)
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
    /// If the text is not a recipe, or a limit is exceeded.
    pub fn add(&mut self, text: &str) -> Result<u32, String> {
        let bytes = self.bytes.saturating_add(text.len());
        if self.recipes.len() >= RECIPES_MAX || bytes > RECIPES_BYTES_MAX {
            return Err(format!("more than {RECIPES_MAX} recipes, or recipes of more than {RECIPES_BYTES_MAX} bytes"));
        }
        self.recipes.push(Recipe::parse(text)?);
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

/// A description of a message.
#[derive(Debug)]
pub(super) struct Recipe {
    body: Body,
    group: Template,
    deduplication_id: Template,
    attributes: Vec<(String, Template)>,
    /// A JSON array: the recipe makes a message of each of its items.
    for_each: Option<Expression>,
    plans: OfTables<Plan>,
}

/// The description of a JSON value.
#[derive(Debug)]
enum Body {
    /// The value is the same in all messages: JSON.
    Constant(String),
    Text(Template),
    List(Vec<Body>),
    /// Members in order. The members of a row take the place of a member `*`.
    Object(Vec<(String, Body)>),
}

/// A recipe compiled for one table.
#[derive(Debug)]
struct Plan {
    group: CompiledTemplate,
    deduplication_id: CompiledTemplate,
    attributes: Vec<(String, CompiledTemplate)>,
    for_each: Option<Compiled>,
    pieces: Vec<Piece>,
    /// The text after the last piece.
    end: Literal,
}

/// A value of a row, and the text before it: separators, names of members, and values that are the same for all rows.
#[derive(Debug)]
struct Piece {
    before: Literal,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Column(ColumnIndex),
    Expression(Compiled),
    /// A string with placeholders.
    Text(CompiledTemplate),
    /// The members of a row without braces, after a comma if others precede them.
    Members(Compiled),
    /// A comma if members precede it.
    Comma,
}

impl Recipe {
    /// Parses a recipe's JSON.
    ///
    /// # Errors
    /// If the text is not a recipe.
    fn parse(text: &str) -> Result<Self, String> {
        let invalid = |error: String| format!("invalid recipe: {error}");
        let RawFields(fields) = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        let empty = || Template::parse("");
        let (mut body, mut for_each, mut attributes) = (None, None, Vec::new());
        let (mut group, mut deduplication_id) = (empty()?, empty()?);
        for (name, value) in &fields {
            let in_field = |error: String| invalid(format!("`{name}`: {error}"));
            let template = |value: &RawValue| string(value).and_then(|text| Template::parse(&text));
            match &**name {
                "body" => body = Some(Body::parse(value).map_err(in_field)?),
                "group" => group = template(value).map_err(in_field)?,
                "deduplication_id" => deduplication_id = template(value).map_err(in_field)?,
                "for_each" => {
                    for_each = Some(string(value).and_then(|text| parse(&text)).map_err(in_field)?);
                }
                "attributes" => {
                    let fields = serde_json::from_str(value.get());
                    let RawFields(fields) = fields.map_err(|error| in_field(error.to_string()))?;
                    for (attribute, value) in fields {
                        let text = template(&value).map_err(|error| in_field(format!("`{attribute}`: {error}")))?;
                        attributes.push((attribute, text));
                    }
                }
                other => return Err(invalid(format!("unknown field `{other}`{}", nearest(other, FIELDS.into_iter())))),
            }
        }
        let body = body.ok_or_else(|| invalid("it has no `body`".to_owned()))?;
        Ok(Self { body, group, deduplication_id, attributes, for_each, plans: OfTables::default() })
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
        let mut rendering = Rendering {
            text: Vec::with_capacity((rows.len() * LENGTH_EXPECTED).min(bytes_max)),
            places: Vec::with_capacity(rows.len()),
            bytes: 0,
            bytes_max,
        };
        let mut fails = Vec::new();
        let table_of = |row: RowIndex| batch.row(row).table();
        // Consecutive rows are mostly of one table.
        for rows in rows.chunk_by(|&row, &next| table_of(row) == table_of(next)) {
            let table = &*tables[table_of(rows[0]).0 as usize];
            let Self { body, group, deduplication_id, attributes, for_each, plans } = self;
            let plan = plans.get(table, || {
                let scope = Scope { interests, has_item: for_each.is_some() };
                Plan::new(body, [group, deduplication_id], attributes, for_each.as_ref(), table, scope)
            });
            match plan {
                Ok(plan) => {
                    for &index in rows {
                        let (start, before) = (rendering.text.len(), rendering.places.len());
                        let row = Row { table, batch, row: batch.row(index), item: None };
                        let written = rendering.row(plan, index, row);
                        if rendering.is_full() {
                            return None;
                        }
                        if let Err(error) = written {
                            rendering.text.truncate(start);
                            rendering.places.truncate(before);
                            fails.push((index, error));
                        }
                    }
                }
                Err(error) => fails.extend(rows.iter().map(|&index| (index, error.clone()))),
            }
        }
        let Rendering { text, places, bytes, .. } = rendering;
        let bytes = bytes + text.len();
        let text = String::from_utf8(text).expect("messages are written as UTF-8").into();
        Some(RenderedMessages { text, places, bytes, fails })
    }
}

fn string(value: &RawValue) -> Result<String, String> {
    serde_json::from_str(value.get()).map_err(|_| format!("expected a string, not {}", value.get()))
}

impl Body {
    fn parse(value: &RawValue) -> Result<Self, String> {
        let text = value.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let RawFields(fields) = serde_json::from_str(text).map_err(|error| error.to_string())?;
                let member = |(name, value): (String, Box<RawValue>)| {
                    let value = Self::parse(&value).map_err(|error| format!("`{name}`: {error}"))?;
                    let is_row = matches!(&value, Self::Text(template) if template.as_expression().is_some());
                    if name == "*" && !is_row {
                        return Err("`*` takes a row, such as \"{row()}\"".to_owned());
                    }
                    Ok((name, value))
                };
                Self::Object(fields.into_iter().map(member).collect::<Result<_, String>>()?)
            }
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(text).map_err(|error| error.to_string())?;
                Self::List(items.iter().map(|item| Self::parse(item)).collect::<Result<_, _>>()?)
            }
            Some(b'"') => {
                let template = Template::parse(&string(value)?)?;
                match template.as_text() {
                    Some(text) => {
                        let mut json = Vec::new();
                        push_string(text, &mut json);
                        Self::Constant(String::from_utf8(json).map_err(|error| error.to_string())?)
                    }
                    None => Self::Text(template),
                }
            }
            _ => Self::Constant(text.to_owned()),
        })
    }
}

/// Messages in the making.
struct Rendering {
    text: Vec<u8>,
    places: Vec<Place>,
    /// The memory that the finished messages take.
    bytes: usize,
    bytes_max: usize,
}

impl Rendering {
    fn is_full(&self) -> bool {
        self.bytes.saturating_add(self.text.len()) > self.bytes_max
    }

    /// Writes the messages of a row. Stops as soon as they take too much.
    fn row(&mut self, plan: &Plan, index: RowIndex, row: Row<'_>) -> Result<(), String> {
        let Some(for_each) = &plan.for_each else { return self.message(plan, index, &row) };
        let list = for_each.value(&row)?.into_json().map_err(|error| format!("`for_each`: {error}"))?;
        let Some(list) = list.filter(|list| *list != "null") else { return Ok(()) };
        let items = items(&list).ok_or_else(|| "`for_each`: a JSON value that is not an array".to_owned())?;
        for (number, item) in items.enumerate() {
            self.message(plan, index, &Row { item: Some((item, number)), ..row })?;
            if self.is_full() {
                break;
            }
        }
        Ok(())
    }

    fn message(&mut self, plan: &Plan, index: RowIndex, row: &Row<'_>) -> Result<(), String> {
        let start = self.text.len();
        plan.group.push(row, &mut self.text)?;
        let group_end = self.text.len();
        plan.deduplication_id.push(row, &mut self.text)?;
        let id_end = self.text.len();
        let mut attributes = Vec::with_capacity(plan.attributes.len());
        for (name, template) in &plan.attributes {
            let mut text = Vec::new();
            template.push(row, &mut text)?;
            // SQS refuses attributes without a value.
            if !text.is_empty() {
                self.bytes += ATTRIBUTE_BYTES + name.len() + text.len();
                attributes.push((name.clone(), String::from_utf8(text).map_err(|error| error.to_string())?));
            }
        }
        self.bytes += MESSAGE_BYTES;
        plan.write(row, self.bytes_max, &mut self.text)?;
        self.places.push(Place { row: index, start, group_end, id_end, end: self.text.len(), attributes });
        Ok(())
    }
}

impl Plan {
    /// Compiles a recipe for a table.
    ///
    /// # Errors
    /// If the table does not have a column, or the column is outside the plugin's interest.
    fn new(
        body: &Body,
        [group, deduplication_id]: [&Template; 2],
        attributes: &[(String, Template)],
        for_each: Option<&Expression>,
        table: &Table,
        scope: Scope<'_>,
    ) -> Result<Self, String> {
        let in_recipe = |error: String| format!("{error} (in a recipe)");
        let compile = |template: &Template| template.compile(table, scope).map_err(in_recipe);
        let attributes = attributes.iter().map(|(name, template)| Ok((name.clone(), compile(template)?)));
        // The array itself is not within one of its items.
        let for_each_scope = Scope { has_item: false, ..scope };
        let for_each =
            for_each.map(|list| Compiled::new(list, table, for_each_scope).map_err(in_recipe)).transpose()?;
        let mut pieces = Pieces { table, scope, pieces: Vec::new(), text: Vec::new() };
        pieces.add(body).map_err(in_recipe)?;
        Ok(Self {
            group: compile(group)?,
            deduplication_id: compile(deduplication_id)?,
            attributes: attributes.collect::<Result<_, String>>()?,
            for_each,
            pieces: pieces.pieces,
            end: Literal::new(&pieces.text),
        })
    }

    /// Appends the body of a message as UTF-8. Stops as soon as `out` has more than `bytes_max` bytes.
    ///
    /// # Errors
    /// If a column is absent from the row's image: it is not known, and to write `null` would be wrong.
    fn write(&self, row: &Row<'_>, bytes_max: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let newest = row.row.newest();
        for Piece { before, value } in &self.pieces {
            if out.len() > bytes_max {
                return Ok(());
            }
            before.push_to(out);
            match value {
                Value::Column(column) => match newest.cell(*column) {
                    rowmill_core::batch::Cell::Absent => return Err(absent(row.table, *column)),
                    cell => push_cell(&row.table.columns[column.0 as usize], cell, out),
                },
                Value::Expression(expression) => push_json(expression, row, out)?,
                Value::Text(template) => {
                    let mut text = Vec::new();
                    template.push(row, &mut text)?;
                    push_string(std::str::from_utf8(&text).map_err(|error| error.to_string())?, out);
                }
                Value::Members(expression) => {
                    let start = out.len();
                    let is_first = out.last() == Some(&b'{');
                    if !is_first {
                        out.push(b',');
                    }
                    let members = out.len();
                    expression.push_members(row, out);
                    if out.len() == members {
                        out.truncate(start);
                    }
                }
                Value::Comma => {
                    if out.last() != Some(&b'{') {
                        out.push(b',');
                    }
                }
            }
        }
        self.end.push_to(out);
        Ok(())
    }
}

/// The pieces of a body in the making.
struct Pieces<'a> {
    table: &'a Table,
    scope: Scope<'a>,
    pieces: Vec<Piece>,
    /// The text since the last piece.
    text: Vec<u8>,
}

impl Pieces<'_> {
    fn piece(&mut self, value: Value) {
        self.pieces.push(Piece { before: Literal::new(&self.text), value });
        self.text.clear();
    }

    fn add(&mut self, body: &Body) -> Result<(), String> {
        match body {
            Body::Constant(json) => self.text.extend_from_slice(json.as_bytes()),
            Body::Text(template) => match template.as_expression() {
                Some(expression) => {
                    let compiled = Compiled::new(expression, self.table, self.scope)?;
                    self.piece(compiled.column().map_or_else(|| Value::Expression(compiled), Value::Column));
                }
                None => {
                    let template = template.compile(self.table, self.scope)?;
                    self.piece(Value::Text(template));
                }
            },
            Body::List(items) => {
                self.text.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.text.push(b',');
                    }
                    self.add(item)?;
                }
                self.text.push(b']');
            }
            Body::Object(members) => self.object(members)?,
        }
        Ok(())
    }

    fn object(&mut self, members: &[(String, Body)]) -> Result<(), String> {
        // How many members a row has is known when it is written.
        let mut is_counted = true;
        self.text.push(b'{');
        for (index, (name, value)) in members.iter().enumerate() {
            if let ("*", Body::Text(template)) = (&**name, value)
                && let Some(expression) = template.as_expression()
            {
                let row = Compiled::new(expression, self.table, self.scope)?;
                if !row.is_row() {
                    return Err(format!("`*` takes a row, such as \"{{row()}}\", not {}", row.class_name()));
                }
                self.piece(Value::Members(row));
                is_counted = false;
                continue;
            }
            if !is_counted {
                self.piece(Value::Comma);
            } else if index > 0 {
                self.text.push(b',');
            }
            push_string(name, &mut self.text);
            self.text.push(b':');
            self.add(value)?;
        }
        self.text.push(b'}');
        Ok(())
    }
}

/// A value for each table, made at the table's first row. Boxed: there may be many tables, most of them without a value.
#[derive(Debug)]
pub(super) struct OfTables<T>(ByTable<Box<T>>);

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
            None => known.insert(Box::new(make()?)),
        })
    }
}
