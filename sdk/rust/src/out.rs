//! What becomes of a batch's rows, in the making, and the messages made of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::mem::take;
use std::ops::Range;

use rowmill_batch::ImageKind;

use crate::bindings::rowmill::transform::{host, outcome, types};
use crate::error::Failure;
use crate::outcome::{Edit, Message, More, NewValue};
use crate::recipe::Recipe;
use crate::table::Table;
use crate::view::Class;

/// What becomes of a batch's rows, in the making.
#[derive(Debug, Default)]
pub struct Out {
    pub(crate) lists: RefCell<Lists>,
    /// Its memory is used again.
    message: RefCell<Message>,
    /// The number of the batch.
    pub(crate) batch: u64,
}

impl Out {
    #[inline]
    pub(crate) fn send(
        &self,
        row: u32,
        write: impl FnOnce(&mut Message) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        match self.message.try_borrow_mut() {
            Ok(mut message) => {
                message.clear();
                write(&mut message)?;
                self.lists.borrow_mut().send(row, &message);
            }
            // While another is written.
            Err(_) => {
                let mut message = Message::default();
                write(&mut message)?;
                self.lists.borrow_mut().send(row, &message);
            }
        }
        Ok(())
    }

    #[inline]
    pub(crate) fn write(&self, row: u32, recipe: &Recipe) {
        self.lists.borrow_mut().write(row, recipe);
    }
}

/// What the engine is told when the batch is done. The bytes of each kind are gathered in one buffer.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub(crate) keep: Vec<u32>,
    sinks: Vec<(String, u32)>,
    reroutes: Vec<Reroute>,
    edits: (Vec<PendingEdit>, Vec<u8>),
    emits: (Vec<Emit>, Vec<u8>),
    /// The places of names and values in the texts of `emits`.
    attributes: Vec<(Range<usize>, Range<usize>)>,
    writes: Vec<Write>,
    fails: Vec<(u32, String)>,
    /// What is wrong with a message that was sent.
    fault: Option<String>,
    /// Messages in the last batch, and their bytes: the next will need about as much room.
    expected: (usize, usize),
}

/// Rows with one destination.
#[derive(Debug)]
struct Reroute {
    sink: Option<u32>,
    group: Option<String>,
    rows: Vec<u32>,
}

/// Rows with one recipe.
#[derive(Debug)]
struct Write {
    recipe: u32,
    sink: Option<u32>,
    rows: Vec<u32>,
}

#[derive(Debug)]
struct PendingEdit {
    row: u32,
    image: types::Image,
    column: u32,
    value: Option<Range<usize>>,
}

/// A message, and the ends of its parts in the texts.
#[derive(Debug)]
struct Emit {
    row: u32,
    sink: Option<u32>,
    start: usize,
    group_end: usize,
    id_end: usize,
    end: usize,
    attributes: Range<usize>,
}

impl Lists {
    /// Empties all: a batch that was given up may have left something.
    pub(crate) fn begin(&mut self, rows: usize) {
        *self = Self { sinks: take(&mut self.sinks), expected: self.expected, ..Self::default() };
        self.keep.reserve(rows);
        self.emits.0.reserve(self.expected.0);
        self.emits.1.reserve(self.expected.1);
    }

    /// Looks up the sinks that the transform declares, each by `number_of`.
    ///
    /// # Errors
    /// If the configuration lacks one.
    pub(crate) fn declare_sinks(
        &mut self,
        names: &[&str],
        number_of: impl Fn(&str) -> Option<u32>,
    ) -> Result<(), String> {
        for &name in names {
            let number = number_of(name)
                .ok_or_else(|| format!("the configuration has no sink `{name}`, which the transform declares"))?;
            self.sinks.push((name.to_owned(), number));
        }
        Ok(())
    }

    fn send(&mut self, row: u32, message: &Message) {
        if let Err(fault) = self.emit(row, message) {
            self.fault.get_or_insert(fault);
        }
    }

    fn write(&mut self, row: u32, recipe: &Recipe) {
        let sink = match self.sink(recipe.sink()) {
            Ok(sink) => sink,
            Err(fault) => {
                self.fault.get_or_insert(fault);
                return;
            }
        };
        let Some(recipe) = recipe.number() else { return };
        match self.writes.iter_mut().find(|write| write.recipe == recipe && write.sink == sink) {
            Some(write) => write.rows.push(row),
            None => self.writes.push(Write { recipe, sink, rows: vec![row] }),
        }
    }

    /// Reports that the transform failed on a row. The engine then ignores everything else of the row.
    #[cold]
    pub(crate) fn fail(&mut self, row: u32, message: String) {
        self.fails.push((row, message));
    }

    /// Writes the less common parts of a row's outcome.
    ///
    /// # Errors
    /// If a sink, or a column that is set, does not exist, or the column's values are of another kind.
    pub(crate) fn more(&mut self, row: u32, table: &Table, more: More) -> Result<(), Failure> {
        let More { keep, sink, group, edits } = more;
        if keep {
            self.keep.push(row);
            if sink.is_some() || group.is_some() {
                let sink = self.sink(sink.as_ref()).map_err(Failure::reject)?;
                match self.reroutes.last_mut() {
                    Some(last) if last.sink == sink && last.group == group => last.rows.push(row),
                    _ => self.reroutes.push(Reroute { sink, group, rows: vec![row] }),
                }
            }
        }
        for Edit { image, column: name, value } in edits {
            let column = table.column(&name)?;
            let image = match image {
                ImageKind::Before => types::Image::Before,
                ImageKind::After => types::Image::After,
            };
            let (class, bytes) = match &value {
                NewValue::Null => (None, &[][..]),
                NewValue::Text(text) => (Some(Class::Text), text.as_bytes()),
                NewValue::Bytes(bytes) => (Some(Class::Bytes), &bytes[..]),
                NewValue::Integer(number) => (Some(Class::Integer), &number[..]),
            };
            if let Some(class) = class.filter(|&class| class != Class::of(table.kind(column))) {
                return Err(class.mismatch(table, column).into());
            }
            let place = append(&mut self.edits.1, bytes);
            let value = class.is_some().then_some(place);
            self.edits.0.push(PendingEdit { row, image, column: column.0, value });
        }
        Ok(())
    }

