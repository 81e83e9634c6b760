//! A batch that owns its bytes.

use std::sync::Arc;

use crate::reader::{Batch, FormatError};

/// The bytes of a valid batch: they are what a [`Builder`](crate::Builder) wrote, or their header was checked. A clone shares
/// the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedBatch(Arc<Vec<u8>>);

impl PackedBatch {
    /// Checks the header of bytes.
    ///
    /// # Errors
    /// If the bytes are not a batch of this version.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, FormatError> {
        Batch::parse(&bytes)?;
        Ok(Self(Arc::new(bytes)))
    }

    /// Takes the bytes that a builder wrote.
    pub(crate) fn of_builder(bytes: Vec<u8>) -> Self {
        debug_assert!(Batch::parse(&bytes).is_ok());
        Self(Arc::new(bytes))
    }

    /// Returns the batch, which is read in place.
    #[inline]
    pub fn view(&self) -> Batch<'_> {
        Batch::parse(&self.0).expect("checked when it was made")
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
