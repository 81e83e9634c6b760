//! What becomes of a row.

use std::borrow::Cow;

use rowmill_batch::{ImageKind, Kind};

use crate::Row;
use crate::error::ColumnError;
use crate::json::Object;

/// What becomes of a row: [`Row::keep`](crate::Row::keep) and [`Row::drop`](crate::Row::drop) make it.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "an outcome has an effect only if it is returned"]
pub enum Outcome {
    /// It stays as it is.
    Keep,
    /// It goes no further.
    Drop,
    /// More than that.
    More(Box<More>),
}

/// The less common parts of an [`Outcome`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct More {
    pub(crate) keep: bool,
    pub(crate) sink: Option<Cow<'static, str>>,
    pub(crate) group: Option<String>,
    pub(crate) edits: Vec<Edit>,
}

/// A column's new value in one image.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edit {
    pub image: ImageKind,
    pub column: String,
    pub value: NewValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NewValue {
    Null,
    Text(String),
    Bytes(Vec<u8>),
    Integer([u8; 8]),
}

/// A message that a transform makes by itself: [`Row::send`](crate::Row::send) hands out an empty one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// The body: UTF-8. `serde_json::to_writer(&mut message.body, ...)` writes it as well as [`Message::object`].
    pub body: Vec<u8>,
    /// The sink's name; by default the one that the routes give for the row.
    pub sink: Option<Cow<'static, str>>,
    /// The message group; empty: the row's.
    pub group: String,
    /// The deduplication id; empty: one made of the row's place in the binlog.
    pub deduplication_id: String,
    /// Attributes: names and values.
    pub attributes: Vec<(String, String)>,
}

impl Message {
    /// The body as a JSON object, to be written field by field.
    pub fn object(&mut self) -> Object<'_> {
        Object::new(&mut self.body)
    }

    /// Appends a column of the newest image to the group: text as it is, integers in decimal, nothing for NULL.
    ///
    /// # Errors
    /// If there is no such column, it is not declared, absent, or neither text nor an integer.
    pub fn group_column(&mut self, row: &Row<'_>, column: &str) -> Result<(), ColumnError> {
        let index = row.table.column(column)?;
        let mut buffer = itoa::Buffer::new();
        let text = match row.table.kind(index) {
            Kind::Int => row.int(column)?.map(|number| buffer.format(number)),
            Kind::Uint | Kind::Year | Kind::Bit => row.uint(column)?.map(|number| buffer.format(number)),
            _ => row.text(column)?,
        };
        self.group.push_str(text.unwrap_or_default());
        Ok(())
    }

    pub(crate) fn clear(&mut self) {
        let Self { body, sink, group, deduplication_id, attributes } = self;
        body.clear();
        group.clear();
        deduplication_id.clear();
        *sink = None;
        attributes.clear();
    }
}

impl Outcome {
    /// The row goes to the sink of this name, instead of the one that the routes give.
    pub fn to(self, sink: impl Into<Cow<'static, str>>) -> Self {
        self.with(|more| more.sink = Some(sink.into()))
    }

    /// The row's message group, within which order is kept.
    pub fn in_group(self, group: impl Into<String>) -> Self {
        self.with(|more| more.group = Some(group.into()))
    }

    /// Sets a column of text, also of decimals, dates, times, enums, sets and JSON, in the after image. A column that does not
    /// exist, is not declared or is of another kind is an error of the row, here and below.
    pub fn set(self, column: &str, value: impl Into<String>) -> Self {
        self.edit(ImageKind::After, column, NewValue::Text(value.into()))
    }

    /// Sets a column of binary data in the after image.
    pub fn set_bytes(self, column: &str, value: impl Into<Vec<u8>>) -> Self {
        self.edit(ImageKind::After, column, NewValue::Bytes(value.into()))
    }

    /// Sets an integer column in the after image.
    pub fn set_int(self, column: &str, value: i64) -> Self {
        self.edit(ImageKind::After, column, NewValue::Integer(value.to_le_bytes()))
    }

    /// Sets a column to NULL in the after image.
    pub fn set_null(self, column: &str) -> Self {
        self.edit(ImageKind::After, column, NewValue::Null)
    }

    /// Sets a column of text in the before image.
    pub fn set_before(self, column: &str, value: impl Into<String>) -> Self {
        self.edit(ImageKind::Before, column, NewValue::Text(value.into()))
    }

    fn edit(self, image: ImageKind, column: &str, value: NewValue) -> Self {
        self.with(|more| more.edits.push(Edit { image, column: column.to_owned(), value }))
    }

    fn with(self, change: impl FnOnce(&mut More)) -> Self {
        let mut more = match self {
            Self::Keep => Box::new(More { keep: true, ..More::default() }),
            Self::Drop => Box::default(),
            Self::More(more) => more,
        };
        change(&mut more);
        Self::More(more)
    }
}
