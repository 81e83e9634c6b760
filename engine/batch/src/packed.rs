//! A batch that owns its bytes.

use std::sync::Arc;

use crate::reader::Batch;

/// The bytes of a valid batch: only a [`Builder`](crate::Builder) makes one. A clone shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch(Arc<Vec<u8>>);

impl PackedBatch {
    /// Takes the bytes that a builder wrote.
    pub(crate) fn of_builder(bytes: Vec<u8>) -> Self {
        debug_assert!(Batch::parse(&bytes).is_ok());
        Self(Arc::new(bytes))
    }

    /// Returns the batch, which is read in place.
    #[inline]
    pub fn view(&self) -> Batch<'_> {
        Batch::parse(&self.0).expect("a builder wrote it")
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the bytes, which are not copied.
    pub fn shared_bytes(&self) -> Arc<Vec<u8>> {
        Arc::clone(&self.0)
    }

    /// Whether two batches share their bytes.
    pub fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
