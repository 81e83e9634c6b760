//! Table patterns: `["shop.*", "!shop.audit_*"]`, in order, later wins.

use globset::{GlobBuilder, GlobMatcher};
use rowmill_core::binlog::Select;
use serde::{Deserialize, Deserializer, de::Error};

/// MySQL's own schemas: no pattern with a wildcard for the schema means them.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// What online schema changes call the tables that they work with, of gh-ost (`_orders_gho`) and of
/// pt-online-schema-change (`_orders_new`): names between an underscore and one of these.
const SCHEMA_CHANGE_ENDINGS: [&str; 5] = ["_gho", "_ghc", "_del", "_new", "_old"];

/// Which tables are meant. By default all but those of the system schemas and those that an online
/// schema change works with: these must be named without a wildcard.
#[derive(Debug, Clone, Default)]
pub struct TablePatterns {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    excludes: bool,
    /// The schema as it stands in the pattern.
    schema: String,
    /// The table as it stands in the pattern.
    table: String,
    glob: GlobMatcher,
    schema_glob: GlobMatcher,
}

impl std::fmt::Display for TablePatterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Pattern { excludes, schema, table, .. }) in self.patterns.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}{schema}.{table}", if *excludes { "!" } else { "" })?;
        }
        Ok(())
    }
}

impl TablePatterns {
    /// Reads patterns.
    ///
    /// # Errors
    /// If one isn't a pattern of schema and table.
    pub fn parse(patterns: &[String]) -> Result<Self, String> {
        let patterns = patterns.iter().map(|pattern| {
            let (excludes, glob) = pattern.strip_prefix('!').map_or((false, pattern.as_str()), |glob| (true, glob));
            let (schema, table) = glob.split_once('.').ok_or_else(|| {
                format!("`{pattern}` isn't a table pattern: write `schema.table`, with `*` for any characters")
            })?;
            let matcher = |glob: &str| {
                let glob = GlobBuilder::new(glob).build();
                let glob = glob.map_err(|error| format!("`{pattern}` isn't a table pattern: {}", error.kind()))?;
                Ok::<_, String>(glob.compile_matcher())
            };
            Ok(Pattern {
                excludes,
                schema: schema.to_owned(),
                table: table.to_owned(),
                glob: matcher(glob)?,
                schema_glob: matcher(schema)?,
            })
        });
        Ok(Self { patterns: patterns.collect::<Result<_, String>>()? })
    }

    /// Whether a table is meant.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        let is_system = SYSTEM_SCHEMAS.contains(&schema);
        // A list that only takes away begins with all.
        let begins_with_all = self.patterns.first().is_none_or(|first| first.excludes);
        let name = format!("{schema}.{table}");
        let of_table = |pattern: &&Pattern| {
            let means_system = pattern.excludes || pattern.schema == schema;
            (!is_system || means_system) && pattern.glob.is_match(&name)
        };
        match self.patterns.iter().rev().find(of_table) {
            Some(last) if last.table == table => !last.excludes,
            _ if is_of_schema_change(table) => false,
            Some(last) => !last.excludes,
            None => begins_with_all && !is_system,
        }
    }

    /// Whether any table of a schema may be meant.
    fn may_match(&self, schema: &str) -> bool {
        let is_system = SYSTEM_SCHEMAS.contains(&schema);
        for pattern in self.patterns.iter().rev().filter(|pattern| pattern.schema_glob.is_match(schema)) {
            match pattern.excludes {
                true if pattern.table == "*" => return false,
                true => {}
                false if is_system && pattern.schema != schema => {}
                false => return true,
            }
        }
        self.patterns.first().is_none_or(|first| first.excludes) && !is_system
    }
}

impl Select for TablePatterns {
    fn table(&self, schema: &str, table: &str) -> bool {
        self.matches(schema, table)
    }

    fn schema(&self, schema: &str) -> bool {
        self.may_match(schema)
    }
}

fn is_of_schema_change(table: &str) -> bool {
    table.starts_with('_')
        && SCHEMA_CHANGE_ENDINGS.iter().any(|ending| table.len() > ending.len() && table.ends_with(ending))
}

impl<'de> Deserialize<'de> for TablePatterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<String>::deserialize(deserializer)?;
        Self::parse(&patterns).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], schema: &str, table: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        TablePatterns::parse(&patterns).expect("patterns").matches(schema, table)
    }

    #[test]
    fn later_patterns_win() {
        assert!(matches(&["shop.*", "!shop.audit_*"], "shop", "orders"));
        assert!(!matches(&["shop.*", "!shop.audit_*"], "shop", "audit_log"));
        assert!(matches(&["shop.*", "!shop.audit_*", "shop.audit_log"], "shop", "audit_log"));
        assert!(!matches(&["shop.*"], "other", "orders"));
        assert!(matches(&["!shop.*"], "other", "orders"));
    }

    #[test]
    fn system_schemas_must_be_named() {
        assert!(matches(&[], "shop", "orders"));
        assert!(!matches(&[], "mysql", "user"));
        assert!(!matches(&["*.*"], "mysql", "user"));
        assert!(matches(&["mysql.user"], "mysql", "user"));
    }

    #[test]
    fn tables_of_schema_changes_must_be_named() {
        for table in
            ["_orders_gho", "_orders_ghc", "_orders_del", "_orders_new", "__orders_old", "_orders_20260101120000_del"]
        {
            assert!(!matches(&[], "shop", table) && !matches(&["shop.*"], "shop", table), "{table}");
        }
        assert!(matches(&["shop._orders_new"], "shop", "_orders_new"));
        assert!(matches(&["shop.*"], "shop", "orders_new") && matches(&["shop.*"], "shop", "_new"));
    }

    #[test]
    fn schemas_that_have_nothing_to_read() {
        let may = |patterns: &[&str], schema: &str| {
            let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            TablePatterns::parse(&patterns).expect("patterns").schema(schema)
        };
        assert!(may(&[], "shop") && !may(&[], "mysql"));
        assert!(may(&["shop.*"], "shop") && !may(&["shop.*"], "percona"));
        assert!(!may(&["!percona.*"], "percona") && may(&["!percona.heart*"], "percona"));
        assert!(may(&["!percona.*", "percona.orders"], "percona") && may(&["mysql.user"], "mysql"));
    }

    #[test]
    fn a_pattern_has_a_schema() {
        assert!(TablePatterns::parse(&["orders".to_owned()]).is_err());
    }
}
