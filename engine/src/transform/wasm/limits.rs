//! Limits of what the host holds and does for a plugin, besides those of the plugin's manifest. A deadline does not
//! interrupt host functions, so each of them is bounded before it allocates.

use wasmtime::{ResourceLimiter, Result, format_err};

/// Entries of all function tables of an instance together, which the limit of linear memory does not count.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Memories, tables and module instances of one instance of a plugin, of each kind: a component has several modules.
const PARTS_MAX: usize = 100;

/// Bytes of a plugin's file.
pub(in crate::transform) const FILE_BYTES_MAX: u64 = 256 << 20;
/// Depth of nested blocks in a function, whose compilation time grows faster than the function.
pub(in crate::transform) const NESTING_MAX: usize = 5_000;
/// Bytes of the smallest function that can exceed [`NESTING_MAX`]; smaller ones are not checked.
pub(in crate::transform) const NESTING_BODY_MIN: usize = NESTING_MAX * 2;

/// Bytes of the name of a sink, a counter or an environment variable.
pub(in crate::transform) const NAME_BYTES_MAX: usize = 1 << 10;
/// Counters of a plugin.
pub(in crate::transform) const COUNTERS_MAX: usize = 1_000;
/// Recipes of an instance.
pub(in crate::transform) const RECIPES_MAX: usize = 1_000;
/// Bytes of the texts of an instance's recipes.
pub(in crate::transform) const RECIPES_BYTES_MAX: usize = 1 << 20;
/// Conditions of an instance that are kept parsed, and the bytes of their texts.
pub(in crate::transform) const CONDITIONS_MAX: usize = 1_000;
pub(in crate::transform) const CONDITIONS_BYTES_MAX: usize = 256 << 10;
/// Random bytes of one call; `getentropy` has a limit, too.
pub(in crate::transform) const RANDOM_BYTES_MAX: usize = 64 << 10;
/// Buffers that are printed, and events that are waited for, in one call: `IOV_MAX` of Linux.
pub(in crate::transform) const PIECES_MAX: u32 = 1_024;

/// Handles of WASI that an instance has open.
pub(in crate::transform) const HANDLES_MAX: usize = 1_000;

/// Bytes of a log line.
pub(in crate::transform) const LINE_BYTES_MAX: usize = 4 << 10;
/// Log lines of one call.
pub(in crate::transform) const LINES_MAX: usize = 100;
/// Bytes that a plugin may print in one call: a runtime that aborts prints a lot.
pub(in crate::transform) const PRINTED_BYTES_MAX: usize = 4 << 10;

/// The memory that a message, a reroute, an edit, a failure, an attribute, and a row that is kept or written take besides their
/// texts, in bytes, approximately. It counts as output, so that the output is bounded by the memory that it takes.
pub(in crate::transform) const MESSAGE_BYTES: usize = 200;
pub(in crate::transform) const REROUTE_BYTES: usize = 64;
pub(in crate::transform) const EDIT_BYTES: usize = 56;
pub(in crate::transform) const FAIL_BYTES: usize = 48;
pub(in crate::transform) const ATTRIBUTE_BYTES: usize = 64;
pub(in crate::transform) const ROW_BYTES: usize = 4;
/// Bytes of output for each row in addition to the manifest's limit, so that decisions on all rows of a batch fit.
pub(in crate::transform) const OUTPUT_A_ROW: usize = 512;

/// The sizes of all memories and of all tables of an instance.
#[derive(Debug)]
pub(in crate::transform) struct Resources {
    memory_max: usize,
    memory: usize,
    elements: usize,
}

impl Resources {
    /// Limits linear memory to `memory_max` bytes.
    pub fn new(memory_max: usize) -> Self {
        Self { memory_max, memory: 0, elements: 0 }
    }
}

impl ResourceLimiter for Resources {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let after = self.memory.saturating_add(desired.saturating_sub(current));
        if after > self.memory_max {
            return Err(format_err!(
                "memory of {after} bytes: the limit is {}; raise `memory` in its .toml",
                self.memory_max
            ));
        }
        self.memory = after;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let after = self.elements.saturating_add(desired.saturating_sub(current));
        if after > TABLE_ELEMENTS_MAX {
            return Err(format_err!("tables of {after} entries: the limit is {TABLE_ELEMENTS_MAX}"));
        }
        self.elements = after;
        Ok(true)
    }

    fn instances(&self) -> usize {
        PARTS_MAX
    }

    fn tables(&self) -> usize {
        PARTS_MAX
    }

    fn memories(&self) -> usize {
        PARTS_MAX
    }
}

/// Truncates a text of more than `bytes_max` bytes between two characters, and appends `...`.
pub(in crate::transform) fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_count_together() {
        let mut resources = Resources::new(100);
        assert!(resources.memory_growing(0, 60, None).is_ok_and(|grows| grows));
        assert!(resources.memory_growing(0, 40, None).is_ok());
        let error = resources.memory_growing(60, 61, None).expect_err("too much").to_string();
        assert!(error.contains("101 bytes: the limit is 100; raise `memory`"), "{error}");
        assert!(resources.table_growing(0, TABLE_ELEMENTS_MAX, None).is_ok());
        assert!(resources.table_growing(0, 1, None).is_err());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("größe".to_owned(), 3), "gr...");
        assert_eq!(cut("gr".to_owned(), 3), "gr");
    }
}
