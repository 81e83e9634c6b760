//! Validates a plugin's answer: indexes, lengths, values and UTF-8. Nothing of an answer is used before it is validated.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use rowmill_core::batch::{Batch, ColumnIndex, ImageKind, Row, RowIndex, Table};

use super::decision::{Decision, Edit, Edits, NewValue};
use super::error::PluginError;
use super::host_commands::Write;
use super::interest::Interests;
use super::message::{Emitted, MessageText, Reroute};
use super::value;
use super::wasm::bindings::{Verdict, bulk, types};
use super::wasm::instance::{Answer, Instance};
use super::wasm::limits::{ATTRIBUTE_BYTES, EDIT_BYTES, FAIL_BYTES, MESSAGE_BYTES, REROUTE_BYTES, ROW_BYTES};
use crate::config::SinkId;

/// Validates an answer about a batch, and renders the messages that the answer leaves to the host. The answer and these
/// messages take at most `output_max` bytes of memory.
///
/// # Errors
/// If the answer is invalid, or takes more memory.
pub(super) fn check(
    instance: &mut Instance,
    answer: Answer,
    batch: &Batch<'_>,
    tables: &[Arc<Table>],
    output_max: usize,
) -> Result<Decision, PluginError> {
    let Answer { verdict, commands } = answer;
    let Verdict { keep, reroutes, edits, emits, attributes, writes, fails, arena } = verdict;
    let mut ordered = commands;
    let refused = |output: usize| {
        let rows = batch.len();
        PluginError::Reject(format!(
            "output of {output} bytes or more for {rows} rows: the limit is {output_max}; raise `output` in its .toml"
        ))
    };
    let listed = emits.len() * MESSAGE_BYTES
        + attributes.len() * ATTRIBUTE_BYTES
        + reroutes.len() * REROUTE_BYTES
        + edits.len() * EDIT_BYTES
        + fails.len() * FAIL_BYTES
        + writes.iter().map(|write| MESSAGE_BYTES + write.rows.len() * ROW_BYTES).sum::<usize>();
    let mut output = arena.len() + listed + ordered.bytes();
    if output > output_max {
        return Err(refused(output));
    }
    let mut arena = Arena { rest: arena.into() };
    let row_of = |index: u32| {
        let known = (index as usize) < batch.len();
        if known {
            Ok(RowIndex(index))
        } else {
            Err(PluginError::Malformed(format!("row {index} is not in the batch of {} rows", batch.len())))
        }
    };
    let sinks = instance.sinks();
    let sink_of = |sink: Option<u32>| match sink {
        Some(sink) if sink as usize >= sinks => {
            Err(PluginError::Malformed(format!("sink {sink} does not exist: there are {sinks}")))
        }
        _ => Ok(sink.map(|sink| SinkId(sink as usize))),
    };
    let reroute = |sink: Option<u32>, group: ByteString| {
        let group = Some(group).filter(|group| !group.is_empty());
        sink_of(sink).map(|sink| Reroute { sink, group })
    };
    let mut decision = Decision { keep: vec![false; batch.len()], ..Decision::default() };
    for index in keep {
        decision.keep[row_of(index)?.0 as usize] = true;
    }
    for row in ordered.kept {
        decision.keep[row.0 as usize] = true;
    }
    for (row, sink, group) in ordered.reroutes {
        decision.reroutes.push((row, reroute(sink, group.into())?));
    }
    for types::Reroute { row, sink, group_len } in reroutes {
        let group = arena.text(group_len)?;
        decision.reroutes.push((row_of(row)?, reroute(sink, group)?));
    }
    for types::Edit { row, image, column, state, value_len } in edits {
        let (row, value) = (row_of(row)?, arena.bytes(value_len)?);
        let image = match image {
            types::Image::Before => ImageKind::Before,
            types::Image::After => ImageKind::After,
        };
        let column = ColumnIndex(column);
        match new_value(&batch.row(row), tables, instance.interests(), image, column, state, value)? {
            Ok(value) => ordered.edits.push(Edit { row, image, column, value }),
            Err(error) => decision.fails.push((row, error)),
        }
    }
    decision.edits = Edits::new(ordered.edits);
    let emitted = |row, sink, text, attributes| Emitted { batch: 0, row, origin: 0, sink, text, attributes };
    decision.emitted.reserve(emits.len());
    for types::Emit { row, sink, group_len, dedup_len, body_len } in emits {
        let text = arena.message(group_len, dedup_len, body_len)?;
        decision.emitted.push(emitted(row_of(row)?, sink_of(sink)?, text, Vec::new()));
    }
    for types::Attribute { emit, name_len, value_len } in attributes {
        let (name, value) = (arena.text(name_len)?, arena.text(value_len)?);
        let count = decision.emitted.len();
        let message = decision.emitted.get_mut(emit as usize);
        let message = message
            .ok_or_else(|| PluginError::Malformed(format!("message {emit} does not exist: there are {count}")))?;
        message.attributes.push((name.into(), value.into()));
    }
    for types::RowFail { row, message_len } in fails {
        decision.fails.push((row_of(row)?, arena.text(message_len)?.into()));
    }
    if !arena.rest.is_empty() {
        return Err(PluginError::Malformed(format!("{} unused bytes in the arena", arena.rest.len())));
    }
    for (row, message) in ordered.emits {
        let bulk::Message { sink, group, deduplication_id, body, attributes, .. } = message;
        let text = MessageText::of(&group, &deduplication_id, body);
        decision.emitted.push(emitted(row, sink_of(sink)?, text, attributes));
    }
    decision.fails.extend(ordered.fails);
    let writes = writes.into_iter().map(|types::Write { recipe, sink, rows }| {
        let rows = rows.into_iter().map(row_of).collect::<Result<_, _>>()?;
        Ok(Write { recipe, sink, rows })
    });
    for write in writes.chain(ordered.writes.into_iter().map(Ok)) {
        let Write { recipe, sink, rows } = write?;
        let Some(written) = instance.messages(recipe, batch, &rows, tables, output_max - output)? else {
            return Err(refused(output_max + 1));
        };
        output += written.bytes() + rows.len() * MESSAGE_BYTES;
        if output > output_max {
            return Err(refused(output));
        }
        let sink = sink_of(sink)?;
        decision.emitted.reserve(rows.len());
        decision.emitted.extend(written.messages().map(|(row, text)| emitted(row, sink, text, Vec::new())));
        decision.fails.extend(written.fails);
    }
    // A row fails once, for the first reason.
    decision.fails.sort_by_key(|(row, _)| *row);
    decision.fails.dedup_by_key(|(row, _)| *row);
    for &(row, _) in &decision.fails {
        decision.keep[row.0 as usize] = false;
    }
    if !decision.fails.is_empty() {
        let failed: HashSet<RowIndex> = decision.fails.iter().map(|(row, _)| *row).collect();
        decision.emitted.retain(|message| !failed.contains(&message.row));
    }
    Ok(decision)
}

