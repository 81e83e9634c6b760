//! Values by table version.

use rowmill_batch::Table;

/// A map from the table versions of one generation to values. An entry for a table of another generation removes all
/// values of the former one, so that the map is bounded however many tables come and go.
#[derive(Debug, Clone)]
pub struct ByTable<T> {
    generation: u32,
    entries: Vec<Option<T>>,
}

impl<T> Default for ByTable<T> {
    fn default() -> Self {
        Self { generation: 0, entries: Vec::new() }
    }
}

impl<T> ByTable<T> {
    /// Returns a table's value, if there is one.
    #[inline]
    pub fn get(&self, table: &Table) -> Option<&T> {
        let entry = self.entries.get(table.id.0 as usize).filter(|_| self.generation == table.generation);
        entry?.as_ref()
    }

    /// Returns a table's entry, which is `None` if the table has no value yet.
    #[inline]
    pub fn entry(&mut self, table: &Table) -> &mut Option<T> {
        let index = table.id.0 as usize;
        if self.generation != table.generation || self.entries.len() <= index {
            self.make_room(table.generation, index);
        }
        &mut self.entries[index]
    }

    #[cold]
    fn make_room(&mut self, generation: u32, index: usize) {
        if self.generation != generation {
            *self = Self { generation, entries: Vec::new() };
        }
        if self.entries.len() <= index {
            self.entries.resize_with(index + 1, || None);
        }
    }

    /// Whether a table is of an earlier generation than the map.
    pub fn is_past(&self, table: &Table) -> bool {
        table.generation < self.generation
    }
}

#[cfg(test)]
mod tests {
    use rowmill_batch::TableId;

    use super::*;

    #[test]
    fn another_generation_has_other_tables() {
        let table = |generation, id| Table {
            id: TableId(id),
            generation,
            schema: "s".to_owned(),
            name: "t".to_owned(),
            columns: Vec::new(),
            key: Vec::new(),
        };
        let mut known = ByTable::default();
        *known.entry(&table(0, 3)) = Some("first");
        assert_eq!((known.get(&table(0, 3)), known.get(&table(0, 2))), (Some(&"first"), None));
        assert_eq!((known.get(&table(1, 3)), known.is_past(&table(0, 3))), (None, false));
        *known.entry(&table(1, 0)) = Some("second");
        assert_eq!((known.get(&table(1, 0)), known.get(&table(0, 3))), (Some(&"second"), None));
        assert_eq!(
            (known.entries.len(), known.is_past(&table(0, 3))),
            (1, true),
            "nothing of the first generation remains"
        );
    }
}
