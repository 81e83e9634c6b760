//! The messages that transforms make, and the destinations that they set.

use bytestring::ByteString;
use rowmill_core::batch::RowIndex;

use crate::config::SinkId;

/// A message that a transform made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The index in [`Transformed::seen`](super::Transformed::seen) of the batch that contains the message's row.
    pub batch: u32,
    /// The row that the message is made of: its index in that batch.
    pub row: RowIndex,
    /// The row's index in the decoded batch.
    pub origin: u32,
    /// The sink; `None`: the route's sink.
    pub sink: Option<SinkId>,
    /// The group, the deduplication ID and the body.
    pub text: MessageText,
    /// The attributes: names and values.
    pub attributes: Vec<(String, String)>,
}

/// A message's group, deduplication ID and body, one after another in one text. The texts of a batch's messages can be
/// slices of one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageText {
    text: ByteString,
    group_end: usize,
    id_end: usize,
}

impl MessageText {
    /// Splits a text at the ends of the group and the deduplication ID. `None` if these are not character boundaries in
    /// ascending order.
    pub(super) fn new(text: ByteString, group_end: usize, id_end: usize) -> Option<Self> {
        let is_text = group_end <= id_end && text.is_char_boundary(group_end) && text.is_char_boundary(id_end);
        is_text.then_some(Self { text, group_end, id_end })
    }

    /// Joins a group, a deduplication ID and a body.
    #[cfg(test)]
    pub(crate) fn of(group: &str, deduplication_id: &str, body: String) -> Self {
        let (group_end, id_end) = (group.len(), group.len() + deduplication_id.len());
        let text = if id_end == 0 { body } else { [group, deduplication_id, &body].concat() };
        Self { text: text.into(), group_end, id_end }
    }

    /// Returns the message group, if the transform set one.
    pub fn group(&self) -> Option<&str> {
        Some(&self.text[..self.group_end]).filter(|group| !group.is_empty())
    }

    /// Returns the deduplication ID, if the transform set one.
    pub fn deduplication_id(&self) -> Option<&str> {
        Some(&self.text[self.group_end..self.id_end]).filter(|id| !id.is_empty())
    }

    /// Returns the body.
    pub fn body(&self) -> ByteString {
        self.text.slice_ref(&self.text[self.id_end..])
    }
}

/// The destination that a transform sets for a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reroute {
    /// The sink; `None`: the route's sink.
    pub sink: Option<SinkId>,
    /// The message group; `None`: the route's group.
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
