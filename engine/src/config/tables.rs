//! Table patterns: `["shop.*", "!shop.audit_*"]`, in order, later wins.

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Deserializer, de::Error};

/// MySQL's own schemas: no pattern with a wildcard for the schema means them.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// Which tables are meant. By default all but those of the system schemas.
#[derive(Debug, Clone, Default)]
pub struct TablePatterns {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    excludes: bool,
    /// The schema as it stands in the pattern.
    schema: String,
    glob: GlobMatcher,
}

impl TablePatterns {
    fn parse(patterns: &[String]) -> Result<Self, String> {
        let patterns = patterns.iter().map(|pattern| {
            let (excludes, glob) = pattern.strip_prefix('!').map_or((false, pattern.as_str()), |glob| (true, glob));
            let (schema, _) = glob.split_once('.').ok_or_else(|| {
                format!("`{pattern}` isn't a table pattern: write `schema.table`, with `*` for any characters")
            })?;
            let matcher = GlobBuilder::new(glob)
                .build()
                .map_err(|error| format!("`{pattern}` isn't a table pattern: {}", error.kind()))?;
            Ok(Pattern { excludes, schema: schema.to_owned(), glob: matcher.compile_matcher() })
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
            Some(last) => !last.excludes,
            None => begins_with_all && !is_system,
        }
    }
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
    fn a_pattern_has_a_schema() {
        assert!(TablePatterns::parse(&["orders".to_owned()]).is_err());
    }
}
