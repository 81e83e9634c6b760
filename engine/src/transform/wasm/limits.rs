//! What a guest may have the host hold, or do on its behalf, beside what its manifest limits: its deadline ends at the host's
//! door, so each call of the host is bounded before it allocates.

use wasmtime::{ResourceLimiter, Result, format_err};

/// Entries of all its function tables together, which linear memory's limit doesn't count.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Memories, tables and instances of one guest: a component is several modules.
const PARTS_MAX: usize = 100;

/// Bytes of a file of a plugin.
pub(in crate::transform) const FILE_BYTES_MAX: u64 = 256 << 20;
/// Blocks within blocks of a function: what compiles slower than it is long.
pub(in crate::transform) const NESTING_MAX: usize = 5_000;
/// Bytes of a function that may have so many.
pub(in crate::transform) const NESTING_BODY_MIN: usize = NESTING_MAX * 2;

/// Bytes of a name: of a sink, a counter, a variable.
pub(in crate::transform) const NAME_BYTES_MAX: usize = 1 << 10;
/// Counters of a plugin.
pub(in crate::transform) const COUNTERS_MAX: usize = 1_000;
/// Recipes of an instance, and fields or parts of a group of each.
pub(in crate::transform) const RECIPES_MAX: usize = 1_000;
/// Bytes of the texts of an instance's recipes.
pub(in crate::transform) const RECIPES_BYTES_MAX: usize = 1 << 20;
/// Conditions of a question, and values of all of them.
pub(in crate::transform) const CONDITIONS_MAX: usize = 10_000;
/// Bytes of random numbers in one call, as `getentropy` has a limit.
pub(in crate::transform) const RANDOM_BYTES_MAX: usize = 64 << 10;
/// Pieces of what is printed, and events that are waited for, in one call: `IOV_MAX` of Linux.
pub(in crate::transform) const PIECES_MAX: u32 = 1_024;

/// Bytes of a line of the log.
pub(in crate::transform) const LINE_BYTES_MAX: usize = 4 << 10;
/// Lines of the log in one call.
pub(in crate::transform) const LINES_MAX: usize = 100;
/// What a plugin may print in one call: a runtime that gives up says a lot.
pub(in crate::transform) const PRINTED_BYTES_MAX: usize = 4 << 10;

/// What a message, a reroute, an edit, and a row of an order take beside their texts, about: so many of them count as output
/// as they take memory.
pub(in crate::transform) const MESSAGE_BYTES: usize = 200;
pub(in crate::transform) const REROUTE_BYTES: usize = 64;
pub(in crate::transform) const EDIT_BYTES: usize = 56;
pub(in crate::transform) const FAIL_BYTES: usize = 48;
pub(in crate::transform) const ATTRIBUTE_BYTES: usize = 64;
pub(in crate::transform) const ROW_BYTES: usize = 4;
/// What each row may have beside: what a verdict says of all rows isn't the plugin's output.
pub(in crate::transform) const OUTPUT_A_ROW: usize = 512;

/// A guest's memory and tables, all of them together.
#[derive(Debug)]
pub(in crate::transform) struct Resources {
    memory_max: usize,
    memory: usize,
    elements: usize,
}

impl Resources {
    /// So many bytes of linear memory at most.
    pub fn new(memory_max: usize) -> Self {
        Self { memory_max, memory: 0, elements: 0 }
    }
}

impl ResourceLimiter for Resources {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let after = self.memory.saturating_add(desired.saturating_sub(current));
        if after > self.memory_max {
            return Err(format_err!(
                "its memory would be {after} bytes, and may be {}; raise `memory` in its .toml",
                self.memory_max
            ));
        }
        self.memory = after;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let after = self.elements.saturating_add(desired.saturating_sub(current));
        if after > TABLE_ELEMENTS_MAX {
            return Err(format_err!("its tables would have {after} entries, and may have {TABLE_ELEMENTS_MAX}"));
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

/// A text as it is kept: cut where it is longer than `bytes_max`.
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
        assert!(error.contains("101 bytes, and may be 100; raise `memory`"), "{error}");
        assert!(resources.table_growing(0, TABLE_ELEMENTS_MAX, None).is_ok());
        assert!(resources.table_growing(0, 1, None).is_err());
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("größe".to_owned(), 3), "gr...");
        assert_eq!(cut("gr".to_owned(), 3), "gr");
    }
}
