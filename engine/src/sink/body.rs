//! A message's body.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use rowmill_core::batch::json::push_escaped;
use rowmill_core::envelope::{Escaping, unescape, unescaped_len};

/// A message's body: UTF-8, without characters that SQS rejects unless a transform wrote it. The text may be stored escaped,
/// as in a JSON request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    text: Bytes,
    escaping: Escaping,
    /// Bytes of the unescaped text.
    len: usize,
}

impl Body {
    /// Creates a body of a text that was written with this escaping.
    pub fn new(text: Bytes, escaping: Escaping) -> Self {
        let len = match escaping {
            Escaping::Plain => text.len(),
            Escaping::Escaped => unescaped_len(&text),
        };
        Self { text, escaping, len }
    }

    /// Returns the bytes of the unescaped text.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the body is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the unescaped text.
    pub fn plain(&self) -> Cow<'_, str> {
        let text = String::from_utf8_lossy(&self.text);
        match self.escaping {
            Escaping::Plain => text,
            Escaping::Escaped => Cow::Owned(unescape(&text)),
        }
    }

    /// Appends the escaped text, as in a JSON request.
    pub fn push_escaped(&self, out: &mut Vec<u8>) {
        match self.escaping {
            Escaping::Plain => push_escaped(&self.text, out),
            Escaping::Escaped => out.extend_from_slice(&self.text),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::new(Bytes::new(), Escaping::Plain)
    }
}

impl<T: Into<ByteString>> From<T> for Body {
    fn from(text: T) -> Self {
        Self::new(text.into().into_bytes(), Escaping::Plain)
    }
}
