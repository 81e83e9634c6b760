//! What a transform decided on the rows of a batch, once it is checked.

use bytes::Bytes;
use rowmill_core::batch::{Cell, ColumnIndex, ImageKind, RowIndex};

use super::message::{Emitted, Reroute};

/// A verdict that makes sense.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// By row.
    pub keep: Vec<bool>,
    pub reroutes: Vec<(RowIndex, Reroute)>,
    pub edits: Edits,
    /// Of the one batch that the answer is about; their `origin` isn't known here.
    pub emitted: Vec<Emitted>,
    /// Rows that the plugin can't process, and why. They are neither kept nor were messages made of them.
    pub fails: Vec<(RowIndex, String)>,
}

/// New values of columns, by row.
#[derive(Debug, Default)]
pub(crate) struct Edits(Vec<Edit>);

/// A column's new value in one of a row's images.
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
    /// Of several for one column the last counts.
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
