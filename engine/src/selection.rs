//! Selects what the source decodes: the rows of the selected tables, and of these rows the columns of the projection,
//! which the transforms need to decide on them.

use std::sync::{Arc, Mutex, PoisonError};

use rowmill_core::ByTable;
use rowmill_core::batch::Table;
use rowmill_core::binlog::{TableProjection, TableSelector};

use crate::config::TablePatterns;
use crate::transform::CurrentChain;

/// The selected tables, and the transforms that their rows pass through.
#[derive(Debug)]
pub struct Selection {
    tables: TablePatterns,
    chain: CurrentChain,
    answers: Arc<Mutex<Answers>>,
}

/// The projections that the transforms of a chain need of tables, as far as the transforms were asked.
#[derive(Debug, Default)]
struct Answers {
    /// The chain's version.
    version: u64,
    /// `None` while the transforms are asked.
    by_table: ByTable<Option<TableProjection>>,
}

impl Selection {
    /// Selects tables for the transforms of a chain.
    pub fn new(tables: TablePatterns, chain: CurrentChain) -> Self {
        Self { tables, chain, answers: Arc::default() }
    }
}

impl TableSelector for Selection {
    fn table(&self, schema: &str, table: &str) -> bool {
        self.tables.table(schema, table)
    }

    fn schema(&self, schema: &str) -> bool {
        self.tables.schema(schema)
    }

    /// Returns a table's projection; `None` while the transforms are asked. They are asked on another thread, since they may
    /// take long, and the source must go on reading.
    fn projection(&self, table: &Table) -> Option<TableProjection> {
        let chain = self.chain.newest();
        if chain.is_empty() {
            return Some(TableProjection::default());
        }
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.version != chain.version() {
            *answers = Answers { version: chain.version(), by_table: ByTable::default() };
        }
        if let Some(answer) = answers.by_table.get(table) {
            return answer.clone();
        }
        *answers.by_table.entry(table) = Some(None);
        let (table, answers) = (table.clone(), Arc::clone(&self.answers));
        tokio::task::spawn_blocking(move || {
            let projection = chain.projection(&table);
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.version == chain.version() && !answers.by_table.is_past(&table) {
                *answers.by_table.entry(&table) = Some(Some(projection));
            }
        });
        None
    }

    fn version(&self) -> u64 {
        self.chain.newest().version()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rowmill_core::batch::TableId;

    use super::*;
    use crate::transform::Chain;
    use crate::transform::fake::FakeTransform;

    /// A transform that takes long to answer does not block the thread that reads.
    #[tokio::test]
    async fn transforms_are_asked_on_another_thread() {
        let slow = FakeTransform::slow(Duration::from_millis(300));
        let chain = CurrentChain::of(Chain::of(vec![slow]));
        let selection = Selection::new(TablePatterns::default(), chain);
        let table =
            Table { id: TableId(3), generation: 0, schema: "s".into(), name: "t".into(), columns: vec![], key: vec![] };
        let asked = std::time::Instant::now();
        assert!(selection.projection(&table).is_none() && selection.projection(&table).is_none());
        assert!(asked.elapsed() < Duration::from_millis(200), "the caller was blocked");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(selection.projection(&table).is_some());
    }
}
