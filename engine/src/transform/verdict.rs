//! What a plugin returned, checked: indexes, lengths, values and UTF-8. Nothing of it is used before.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rowmill_core::batch::{Batch, Cell, ColumnIndex, ImageKind, Row, RowIndex, Table};

use super::error::TransformError;
use super::instance::{Verdict, types};
use super::{Emitted, Reroute};

/// A verdict that makes sense.
#[derive(Debug)]
pub(super) struct Decision {
    /// By row.
    pub keep: Vec<bool>,
    pub reroutes: Vec<(RowIndex, Reroute)>,
    pub edits: Edits,
    pub emitted: Vec<Emitted>,
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

/// `sink` for the sink that the routes give.
const ROUTED: u32 = u32::MAX;

/// Checks a verdict on a batch.
pub(super) fn check(
    plugin: &str,
    verdict: Verdict,
    batch: &Batch<'_>,
    tables: &[Arc<Table>],
) -> Result<Decision, TransformError> {
    let Verdict { keep, reroutes, edits, emits, attributes, fails, arena } = verdict;
    let malformed = |fault: String| {
        let fault = format!("it returned a malformed verdict: {fault}; the plugin or its SDK has a bug");
        TransformError::on_batch(plugin, batch, tables, fault)
    };
    let mut arena = Arena { rest: &arena };
    let row_of = |index: u32| {
        let known = (index as usize) < batch.len();
        if known { Ok(RowIndex(index)) } else { Err(malformed(format!("row {index} of {}", batch.len()))) }
    };

    let mut kept = vec![false; batch.len()];
    for index in keep {
        kept[row_of(index)?.0 as usize] = true;
    }
    let mut checked_reroutes = Vec::with_capacity(reroutes.len());
    for types::Reroute { row, sink, group_len } in reroutes {
        let group = arena.text(group_len).map_err(malformed)?;
        checked_reroutes.push((row_of(row)?, reroute(sink, group)));
    }
    let mut checked_edits = Edits::default();
    for types::Edit { row, image, column, state, value_len } in edits {
        let (row, value) = (row_of(row)?, arena.bytes(value_len).map_err(malformed)?);
        let image = match image {
            types::Image::Before => ImageKind::Before,
            types::Image::After => ImageKind::After,
        };
        let column = ColumnIndex(column);
        let edit = edit(&batch.row(row), tables, image, column, state, value).map_err(malformed)?;
        checked_edits.rows.insert(row);
        checked_edits.values.insert((row, image, column), edit);
    }
    let mut emitted = Vec::with_capacity(emits.len());
    for types::Emit { row, sink, group_len, dedup_len, body_len } in emits {
        let mut text = |len| arena.text(len).map_err(malformed);
        let (group, deduplication_id, body) = (text(group_len)?, text(dedup_len)?, text(body_len)?);
        emitted.push(Emitted {
            batch: Arc::default(),
            row: row_of(row)?,
            origin: 0,
            reroute: reroute(sink, group),
            deduplication_id: Some(deduplication_id.to_owned()).filter(|id| !id.is_empty()),
            body: body.to_owned(),
            attributes: Vec::new(),
        });
    }
    for types::Attribute { emit, name_len, value_len } in attributes {
        let (name, value) = (arena.text(name_len).map_err(malformed)?, arena.text(value_len).map_err(malformed)?);
        let count = emitted.len();
        let message = emitted.get_mut(emit as usize).ok_or_else(|| malformed(format!("message {emit} of {count}")))?;
        message.attributes.push((name.to_owned(), value.to_owned()));
    }
    if let Some(types::RowFail { row, message_len }) = fails.first() {
        let message = arena.text(*message_len).map_err(malformed)?;
        return Err(TransformError::on_row(plugin, batch, row_of(*row)?, tables, message));
    }
    if !arena.rest.is_empty() {
        return Err(malformed(format!("{} bytes too many in its arena", arena.rest.len())));
    }
    Ok(Decision { keep: kept, reroutes: checked_reroutes, edits: checked_edits, emitted })
}

fn reroute(sink: u32, group: &str) -> Reroute {
    Reroute {
        sink: (sink != ROUTED).then_some(sink as usize),
        group: Some(group.to_owned()).filter(|group| !group.is_empty()),
    }
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
    fn bytes(&mut self, len: u32) -> Result<&'a [u8], String> {
        let (taken, rest) =
            self.rest.split_at_checked(len as usize).ok_or("its arena is shorter than its items say")?;
        self.rest = rest;
        Ok(taken)
    }

    fn text(&mut self, len: u32) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes(len)?).map_err(|_| "text that isn't UTF-8".to_owned())
    }
}
