//! What a plugin says becomes of the rows of a batch (`outcome` of the WIT world, the verdict of a core module). Each part is
//! validated when it is said: indexes, columns, values and sizes.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use rowmill_core::batch::{Batch, Cell, ColumnIndex, ImageKind, RowIndex, Table};

use super::decision::{Decision, Edit, Edits, NewValue};
use super::error::PluginError;
use super::expression::{self, Scope, Template};
use super::message::{Emitted, MessageText, Reroute};
use super::query::{BatchQuery, Conditions};
use super::recipe::OfTables;
use super::value;
use super::wasm::bindings::outcome::{Group, Rows};
use super::wasm::instance::Instance;
use super::wasm::limits::{ATTRIBUTE_BYTES, EDIT_BYTES, FAIL_BYTES, MESSAGE_BYTES, REROUTE_BYTES, ROW_BYTES};
use crate::config::SinkId;

/// What a plugin said about a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    kept: Vec<RowIndex>,
    reroutes: Vec<(RowIndex, Reroute)>,
    edits: Vec<PendingEdit>,
    emits: Vec<Emit>,
    writes: Vec<Write>,
    fails: Vec<(RowIndex, String)>,
    /// The groups, deduplication IDs and bodies of `emits`.
    text: String,
    /// The values of `edits` of single rows.
    values: Vec<u8>,
    /// The number of sinks that the plugin may name.
    sinks: usize,
    /// The memory that all this takes, and may take at most, in bytes.
    bytes: usize,
    bytes_max: usize,
}

/// A finished message, and the offsets of its parts in `Outcome::text`.
#[derive(Debug)]
struct Emit {
    row: RowIndex,
    sink: Option<SinkId>,
    start: usize,
    group_end: usize,
    id_end: usize,
    end: usize,
    attributes: Vec<(String, String)>,
}

/// Messages to be made by a recipe, one of each row.
#[derive(Debug)]
struct Write {
    recipe: u32,
    sink: Option<SinkId>,
    rows: Vec<RowIndex>,
}

#[derive(Debug)]
struct PendingEdit {
    row: RowIndex,
    image: ImageKind,
    column: ColumnIndex,
    value: PendingValue,
}

#[derive(Debug, Clone)]
enum PendingValue {
    New(NewValue),
    /// A place in `Outcome::values`.
    At(Range<usize>),
}

/// The images in which a column is edited.
#[derive(Debug, Clone, Copy)]
pub(super) enum EditTarget {
    /// The after image.
    Now,
    /// Both images, where the column is neither NULL nor absent.
    BothWherePresent,
}

impl EditTarget {
    /// Returns the older of the target's images.
    fn image(self) -> ImageKind {
        match self {
            Self::Now => ImageKind::After,
            Self::BothWherePresent => ImageKind::Before,
        }
    }
}

/// Each of these fails if a row is not in the batch, if a sink does not exist, or if all together takes more memory than it
/// may.
impl Outcome {
    /// Creates an empty outcome that may take `bytes_max` bytes.
    pub fn within(bytes_max: usize, sinks: usize) -> Self {
        Self { bytes_max, sinks, ..Self::default() }
    }

