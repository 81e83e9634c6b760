//! A verdict in the making: what becomes of a batch's rows, and the messages made of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::mem::take;

use rowmill_batch::ImageKind;

use crate::bindings::rowmill::transform::{host, types};
use crate::error::Failure;
use crate::outcome::{Edit, Message, More, NewValue};
use crate::recipe::Recipe;
use crate::table::Table;
use crate::view::Class;

/// `edit.state`.
const NULL: u8 = 1;
const VALUE: u8 = 2;

/// A verdict in the making.
#[derive(Debug, Default)]
pub struct Out {
    pub(crate) lists: RefCell<Lists>,
    /// Its memory is used again.
    message: RefCell<Message>,
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

/// A verdict's lists. Each one's bytes are gathered apart and joined at the end.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    pub(crate) keep: Vec<u32>,
    sinks: Vec<(String, u32)>,
    reroutes: (Vec<types::Reroute>, Vec<u8>),
    edits: (Vec<types::Edit>, Vec<u8>),
    emits: (Vec<types::Emit>, Vec<u8>),
    attributes: (Vec<types::Attribute>, Vec<u8>),
    writes: Vec<types::Write>,
    fails: (Vec<types::RowFail>, Vec<u8>),
    /// What is wrong with a message that was sent.
    fault: Option<String>,
    /// Messages in the last batch, and their bytes: the next will need about as much room.
    expected: (usize, usize),
}

impl Lists {
    /// Empties all: a batch that was given up may have left something.
    pub(crate) fn begin(&mut self, rows: usize) {
        *self = Self { sinks: take(&mut self.sinks), expected: self.expected, ..Self::default() };
        self.keep.reserve(rows);
        self.emits.0.reserve(self.expected.0);
        self.emits.1.reserve(self.expected.1);
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
        let recipe = recipe.number();
        match self.writes.iter_mut().find(|write| write.recipe == recipe && write.sink == sink) {
            Some(write) => write.rows.push(row),
            None => self.writes.push(types::Write { recipe, sink, rows: vec![row] }),
        }
    }

    /// Reports that the transform failed on a row. The engine then ignores everything else of the row.
    #[cold]
    pub(crate) fn fail(&mut self, row: u32, message: &str) {
        self.fails.0.push(types::RowFail { row, message_len: append(&mut self.fails.1, message) });
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
                let group_len = append(&mut self.reroutes.1, group.unwrap_or_default());
                self.reroutes.0.push(types::Reroute { row, sink, group_len });
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
            let state = if class.is_some() { VALUE } else { NULL };
            let value_len = append(&mut self.edits.1, bytes);
            self.edits.0.push(types::Edit { row, image, column: column.0, state, value_len });
        }
        Ok(())
    }

    fn emit(&mut self, row: u32, message: &Message) -> Result<(), String> {
        let Message { body, sink, group, deduplication_id, attributes } = message;
        let sink = self.sink(sink.as_ref())?;
        let emit = self.emits.0.len() as u32;
        let arena = &mut self.emits.1;
        let group_len = append(arena, group);
        let dedup_len = append(arena, deduplication_id);
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

    pub(crate) fn verdict(&mut self) -> Result<types::Verdict, String> {
        let Self { keep, reroutes, edits, emits, attributes, writes, fails, fault, expected, .. } = self;
        if let Some(fault) = fault.take() {
            return Err(fault);
        }
        *expected = (emits.0.len(), emits.1.len());
        let (reroutes, edits, emits) = (take(reroutes), take(edits), take(emits));
        let (attributes, fails) = (take(attributes), take(fails));
        // Mostly messages alone have bytes.
        let mut arenas =
            [reroutes.1, edits.1, emits.1, attributes.1, fails.1].into_iter().filter(|part| !part.is_empty());
        let mut arena = arenas.next().unwrap_or_default();
        arenas.for_each(|part| arena.extend_from_slice(&part));
        Ok(types::Verdict {
            keep: take(keep),
            reroutes: reroutes.0,
            edits: edits.0,
            emits: emits.0,
            attributes: attributes.0,
            writes: take(writes),
            fails: fails.0,
            arena,
        })
    }
}

fn append(arena: &mut Vec<u8>, bytes: impl AsRef<[u8]>) -> u32 {
    let bytes = bytes.as_ref();
    // To copy nothing would be a call of the host all the same.
    if !bytes.is_empty() {
        arena.extend_from_slice(bytes);
    }
    bytes.len() as u32
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
        let verdict = lists.verdict().expect("nothing is wrong");
        assert!(verdict.keep.is_empty() && verdict.emits.is_empty() && verdict.arena.is_empty());
    }
}
