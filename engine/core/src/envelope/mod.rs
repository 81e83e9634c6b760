//! A row as a message body.

mod debezium;
mod json;
mod value;

pub use debezium::{Debezium, Part, SourceName};
pub use json::{push_int, push_string};
pub use value::{push_cell, push_cell_text, push_image};
