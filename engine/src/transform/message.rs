//! A message that a transform made.

use bytestring::ByteString;
use rowmill_core::batch::RowIndex;

/// A message that a transform made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The batch that has the row it was made of: its index in [`Transformed::seen`](super::Transformed::seen).
    pub batch: u32,
    /// The row in that batch.
    pub row: RowIndex,
    /// The row's place in the batch that was decoded.
    pub origin: u32,
    /// The sink; `None`: as the routes say.
    pub sink: Option<usize>,
    /// Its group, its deduplication id and its body.
    pub text: MessageText,
    /// Its attributes: names and values.
    pub attributes: Vec<(String, String)>,
}

/// A message's group, deduplication id and body, one behind the other: a batch's are one piece of memory, of which
/// a message holds one slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageText {
    text: ByteString,
    group_end: usize,
    id_end: usize,
}

impl MessageText {
    /// Of a text in which the group and the deduplication id end here. `None` if it's no text between.
    pub(super) fn new(text: ByteString, group_end: usize, id_end: usize) -> Option<Self> {
        let is_text = group_end <= id_end && text.is_char_boundary(group_end) && text.is_char_boundary(id_end);
        is_text.then_some(Self { text, group_end, id_end })
    }

    /// Of its parts.
    pub(crate) fn of(group: &str, deduplication_id: &str, body: String) -> Self {
        let (group_end, id_end) = (group.len(), group.len() + deduplication_id.len());
        let text = if id_end == 0 { body } else { [group, deduplication_id, &body].concat() };
        Self { text: text.into(), group_end, id_end }
    }

    /// The message group, if the transform gave one.
    pub fn group(&self) -> Option<&str> {
        Some(&self.text[..self.group_end]).filter(|group| !group.is_empty())
    }

    /// The deduplication id, if the transform gave one.
    pub fn deduplication_id(&self) -> Option<&str> {
        Some(&self.text[self.group_end..self.id_end]).filter(|id| !id.is_empty())
    }

    /// The body.
    pub fn body(&self) -> ByteString {
        self.text.slice_ref(&self.text[self.id_end..])
    }
}

/// Where a transform sends a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// The sink; `None`: as the routes say.
    pub sink: Option<usize>,
    /// The message group; `None`: as the routes say.
    pub group: Option<ByteString>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_parts_are_what_they_were() {
        let text = MessageText::of("größe", "", "{}".to_owned());
        assert_eq!((text.group(), text.deduplication_id(), &*text.body()), (Some("größe"), None, "{}"));
        let text = MessageText::new("gid{}".into(), 1, 3).expect("text");
        assert_eq!((text.group(), text.deduplication_id(), &*text.body()), (Some("g"), Some("id"), "{}"));
        for (group_end, id_end) in [(3, 3), (0, 3), (2, 1), (8, 8)] {
            assert_eq!(MessageText::new("größe".into(), group_end, id_end), None, "{group_end} {id_end}");
        }
    }
}
