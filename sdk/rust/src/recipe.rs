//! Messages that the engine writes, and rows that it selects.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use crate::bindings::rowmill::transform::{host, query};

/// What the engine returns for a text that is not a recipe.
const NOT_A_RECIPE: u32 = u32::MAX;

/// How the engine makes messages of a row: JSON with placeholders, as docs/expressions.md describes it. It is the fastest way
/// to make one, as nothing of it passes through the transform:
///
/// ```ignore
/// Recipe::new(r#"{"body": {"id": "{id}", "sum": "{price * quantity}", "paid": true}, "group": "order-{id}"}"#)
/// ```
///
/// Made once and kept in the transform, it is used by [`Row::write`](crate::Row::write). A text that is not a recipe is an
/// error of the batch, a column that the row's table doesn't have an error of that row.
#[derive(Debug)]
pub struct Recipe {
    text: Cow<'static, str>,
    sink: Option<Cow<'static, str>>,
    number: Cell<Option<u32>>,
}

impl Recipe {
    /// A recipe, as JSON.
    pub fn new(json: impl Into<Cow<'static, str>>) -> Self {
        Self { text: json.into(), sink: None, number: Cell::new(None) }
    }

    /// Messages go to the sink of this name, instead of the one that the routes give.
    pub fn to(mut self, sink: impl Into<Cow<'static, str>>) -> Self {
        self.sink = Some(sink.into());
        self
    }

    /// The name of the sink that messages go to, if it says one.
    pub(crate) fn sink(&self) -> Option<&Cow<'static, str>> {
        self.sink.as_ref()
    }

    /// The number by which the engine knows it; `None` if its text is not a recipe, so that the call will fail.
    pub(crate) fn number(&self) -> Option<u32> {
        self.number_by(host::add_recipe)
    }

    fn number_by(&self, add: impl FnOnce(&str) -> u32) -> Option<u32> {
        if self.number.get().is_none() {
            self.number.set(Some(add(&self.text)).filter(|&number| number != NOT_A_RECIPE));
        }
        self.number.get()
    }
}

/// A condition that the engine tests for all rows of a batch at once: an expression, as docs/expressions.md describes it.
///
/// ```ignore
/// Condition::new("changed_to(status, 'paid') and total >= 100")
/// ```
///
/// Made once and kept in the transform, it is asked by [`Row::holds`](crate::Row::holds). A text that is not a condition, or
/// that makes no sense for the table of a row, is an error of the batch.
#[derive(Debug)]
pub struct Condition {
    text: Cow<'static, str>,
    /// The number of the batch for which `rows` were selected.
    batch: Cell<Option<u64>>,
    /// The indexes of the rows, ascending.
    rows: RefCell<Vec<u32>>,
    /// The index in `rows` at which the last look-up ended.
    at: Cell<usize>,
}

impl Condition {
    /// A condition, as text.
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), batch: Cell::new(None), rows: RefCell::default(), at: Cell::new(0) }
    }

    /// Whether it holds for a row.
    pub(crate) fn holds(&self, batch: u64, row: u32) -> bool {
        self.holds_by(batch, row, query::select)
    }

    fn holds_by(&self, batch: u64, row: u32, select: impl FnOnce(&str) -> Vec<u32>) -> bool {
        if self.batch.get() != Some(batch) {
            self.rows.replace(select(&self.text));
            self.batch.set(Some(batch));
            self.at.set(0);
        }
        let rows = self.rows.borrow();
        // Rows are mostly asked about in their order.
        let mut at = self.at.get();
        if at > 0 && rows[at - 1] >= row {
            at = 0;
        }
        while rows.get(at).is_some_and(|&selected| selected < row) {
            at += 1;
        }
        self.at.set(at);
        rows.get(at) == Some(&row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_added_once_unless_it_is_refused() {
        let recipe = Recipe::new("{}");
        for _ in 0..2 {
            assert_eq!(recipe.number_by(|_| NOT_A_RECIPE), None);
        }
        assert_eq!(recipe.number_by(|_| 0), Some(0));
        assert_eq!(recipe.number_by(|_| unreachable!("added already")), Some(0));
    }

    #[test]
    fn a_condition_is_selected_once_for_each_batch() {
        let condition = Condition::new("id > 1");
        let holds = |batch, row, rows: &[u32]| condition.holds_by(batch, row, |_| rows.to_vec());
        for (row, expected) in
            [(0, false), (1, true), (2, false), (4, true), (4, true), (1, true), (0, false), (5, false)]
        {
            assert_eq!(holds(1, row, &[1, 4]), expected, "{row}");
        }
        assert!(holds(2, 0, &[0]) && !holds(2, 4, &[4]) && holds(3, 4, &[4]));
    }
}