/// Returns the new value of an edit, or the error of the row if the value is not one of the column: the author's error, not
/// the SDK's.
///
/// # Errors
/// If the edit makes no sense for the row.
fn new_value(
    row: &Row<'_>,
    tables: &[Arc<Table>],
    interests: &Interests,
    image: ImageKind,
    column: ColumnIndex,
    state: u8,
    value: Bytes,
) -> Result<Result<NewValue, String>, PluginError> {
    let malformed = PluginError::Malformed;
    let table = &tables[row.table().0 as usize];
    let Some(described) = table.columns.get(column.0 as usize) else {
        let count = table.columns.len();
        return Err(malformed(format!("column {} of {table}, which has {count} columns", column.0)));
    };
    let has_image = match image {
        ImageKind::Before => row.operation().has_before(),
        ImageKind::After => row.operation().has_after(),
    };
    if !has_image {
        return Err(malformed(format!("edit of the {image:?} image of a row without one ({:?})", row.operation())));
    }
    interests.check(table, column, image).map_err(malformed)?;
    match state {
        0 => Ok(Ok(NewValue::Absent)),
        1 => Ok(Ok(NewValue::Null)),
        2 => Ok(value::check(table, described, &value).map(|()| NewValue::Value(value))),
        other => Err(PluginError::Malformed(format!("unknown state {other} of an edit"))),
    }
}

/// The bytes of a verdict's items, one after another. Taking some doesn't copy them.
struct Arena {
    rest: Bytes,
}

impl Arena {
    fn bytes(&mut self, len: u32) -> Result<Bytes, PluginError> {
        match len as usize {
            0 => Ok(Bytes::new()),
            len if len > self.rest.len() => {
                Err(PluginError::Malformed("the arena is shorter than the lengths of its items".to_owned()))
            }
            len => Ok(self.rest.split_to(len)),
        }
    }

    fn text(&mut self, len: u32) -> Result<ByteString, PluginError> {
        let text = ByteString::try_from(self.bytes(len)?);
        text.map_err(|_| not_utf8())
    }

    /// Takes a message group, a deduplication ID and a body.
    fn message(&mut self, group_len: u32, id_len: u32, body_len: u32) -> Result<MessageText, PluginError> {
        let id_end = group_len.saturating_add(id_len);
        let text = self.text(id_end.saturating_add(body_len))?;
        MessageText::new(text, group_len as usize, id_end as usize).ok_or_else(not_utf8)
    }
}

fn not_utf8() -> PluginError {
    PluginError::Malformed("text that is not UTF-8".to_owned())
}