    fn emit(&mut self, row: u32, message: &Message) -> Result<(), String> {
        let Message { body, sink, group, deduplication_id, attributes } = message;
        let sink = self.sink(sink.as_ref())?;
        let texts = &mut self.emits.1;
        let Range { start, end: group_end } = append(texts, group);
        let id_end = append(texts, deduplication_id).end;
        let end = append(texts, body).end;
        let first = self.attributes.len();
        for (name, value) in attributes {
            let name = append(texts, name);
            self.attributes.push((name, append(texts, value)));
        }
        let attributes = first..self.attributes.len();
        self.emits.0.push(Emit { row, sink, start, group_end, id_end, end, attributes });
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

    /// Tells the engine what becomes of the batch.
    ///
    /// # Errors
    /// If a message that was sent is wrong.
    pub(crate) fn tell(&mut self) -> Result<(), String> {
        let Self { keep, reroutes, edits, emits, attributes, writes, fails, fault, expected, .. } = self;
        if let Some(fault) = fault.take() {
            return Err(fault);
        }
        *expected = (emits.0.len(), emits.1.len());
        if !keep.is_empty() {
            outcome::keep(outcome::Rows::These(keep));
        }
        for Reroute { sink, group, rows } in reroutes {
            outcome::reroute(outcome::Rows::These(rows), *sink, group.as_deref().map(outcome::Group::Text));
        }
        if !edits.0.is_empty() {
            outcome::edit(&edits.0.iter().map(|edit| edit.in_bytes(&edits.1)).collect::<Vec<_>>());
        }
        if !emits.0.is_empty() {
            let texts = std::str::from_utf8(&emits.1).map_err(|error| not_utf8(&emits.0, error.valid_up_to()))?;
            let part = |place: Range<usize>| texts.get(place.clone()).ok_or_else(|| not_utf8(&emits.0, place.start));
            let attributes = attributes.iter().map(|(name, value)| Ok((part(name.clone())?, part(value.clone())?)));
            let attributes = attributes.collect::<Result<Vec<_>, String>>()?;
            let message = |emit: &Emit| {
                Ok(outcome::Message {
                    row: emit.row,
                    sink: emit.sink,
                    group: part(emit.start..emit.group_end)?,
                    deduplication_id: part(emit.group_end..emit.id_end)?,
                    body: part(emit.id_end..emit.end)?,
                    attributes: &attributes[emit.attributes.clone()],
                })
            };
            outcome::emit(&emits.0.iter().map(message).collect::<Result<Vec<_>, String>>()?);
        }
        for Write { recipe, sink, rows } in writes {
            outcome::write(outcome::Rows::These(rows), *recipe, *sink);
        }
        for (row, message) in fails {
            outcome::fail(*row, message);
        }
        Ok(())
    }
}

impl PendingEdit {
    fn in_bytes<'a>(&self, bytes: &'a [u8]) -> outcome::ColumnEdit<'a> {
        let value = self.value.clone().map_or(outcome::Value::Null, |place| outcome::Value::Packed(&bytes[place]));
        outcome::ColumnEdit { row: self.row, image: self.image, column: self.column, value }
    }
}

/// The error of the message that has a byte which is not UTF-8.
#[cold]
fn not_utf8(emits: &[Emit], at: usize) -> String {
    let row = emits.iter().take_while(|emit| emit.start <= at).last().map_or(0, |emit| emit.row);
    format!("a message of row {row} of the batch is not UTF-8")
}

fn append(out: &mut Vec<u8>, bytes: impl AsRef<[u8]>) -> Range<usize> {
    let (start, bytes) = (out.len(), bytes.as_ref());
    // To copy nothing would be a call of the host all the same.
    if !bytes.is_empty() {
        out.extend_from_slice(bytes);
    }
    start..out.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_batch_left_is_not_the_next_ones() {
        let mut lists = Lists::default();
        lists.begin(2);
        lists.keep.push(0);
        lists.send(1, &Message { body: b"{}".to_vec(), ..Message::default() });
        lists.begin(1); // the batch was given up
        assert!(lists.keep.is_empty() && lists.emits.0.is_empty() && lists.emits.1.is_empty());
    }

    #[test]
    fn declared_sinks_are_known_or_refused() {
        let number_of = |name: &str| ["warehouse", "europe"].iter().position(|sink| *sink == name).map(|at| at as u32);
        let mut lists = Lists::default();
        assert_eq!(lists.declare_sinks(&["europe"], number_of), Ok(()));
        lists.begin(1);
        assert_eq!(lists.sink(Some(&"europe".into())), Ok(Some(1)));
        let error = "the configuration has no sink `asia`, which the transform declares".to_owned();
        assert_eq!(lists.declare_sinks(&["warehouse", "asia"], number_of), Err(error));
    }

    #[test]
    fn a_message_that_is_not_text_is_named() {
        let mut lists = Lists::default();
        lists.begin(2);
        lists.send(3, &Message { body: b"{}".to_vec(), ..Message::default() });
        lists.send(5, &Message { body: b"\xff".to_vec(), ..Message::default() });
        assert_eq!(lists.tell(), Err("a message of row 5 of the batch is not UTF-8".to_owned()));
    }
}
