//! A row as a message body.

mod debezium;
mod json;

pub use debezium::{Debezium, Part, SourceName};
