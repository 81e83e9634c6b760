//! The columns of a table version, and how their values are read from a row image.

use rowmill_batch::{Builder, Column, ColumnIndex};

use super::bytes::Bytes;
use super::error::DecodeErrorKind;
use super::value::{Codec, ValueError, Width};

/// The columns of a table, as a table map describes them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Columns {
    pub columns: Vec<Column>,
    pub codecs: Vec<Codec>,
    /// The widths of the values: first of `columns`, then of hidden columns, which row images contain, too.
    pub widths: Vec<Width>,
    /// The primary key's columns, in the order of the key.
    pub key: Vec<ColumnIndex>,
}

/// The family of servers that wrote a binlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    MySql,
    MariaDb,
}

impl Columns {
    /// Appends a column's value to the image that `builder` writes; the caller ends the value.
    #[inline]
    pub fn decode_value(
        &self,
        index: usize,
        image: &mut Bytes<'_>,
        builder: &mut Builder,
    ) -> Result<(), DecodeErrorKind> {
        self.codecs[index].decode(image, builder.value()).map_err(|cause| match cause {
            ValueError::Decode(cause) => cause,
            ValueError::Text(cause) => cause.in_column(&self.columns[index].name),
        })
    }
}
