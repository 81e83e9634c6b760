//! A transform's validated decision on the rows of a batch.

use bytes::Bytes;
use rowmill_core::batch::{Cell, ColumnIndex, ImageKind, RowIndex};

use super::message::{Emitted, Reroute};

/// A validated verdict.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Whether each row is kept, in order.
    pub keep: Vec<bool>,
    pub reroutes: Vec<(RowIndex, Reroute)>,
    pub edits: Edits,
    /// The messages made of rows of this batch; their `origin` is not known here.
    pub emitted: Vec<Emitted>,
    /// The rows that the plugin failed on, with the causes. They are not kept, and have no messages.
    pub fails: Vec<(RowIndex, String)>,
}

impl Decision {
    /// Removes everything about rows on which the plugin does not decide.
    pub fn retain(&mut self, is_decided: impl Fn(RowIndex) -> bool) {
        self.reroutes.retain(|(row, _)| is_decided(*row));
        self.edits.0.retain(|edit| is_decided(edit.row));
        self.emitted.retain(|message| is_decided(message.row));
        self.fails.retain(|(row, _)| is_decided(*row));
    }
}

/// The new values of columns, sorted by row.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<Edit>);

/// A column's new value in one image of a row.
#[derive(Debug)]
pub(super) struct Edit {
    pub row: RowIndex,
    pub image: ImageKind,
    pub column: ColumnIndex,
    pub value: NewValue,
}

#[derive(Debug, Clone)]
pub(super) enum NewValue {
    Absent,
    Null,
    Value(Bytes),
}

impl Edits {
    /// Sorts the edits by row. Of several edits of one column the last one counts.
    pub(super) fn new(mut edits: Vec<Edit>) -> Self {
        edits.sort_by_key(|edit| edit.row);
        Self(edits)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of_row(&self, row: RowIndex) -> EditsOfRow<'_> {
        let from = self.0.partition_point(|edit| edit.row < row);
        let count = self.0[from..].iter().take_while(|edit| edit.row == row).count();
        EditsOfRow(&self.0[from..from + count])
    }
}

/// The new values of one row.
#[derive(Clone, Copy)]
pub(crate) struct EditsOfRow<'a>(&'a [Edit]);

impl<'a> EditsOfRow<'a> {
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    pub fn get(self, image: ImageKind, column: ColumnIndex) -> Option<Cell<'a>> {
        let edit = self.0.iter().rev().find(|edit| edit.column == column && edit.image == image)?;
        Some(match &edit.value {
            NewValue::Absent => Cell::Absent,
            NewValue::Null => Cell::Null,
            NewValue::Value(bytes) => Cell::Value(bytes),
        })
    }
}
