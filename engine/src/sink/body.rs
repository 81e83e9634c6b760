//! A message's body.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use rowmill_core::batch::json::push_escaped;
use rowmill_core::envelope::{Escaping, plain, plain_len};

/// UTF-8 without characters that SQS refuses. It may be kept as it stands in a request, where its quotes are escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    text: Bytes,
    escaping: Escaping,
    /// Bytes that aren't escaped.
    len: usize,
}

impl Body {
    /// Of a text that was written so.
    pub fn new(text: Bytes, escaping: Escaping) -> Self {
        let len = match escaping {
            Escaping::Plain => text.len(),
            Escaping::Escaped => plain_len(&text),
        };
        Self { text, escaping, len }
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The text itself.
    pub fn plain(&self) -> Cow<'_, str> {
        let text = String::from_utf8_lossy(&self.text);
        match self.escaping {
            Escaping::Plain => text,
            Escaping::Escaped => Cow::Owned(plain(&text)),
        }
    }

    /// Appends it as it stands in a request.
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
