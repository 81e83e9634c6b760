//! Errors of a row.

use std::fmt;

/// Why a column cannot be read or set as it was asked for. The message names the table, the column and its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnError(Box<str>);

impl ColumnError {
    #[cold]
    pub(crate) fn new(message: String) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ColumnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ColumnError {}

/// Why a transform could not decide on a row. Any error converts to it by `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub(crate) Box<Reason>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The row fails, and the plugin's `on_error` says what is done with it.
    Reject(String),
    /// The same rows are tried again.
    Retry(String),
}

impl Failure {
    /// The row cannot be processed; the plugin's `on_error` says what is done with it. Nothing else that was done for the row
    /// counts, and the other rows are not affected.
    pub fn reject(message: impl Into<String>) -> Self {
        Self(Box::new(Reason::Reject(message.into())))
    }

    /// The failure is transient: the transform is called again with the same rows, up to three times within 1.3 s. Those that
    /// it has decided on are among them, and what it has changed in its own fields stays.
    pub fn retry(message: impl Into<String>) -> Self {
        Self(Box::new(Reason::Retry(message.into())))
    }
}

impl<E: std::error::Error> From<E> for Failure {
    #[cold]
    fn from(error: E) -> Self {
        Self::reject(error.to_string())
    }
}
