//! One image of a row: its columns as they are, or as they were.

use rowmill_batch::{Cell, ColumnIndex, Image, Kind};

use crate::error::ColumnError;
use crate::table::Table;

/// The columns of a row in one of its images. Columns are named without regard to case, as in MySQL. `None` is NULL; anything
/// else that is no value is an error: a column that the table does not have, that the transform did not declare, that is absent
/// from the image (`binlog_row_image` is not `FULL`), or that is of another kind.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    table: &'a Table,
    image: Image<'a>,
}

/// How values are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Text,
    Integer,
    Float,
    Bytes,
}

impl Class {
    #[inline]
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Int | Kind::Uint | Kind::Year | Kind::Bit => Self::Integer,
            Kind::Float => Self::Float,
            Kind::Bytes | Kind::Geometry | Kind::Vector => Self::Bytes,
            Kind::Decimal
            | Kind::Text
            | Kind::Json
            | Kind::Date
            | Kind::Time
            | Kind::Datetime
            | Kind::Timestamp
            | Kind::Enum
            | Kind::Set => Self::Text,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "an integer",
            Self::Float => "a float",
            Self::Bytes => "bytes",
        }
    }

    /// The error of a column of another kind.
    #[cold]
    pub fn mismatch(self, table: &Table, column: ColumnIndex) -> ColumnError {
        let described = &table.packed.columns[column.0 as usize];
        let (name, mysql_type, read_as) = (&described.name, &described.mysql_type, Self::of(described.kind).name());
        let table = &table.packed;
        ColumnError::new(format!(
            "column `{name}` of {table} is {mysql_type}, which is read as {read_as}, not as {}",
            self.name()
        ))
    }
}

impl<'a> View<'a> {
    #[inline]
    pub(crate) fn new(table: &'a Table, image: Image<'a>) -> Self {
        Self { table, image }
    }

    /// Returns a column of text: also of decimals, dates and times, enums, sets and JSON, which are packed as text.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, or not text.
    #[inline]
    pub fn text(&self, column: &str) -> Result<Option<&'a str>, ColumnError> {
        let (index, value) = self.value(column, Class::Text)?;
        match value.map(std::str::from_utf8).transpose() {
            Ok(text) => Ok(text),
            Err(_) => Err(self.table.error(index, "is not UTF-8")),
        }
    }

    /// Returns an integer column: also years, bits, and unsigned integers that fit.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, not an integer, or the value does not fit.
    #[inline]
    pub fn int(&self, column: &str) -> Result<Option<i64>, ColumnError> {
        let (index, value) = self.value(column, Class::Integer)?;
        let Some(bits) = value.map(word) else { return Ok(None) };
        match i64::try_from(bits) {
            Ok(number) => Ok(Some(number)),
            Err(_) if self.table.kind(index) == Kind::Int => Ok(Some(bits as i64)),
            Err(_) => Err(self.table.error(index, &format!("is {bits}, which does not fit a signed integer"))),
        }
    }

    /// Returns an unsigned integer column: also years, bits, and signed integers that fit.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, not an integer, or the value does not fit.
    #[inline]
    pub fn uint(&self, column: &str) -> Result<Option<u64>, ColumnError> {
        let (index, value) = self.value(column, Class::Integer)?;
        let Some(bits) = value.map(word) else { return Ok(None) };
        if bits as i64 >= 0 || self.table.kind(index) != Kind::Int {
            return Ok(Some(bits));
        }
        Err(self.table.error(index, &format!("is {}, which does not fit an unsigned integer", bits as i64)))
    }

    /// Returns a `FLOAT` or `DOUBLE` column.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, or not a float.
    #[inline]
    pub fn float(&self, column: &str) -> Result<Option<f64>, ColumnError> {
        let (_, value) = self.value(column, Class::Float)?;
        Ok(value.map(|bytes| f64::from_bits(word(bytes))))
    }

    /// Returns a column of binary data: also geometries (SRID and WKB) and vectors.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, or not binary.
    #[inline]
    pub fn bytes(&self, column: &str) -> Result<Option<&'a [u8]>, ColumnError> {
        Ok(self.value(column, Class::Bytes)?.1)
    }

    /// Whether the table has the column, and this image of the row contains it.
    pub fn has(&self, column: &str) -> bool {
        self.table.position(column).is_some_and(|index| self.image.cell(index) != Cell::Absent)
    }

    /// Returns a column's state and value, as packed by its kind.
    ///
    /// # Errors
    /// If there is no such column, or it is not declared.
    #[inline]
    pub fn cell(&self, column: &str) -> Result<(Kind, Cell<'a>), ColumnError> {
        let index = self.table.column(column)?;
        Ok((self.table.kind(index), self.image.cell(index)))
    }

    /// Returns a column that is NULL (`None`) or a value, as packed by its kind.
    #[inline(always)]
    pub(crate) fn present(&self, index: ColumnIndex) -> Result<Option<&'a [u8]>, ColumnError> {
        match self.image.cell(index) {
            Cell::Value(bytes) => Ok(Some(bytes)),
            Cell::Null => Ok(None),
            Cell::Absent => Err(self.table.error(index, "is absent from the row's image; ask `has` first")),
            Cell::Changes(_) => Err(self.table.error(index, "has only its changes: the update was partial")),
        }
    }

    #[inline(always)]
    pub(crate) fn value(&self, column: &str, class: Class) -> Result<(ColumnIndex, Option<&'a [u8]>), ColumnError> {
        let index = self.table.column(column)?;
        if Class::of(self.table.kind(index)) != class {
            return Err(class.mismatch(self.table, index));
        }
        Ok((index, self.present(index)?))
    }
}

/// Reads a number of 8 bytes; the engine packs no other.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