    fn take(&mut self, bytes: usize) -> Result<(), PluginError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes <= self.bytes_max { Ok(()) } else { Err(too_much(self.bytes_max)) }
    }

    fn sink(&self, sink: Option<u32>) -> Result<Option<SinkId>, PluginError> {
        match sink {
            Some(sink) if sink as usize >= self.sinks => {
                Err(PluginError::Malformed(format!("sink {sink} does not exist: there are {}", self.sinks)))
            }
            _ => Ok(sink.map(|sink| SinkId(sink as usize))),
        }
    }

    pub fn keep(&mut self, rows: Vec<RowIndex>) -> Result<(), PluginError> {
        self.take(rows.len() * ROW_BYTES)?;
        if self.kept.is_empty() {
            self.kept = rows;
        } else {
            self.kept.extend(rows);
        }
        Ok(())
    }

    /// Sets the sink, the message group, or both, of rows.
    ///
    /// # Errors
    /// If a row's table does not have a column of the group, or the column is outside the plugin's interest.
    pub fn reroute(
        &mut self,
        asked: &BatchQuery<'_>,
        rows: Vec<RowIndex>,
        sink: Option<u32>,
        group: Option<Group>,
    ) -> Result<(), PluginError> {
        let template = match group {
            Some(Group::Template(text)) => Template::parse(&text).map_err(PluginError::Reject)?,
            Some(Group::Text(text)) => return self.reroute_to(&rows, sink, text.into()),
            None => return self.reroute_to(&rows, sink, ByteString::new()),
        };
        let mut groups = OfTables::default();
        let scope = Scope { interests: asked.interests, has_item: false };
        for row in rows {
            let packed = asked.batch.row(row);
            let table = &*asked.tables[packed.table().0 as usize];
            let mut text = Vec::new();
            let group = groups.get(table, || template.compile(table, scope)).map_err(PluginError::Reject)?;
            let context = expression::Row { table, batch: &asked.batch, row: packed, item: None };
            match group.push(&context, &mut text) {
                Ok(()) => self.reroute_to(&[row], sink, ByteString::try_from(text).map_err(|_| not_utf8())?)?,
                Err(error) => self.fail(row, error)?,
            }
        }
        Ok(())
    }

    /// Sets the sink and the message group (empty: the route's) of rows.
    pub fn reroute_to(&mut self, rows: &[RowIndex], sink: Option<u32>, group: ByteString) -> Result<(), PluginError> {
        self.take(rows.len() * REROUTE_BYTES + group.len())?;
        let reroute = Reroute { sink: self.sink(sink)?, group: Some(group).filter(|group| !group.is_empty()) };
        self.reroutes.extend(rows.iter().map(|&row| (row, reroute.clone())));
        Ok(())
    }

    /// Sets a column of rows to a value, or to NULL without one.
    ///
    /// # Errors
    /// If a row's table does not have the column, the column is outside the plugin's interest, or the value is not valid for
    /// the column's type.
    pub fn set(
        &mut self,
        asked: &BatchQuery<'_>,
        rows: Vec<RowIndex>,
        column: &str,
        value: Option<&str>,
        target: EditTarget,
    ) -> Result<(), PluginError> {
        let meant = |table: &Table| {
            let index = table.column(column).ok_or_else(|| table.no_column(column))?;
            asked.interests.check(table, index, target.image())?;
            let described = &table.columns[index.0 as usize];
            let Some(text) = value else { return Ok((index, NewValue::Null)) };
            Ok((index, NewValue::Value(value::parse(table, described, text)?)))
        };
        let mut of_tables = OfTables::default();
        for row in rows {
            let packed = asked.batch.row(row);
            let table = &asked.tables[packed.table().0 as usize];
            let (column, value) = of_tables.get(table, || meant(table)).map_err(PluginError::Reject)?;
            for (image, cells) in [(ImageKind::Before, packed.before()), (ImageKind::After, packed.after())] {
                let Some(cells) = cells else { continue };
                let is_meant = match target {
                    EditTarget::Now => image == ImageKind::After,
                    EditTarget::BothWherePresent => matches!(cells.cell(*column), Cell::Value(_) | Cell::Changes(_)),
                };
                if is_meant {
                    let bytes = if let NewValue::Value(bytes) = value { bytes.len() } else { 0 };
                    self.take(EDIT_BYTES + bytes)?;
                    let value = PendingValue::New(value.clone());
                    self.edits.push(PendingEdit { row, image, column: *column, value });
                }
            }
        }
        Ok(())
    }

    /// Sets a column in one image of a row. A value that is not one of the column is the error of the row: it is the author's,
    /// not the SDK's.
    ///
    /// # Errors
    /// If the edit makes no sense for the row.
    pub fn edit(
        &mut self,
        asked: &BatchQuery<'_>,
        row: RowIndex,
        image: ImageKind,
        column: ColumnIndex,
        value: Packed<'_>,
    ) -> Result<(), PluginError> {
        let malformed = PluginError::Malformed;
        let packed = asked.batch.row(row);
        let table = &asked.tables[packed.table().0 as usize];
        let Some(described) = table.columns.get(column.0 as usize) else {
            let count = table.columns.len();
            return Err(malformed(format!("column {} of {table}, which has {count} columns", column.0)));
        };
        let has_image = match image {
            ImageKind::Before => packed.operation().has_before(),
            ImageKind::After => packed.operation().has_after(),
        };
        if !has_image {
            let operation = packed.operation();
            return Err(malformed(format!("edit of the {image:?} image of a row without one ({operation:?})")));
        }
        asked.interests.check(table, column, image).map_err(malformed)?;
        let value = match value {
            Packed::Absent => PendingValue::New(NewValue::Absent),
            Packed::Null => PendingValue::New(NewValue::Null),
            Packed::Value(bytes) => {
                if let Err(error) = value::check(table, described, bytes) {
                    return self.fail(row, error);
                }
                self.take(bytes.len())?;
                let start = self.values.len();
                self.values.extend_from_slice(bytes);
                PendingValue::At(start..self.values.len())
            }
        };
        self.take(EDIT_BYTES)?;
        self.edits.push(PendingEdit { row, image, column, value });
        Ok(())
    }

    /// Adds messages of rows by a recipe. The memory of the messages counts when they are rendered.
    pub fn write(&mut self, rows: &[RowIndex], recipe: u32, sink: Option<u32>) -> Result<(), PluginError> {
        self.take(rows.len() * ROW_BYTES)?;
        let sink = self.sink(sink)?;
        match self.writes.last_mut() {
            Some(last) if (last.recipe, last.sink) == (recipe, sink) => last.rows.extend_from_slice(rows),
            _ => {
                self.take(MESSAGE_BYTES)?;
                self.writes.push(Write { recipe, sink, rows: rows.to_vec() });
            }
        }
        Ok(())
    }

    /// Adds a finished message, and returns its number.
    pub fn emit(
        &mut self,
        row: RowIndex,
        sink: Option<u32>,
        [group, deduplication_id, body]: [&str; 3],
    ) -> Result<u32, PluginError> {
        self.take(MESSAGE_BYTES + group.len() + deduplication_id.len() + body.len())?;
        let (sink, start) = (self.sink(sink)?, self.text.len());
        let group_end = start + group.len();
        let id_end = group_end + deduplication_id.len();
        for part in [group, deduplication_id, body] {
            self.text.push_str(part);
        }
        self.emits.push(Emit { row, sink, start, group_end, id_end, end: self.text.len(), attributes: Vec::new() });
        Ok(self.emits.len() as u32 - 1)
    }

    /// Adds an attribute to a finished message.
    pub fn attribute(&mut self, emit: u32, name: &str, value: &str) -> Result<(), PluginError> {
        self.take(ATTRIBUTE_BYTES + name.len() + value.len())?;
        let count = self.emits.len();
        let message = self.emits.get_mut(emit as usize);
        let message = message
            .ok_or_else(|| PluginError::Malformed(format!("message {emit} does not exist: there are {count}")))?;
        message.attributes.push((name.to_owned(), value.to_owned()));
        Ok(())
    }

    pub fn fail(&mut self, row: RowIndex, message: String) -> Result<(), PluginError> {
        self.take(FAIL_BYTES + message.len())?;
        self.fails.push((row, message));
        Ok(())
    }

    /// Renders the messages that are left to the host, and returns the decision.
    ///
    /// # Errors
    /// If a recipe does not exist, or all together takes more memory than it may.
    pub fn decide(
        self,
        instance: &mut Instance,
        batch: &Batch<'_>,
        tables: &[Arc<Table>],
    ) -> Result<Decision, PluginError> {
        let Self { kept, reroutes, edits, emits, writes, fails, text, values, mut bytes, bytes_max, .. } = self;
        let (text, values) = (ByteString::from(text), Bytes::from(values));
        let mut decision =
            Decision { keep: vec![false; batch.len()], reroutes, edits: Edits::default(), emitted: Vec::new(), fails };
        for row in kept {
            decision.keep[row.0 as usize] = true;
        }
        let edits = edits.into_iter().map(|PendingEdit { row, image, column, value }| {
            let value = match value {
                PendingValue::New(value) => value,
                PendingValue::At(place) => NewValue::Value(values.slice(place)),
            };
            Edit { row, image, column, value }
        });
        decision.edits = Edits::new(edits.collect());
        let emitted = |row, sink, text, attributes| Emitted { batch: 0, row, origin: 0, sink, text, attributes };
        decision.emitted.reserve(emits.len());
        for Emit { row, sink, start, group_end, id_end, end, attributes } in emits {
            let slice = text.slice_ref(&text[start..end]);
            let text = MessageText::new(slice, group_end - start, id_end - start).ok_or_else(not_utf8)?;
            decision.emitted.push(emitted(row, sink, text, attributes));
        }
        for Write { recipe, sink, rows } in writes {
            let Some(mut written) = instance.messages(recipe, batch, &rows, tables, bytes_max - bytes)? else {
                return Err(too_much(bytes_max));
            };
            bytes = bytes.saturating_add(written.bytes());
            if bytes > bytes_max {
                return Err(too_much(bytes_max));
            }
            decision.fails.extend(std::mem::take(&mut written.fails));
            let messages = written.messages().map(|(row, text, attributes)| emitted(row, sink, text, attributes));
            decision.emitted.extend(messages);
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
}

/// A column's new value, packed by the column's kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Packed<'a> {
    Absent,
    Null,
    Value(&'a [u8]),
}

fn too_much(bytes_max: usize) -> PluginError {
    PluginError::Reject(format!("output of more than {bytes_max} bytes; raise `output` in its .toml"))
}

pub(super) fn not_utf8() -> PluginError {
    PluginError::Malformed("text that is not UTF-8".to_owned())
}

impl BatchQuery<'_> {
    /// Returns the rows that are meant.
    ///
    /// # Errors
    /// If a row is not in the batch, or as [`Self::select`].
    pub fn rows_of(&self, rows: Rows, conditions: &mut Conditions) -> Result<Vec<RowIndex>, PluginError> {
        match rows {
            Rows::ThatMatch(condition) => {
                let rows = self.select(&condition, conditions).map_err(PluginError::Reject)?;
                Ok(rows.into_iter().map(RowIndex).collect())
            }
            Rows::These(rows) => rows.into_iter().map(|row| self.known(row)).collect(),
        }
    }

    /// Returns a row of the batch.
    ///
    /// # Errors
    /// If the batch has no such row.
    #[inline]
    pub fn known(&self, row: u32) -> Result<RowIndex, PluginError> {
        let count = self.batch.len();
        if (row as usize) < count {
            Ok(RowIndex(row))
        } else {
            Err(PluginError::Malformed(format!("row {row} is not in the batch of {count} rows")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::interest::Interests;
    use super::*;
    use crate::fixture::sample_rows;

    #[test]
    fn it_is_about_the_rows_that_are_meant() {
        let (bytes, tables) = sample_rows();
        let rows: Vec<u32> = (0..256).filter(|row| row % 2 == 0).collect();
        let asked = BatchQuery { batch: bytes.view(), tables: &tables, rows: &rows, interests: &Interests::default() };
        let mut outcome = Outcome::within(1 << 20, 2);
        let mut conditions = Conditions::default();
        let mut of = |rows| asked.rows_of(rows, &mut conditions).expect("rows");
        outcome.keep(of(Rows::ThatMatch("op() = 'c'".to_owned()))).expect("kept");
        assert_eq!(outcome.kept.len(), 128);
        outcome.keep(of(Rows::ThatMatch("op() <> 'c'".to_owned()))).expect("nothing"); // all of them are inserts
        outcome.keep(of(Rows::These(vec![3]))).expect("kept");
        assert_eq!(outcome.kept.len(), 129);
        let group = Group::Template("c-{customer}".to_owned());
        outcome.reroute(&asked, vec![RowIndex(2)], Some(1), Some(group)).expect("rerouted");
        let group = Group::Text("c-{customer}".to_owned());
        outcome.reroute(&asked, vec![RowIndex(4)], None, Some(group)).expect("rerouted");
        let reroute = |sink: Option<usize>, group: &str| Reroute { sink: sink.map(SinkId), group: Some(group.into()) };
        let expected = [(RowIndex(2), reroute(Some(1), "c-14")), (RowIndex(4), reroute(None, "c-{customer}"))];
        assert_eq!(outcome.reroutes, expected);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let (bytes, tables) = sample_rows();
        let asked =
            BatchQuery { batch: bytes.view(), tables: &tables, rows: &[0, 1], interests: &Interests::default() };
        let mut outcome = Outcome::within(1 << 20, 1);
        let mut set = |column: &str, value: Option<&str>, target| {
            outcome.set(&asked, vec![RowIndex(0)], column, value, target).map_err(|error| error.to_string())
        };
        assert_eq!(set("id", Some("12"), EditTarget::Now), Ok(()));
        assert_eq!(set("id", None, EditTarget::BothWherePresent), Ok(()));
        let error = set("id", Some("twelve"), EditTarget::Now).expect_err("refused");
        assert_eq!(error, "`twelve` is not a valid value of shop.orders.id (bigint)");
        let error = set("nonsense", Some(""), EditTarget::Now).expect_err("refused");
        assert_eq!(error, "shop.orders has no column `nonsense`");
        assert_eq!(outcome.edits.len(), 2);
        let mut small = Outcome::within(1000, 1);
        assert_eq!(small.fail(RowIndex(0), "x".repeat(900)), Ok(()));
        let error = small.fail(RowIndex(1), "x".repeat(900)).expect_err("refused").to_string();
        assert!(error.contains("more than 1000 bytes; raise `output`"), "{error}");
        let error = asked.rows_of(Rows::These(vec![0, 256]), &mut Conditions::default()).expect_err("refused");
        assert!(error.to_string().contains("row 256 is not in the batch of 256 rows"), "{error}");
        let error = outcome.write(&[RowIndex(0)], 0, Some(1)).expect_err("refused").to_string();
        assert!(error.contains("sink 1 does not exist: there are 1"), "{error}");
        let error = outcome.attribute(0, "name", "value").expect_err("refused").to_string();
        assert!(error.contains("message 0 does not exist: there are 0"), "{error}");
    }
}
