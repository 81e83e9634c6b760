//! What a plugin returned, checked: indexes, lengths, values and UTF-8. Nothing of it is used before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rowmill_core::batch::{Batch, Cell, ColumnIndex, ImageKind, Row, RowIndex, Table};

use super::error::Fault;
use super::instance::{Instance, Verdict, types};
use super::{Emitted, Reroute};

/// A verdict that makes sense.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// By row.
    pub keep: Vec<bool>,
    pub reroutes: Vec<(RowIndex, Reroute)>,
    pub edits: Edits,
    /// Their `origin` isn't known here.
    pub emitted: Vec<Emitted>,
    /// Rows that the plugin can't process, and why. They are neither kept nor were messages made of them.
    pub fails: Vec<(RowIndex, String)>,
}

/// New values of columns.
#[derive(Debug, Default)]
pub(super) struct Edits {
    rows: HashSet<RowIndex>,
    values: HashMap<(RowIndex, ImageKind, ColumnIndex), Edit>,
}

#[derive(Debug)]
enum Edit {
    Absent,
    Null,
    Value(Vec<u8>),
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn of_row(&self, row: RowIndex) -> bool {
        self.rows.contains(&row)
    }

    pub fn get(&self, row: RowIndex, image: ImageKind, column: ColumnIndex) -> Option<Cell<'_>> {
        self.values.get(&(row, image, column)).map(|edit| match edit {
            Edit::Absent => Cell::Absent,
            Edit::Null => Cell::Null,
            Edit::Value(bytes) => Cell::Value(bytes),
        })
    }
}

/// Checks a verdict on a batch, and writes the messages that it leaves to the host.
pub(super) fn check(
    instance: &mut Instance,
    verdict: Verdict,
    bytes: &Arc<Vec<u8>>,
    batch: &Batch<'_>,
    tables: &[Arc<Table>],
    output_max: usize,
) -> Result<Decision, Fault> {
    let Verdict { keep, reroutes, edits, emits, attributes, writes, fails, arena } = verdict;
    let mut output = arena.len();
    let mut arena = Arena { rest: &arena };
    let row_of = |index: u32| {
        let known = (index as usize) < batch.len();
        if known { Ok(RowIndex(index)) } else { Err(Fault::Malformed(format!("row {index} of {}", batch.len()))) }
    };
    let sinks = instance.sinks();
    let reroute = |sink: Option<u32>, group: &str| match sink {
        Some(sink) if sink as usize >= sinks => Err(Fault::Malformed(format!("sink {sink} of {sinks}"))),
        _ => Ok(Reroute {
            sink: sink.map(|sink| sink as usize),
            group: Some(group.to_owned()).filter(|group| !group.is_empty()),
        }),
    };
    let mut decision = Decision { keep: vec![false; batch.len()], ..Decision::default() };
    for index in keep {
        decision.keep[row_of(index)?.0 as usize] = true;
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
        let edit = edit(&batch.row(row), tables, image, column, state, value).map_err(Fault::Malformed)?;
        decision.edits.rows.insert(row);
        decision.edits.values.insert((row, image, column), edit);
    }
    let emitted = |row, reroute, body| Emitted {
        batch: Arc::clone(bytes),
        row,
        origin: 0,
        reroute,
        deduplication_id: None,
        body,
        attributes: Vec::new(),
    };
    for types::Emit { row, sink, group_len, dedup_len, body_len } in emits {
        let (group, deduplication_id) = (arena.text(group_len)?, arena.text(dedup_len)?);
        let body = arena.text(body_len)?.to_owned();
        let message = emitted(row_of(row)?, reroute(sink, group)?, body);
        let deduplication_id = Some(deduplication_id.to_owned()).filter(|id| !id.is_empty());
        decision.emitted.push(Emitted { deduplication_id, ..message });
    }
    for types::Attribute { emit, name_len, value_len } in attributes {
        let (name, value) = (arena.text(name_len)?, arena.text(value_len)?);
        let count = decision.emitted.len();
        let message = decision.emitted.get_mut(emit as usize);
        let message = message.ok_or_else(|| Fault::Malformed(format!("message {emit} of {count}")))?;
        message.attributes.push((name.to_owned(), value.to_owned()));
    }
    for types::RowFail { row, message_len } in fails {
        decision.fails.push((row_of(row)?, arena.text(message_len)?.to_owned()));
    }
    if !arena.rest.is_empty() {
        return Err(Fault::Malformed(format!("{} bytes too many in its arena", arena.rest.len())));
    }
    for types::Write { recipe, sink, rows } in writes {
        for row in rows {
            let row = row_of(row)?;
            match instance.message(recipe, batch, row, tables) {
                Ok((body, group)) => {
                    output += body.len();
                    let group = group.unwrap_or_default();
                    decision.emitted.push(emitted(row, reroute(sink, &group)?, body));
                }
                Err(Fault::Malformed(fault)) => return Err(Fault::Malformed(fault)),
                Err(fault) => decision.fails.push((row, fault.to_string())),
            }
        }
    }
    if output > output_max {
        return Err(Fault::Reject(format!(
            "it returned {output} bytes for {} rows, and may return {output_max}; raise `output` in its .toml",
            batch.len()
        )));
    }
    for &(row, _) in &decision.fails {
        decision.keep[row.0 as usize] = false;
    }
    if !decision.fails.is_empty() {
        let failed: HashSet<RowIndex> = decision.fails.iter().map(|(row, _)| *row).collect();
        decision.emitted.retain(|message| !failed.contains(&message.row));
    }
    Ok(decision)
}

fn edit(
    row: &Row<'_>,
    tables: &[Arc<Table>],
    image: ImageKind,
    column: ColumnIndex,
    state: u8,
    value: &[u8],
) -> Result<Edit, String> {
    let table = &tables[row.table().0 as usize];
    let Some(described) = table.columns.get(column.0 as usize) else {
        return Err(format!("column {} of {table}, which has {}", column.0, table.columns.len()));
    };
    let has_image = match image {
        ImageKind::Before => row.operation().has_before(),
        ImageKind::After => row.operation().has_after(),
    };
    if !has_image {
        return Err(format!("an edit of the {image:?} image of a row that has none ({:?})", row.operation()));
    }
    let name = &described.name;
    match state {
        0 => Ok(Edit::Absent),
        1 => Ok(Edit::Null),
        2 if described.kind.is_number() && value.len() != 8 => {
            Err(format!("a value of {} bytes for {table}.{name}, whose values have 8", value.len()))
        }
        2 if described.kind.is_text() && std::str::from_utf8(value).is_err() => {
            Err(format!("a value for {table}.{name} that isn't UTF-8"))
        }
        2 => Ok(Edit::Value(value.to_owned())),
        other => Err(format!("state {other} of an edit")),
    }
}

/// The bytes that a verdict's items take, one behind the other.
struct Arena<'a> {
    rest: &'a [u8],
}

impl<'a> Arena<'a> {
    fn bytes(&mut self, len: u32) -> Result<&'a [u8], Fault> {
        let taken = self.rest.split_at_checked(len as usize);
        let too_short = || Fault::Malformed("its arena is shorter than its items say".to_owned());
        let (taken, rest) = taken.ok_or_else(too_short)?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, len: u32) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(self.bytes(len)?);
        text.map_err(|_| Fault::Malformed("text that isn't UTF-8".to_owned()))
    }
}
