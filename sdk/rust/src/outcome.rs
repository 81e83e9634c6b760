//! What becomes of a row.

use std::borrow::Cow;

use rowmill_batch::{ImageKind, Kind};

use crate::Row;
use crate::json::Object;

/// What becomes of a row: [`Row::keep`](crate::Row::keep) and [`Row::drop`](crate::Row::drop) make it.
#[derive(Debug, Clone, PartialEq)]
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
    pub(crate) failure: Option<String>,
}

/// A column's new value in one image; `None` is NULL.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Edit {
    pub image: ImageKind,
    pub column: String,
    pub value: Option<Vec<u8>>,
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

    /// Appends a column to the group, as it is now, or was before a delete: texts as they are, integers in decimal;
    /// nothing for NULL and for columns of other kinds.
    pub fn group_column(&mut self, row: &Row<'_>, column: &str) {
        let Some((kind, cell)) = row.kind_and_cell(column) else { return };
        let mut buffer = itoa::Buffer::new();
        let integer = match kind {
            Kind::Int => cell.int().map(|number| buffer.format(number)),
            Kind::Uint | Kind::Year | Kind::Bit => cell.uint().map(|number| buffer.format(number)),
            kind if kind.is_text() => cell.text(),
            _ => None,
        };
        self.group.push_str(integer.unwrap_or_default());
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
    /// A row that can't be processed; the plugin's `on_error` says what becomes of it.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::More(Box::new(More { failure: Some(message.into()), ..More::default() }))
    }

    /// The row goes to the sink of this name, instead of the one that the routes give.
    pub fn to(self, sink: impl Into<Cow<'static, str>>) -> Self {
        self.with(|more| more.sink = Some(sink.into()))
    }

    /// The row's message group, within which order is kept.
    pub fn in_group(self, group: impl Into<String>) -> Self {
        self.with(|more| more.group = Some(group.into()))
    }

    /// A text or bytes column gets this value in the row as it is now.
    pub fn set(self, column: &str, value: impl Into<Vec<u8>>) -> Self {
        self.edit(ImageKind::After, column, Some(value.into()))
    }

    /// An integer column gets this value in the row as it is now.
    pub fn set_int(self, column: &str, value: i64) -> Self {
        self.set(column, value.to_le_bytes())
    }

    /// A column becomes NULL in the row as it is now.
    pub fn set_null(self, column: &str) -> Self {
        self.edit(ImageKind::After, column, None)
    }

    /// A text or bytes column gets this value in the row as it was.
    pub fn set_before(self, column: &str, value: impl Into<Vec<u8>>) -> Self {
        self.edit(ImageKind::Before, column, Some(value.into()))
    }

    fn edit(self, image: ImageKind, column: &str, value: Option<Vec<u8>>) -> Self {
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
