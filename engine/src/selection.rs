//! What the source decodes: the rows of the tables that its user selected, and of these the columns by which
//! the transforms decide on them.

use rowmill_core::batch::Table;
use rowmill_core::binlog::{Needs, Select};

use crate::config::TablePatterns;
use crate::transform::CurrentChain;

/// The tables that are read, and the transforms that their rows pass through.
#[derive(Debug)]
pub struct Selection {
    /// The tables.
    pub tables: TablePatterns,
    /// The transforms.
    pub chain: CurrentChain,
}

impl Select for Selection {
    fn table(&self, schema: &str, table: &str) -> bool {
        self.tables.table(schema, table)
    }

    fn schema(&self, schema: &str) -> bool {
        self.tables.schema(schema)
    }

    fn needs(&self, table: &Table) -> Needs {
        self.chain.newest().needs(table)
    }

    fn version(&self) -> u64 {
        self.chain.newest().version()
    }
}
