//! Statements that may change columns, and the tables concerned.

use super::sql::{SERVER_DIALECT, Tokens};
use super::statement;

/// The most characters of a statement that an error shows.
const SHOWN_CHARS: usize = 200;

/// A statement that may have changed the columns of tables that it names, or of a schema that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Altered {
    /// The statement in lower case.
    statement: String,
    /// The statement's beginning, for errors.
    shown: String,
    /// The schemas that the statement concerns, in lower case; empty if unknown.
    schemas: Vec<String>,
    is_of_schema: bool,
    /// Whether the statement creates or drops an index: columns keep their names, and MariaDB may add hidden ones.
    is_of_index: bool,
}

impl Altered {
    /// Creates the record of a statement; `None` if the statement changes no columns. `schemas` are those that the
    /// statement's event lists.
    pub(super) fn by(statement: &str, schemas: Option<Vec<&str>>) -> Option<Self> {
        let (verb, object) = verb_and_object(statement);
        if !matches!(verb.as_str(), "CREATE" | "ALTER" | "DROP" | "RENAME") {
            return None;
        }
        let (is_of_schema, is_of_index) = match object.as_str() {
            "TABLE" | "TABLES" => (false, false),
            "DATABASE" | "SCHEMA" => (true, false),
            "INDEX" => (false, true),
            _ => return None,
        };
        let schemas = schemas.unwrap_or_default().into_iter().map(str::to_lowercase).collect();
        let shown = statement.chars().take(SHOWN_CHARS).collect();
        Some(Self { statement: statement.to_lowercase(), shown, schemas, is_of_schema, is_of_index })
    }

    /// Creates the record of a statement of which only the text is known; `None` if the statement changes no columns.
    pub fn of_statement(statement: &str) -> Option<Self> {
        Self::by(statement, None)
    }

    /// Returns the statement's beginning, for errors.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the memory that the record takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.statement.len() + self.shown.len()
    }

    /// Whether the statement may have changed a table's columns.
    pub fn may_be(&self, schema: &str, table: &str) -> bool {
        let is_about = self.schemas.is_empty() || self.schemas.contains(&schema.to_lowercase());
        is_about && self.has_name(if self.is_of_schema { schema } else { table })
    }

    /// Whether the statement may have renamed a table's columns or changed its primary key, which a table map without
    /// full metadata doesn't show.
    pub fn may_rename(&self, schema: &str, table: &str) -> bool {
        // Of the statements about indexes, `DROP INDEX PRIMARY` alone changes the primary key.
        (!self.is_of_index || self.has_name("primary")) && self.may_be(schema, table)
    }

    /// Whether the statement has a name, or may have it: invalid text could be any name.
    fn has_name(&self, name: &str) -> bool {
        let (statement, name) = (&self.statement, name.to_lowercase());
        let is_of_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        let has = |name: &str| {
            statement.match_indices(name).any(|(at, _)| {
                let (before, after) =
                    (statement[..at].chars().next_back(), statement[at + name.len()..].chars().next());
                !before.is_some_and(is_of_name) && !after.is_some_and(is_of_name)
            })
        };
        // Unquoted, and as it is written within backticks and double quotes.
        has(&name)
            || name.contains('`') && has(&name.replace('`', "``"))
            || name.contains('"') && has(&name.replace('"', "\"\""))
            || statement.contains(char::REPLACEMENT_CHARACTER)
    }
}

/// Returns a statement's verb and the type of its object, neither of which depends on the session's quotes.
fn verb_and_object(statement: &str) -> (String, String) {
    let mut tokens = Tokens::new(statement.as_bytes(), &SERVER_DIALECT);
    let words = statement::verb_and_object(tokens.clone());
    // MariaDB's `SET STATEMENT variable = value FOR statement`.
    let is_set = words.0 == "SET" && words.1 == "STATEMENT";
    match is_set && tokens.find(|token| token.is("FOR")).is_some() {
        true => statement::verb_and_object(Tokens::new(tokens.rest(), &SERVER_DIALECT)),
        false => words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_that_name_a_table_may_change_it() {
        let by = |statement: &str| Altered::by(statement, None);
        for (statement, alters, renames) in [
            ("ALTER TABLE `Orders` RENAME COLUMN a TO b", true, true),
            ("/* x */ rename table old to orders", true, true),
            ("/* index */ ALTER TABLE orders CHANGE a b INT", true, true),
            ("/* database */ ALTER TABLE orders CHANGE a b INT", true, true),
            ("/*!50000 ALTER*/ TABLE orders CHANGE a b INT", true, true),
            ("SET STATEMENT max_statement_time = 1 FOR ALTER TABLE orders CHANGE a b INT", true, true),
            ("SET STATEMENT max_statement_time = 1 FOR DROP DATABASE shop", true, true),
            ("CREATE OR REPLACE TABLE orders SELECT 1", true, true),
            ("DROP TABLE lines, orders", true, true),
            ("CREATE TABLE lines (a INT)", false, false),
            ("ALTER TABLE orders_2 ADD a INT", false, false),
            ("ALTER TABLE shop.orders ADD a INT", true, true),
            ("ALTER TABLE `\u{fffd}` ADD a INT", true, true),
            ("TRUNCATE orders", false, false),
            ("/* x */ TRUNCATE orders", false, false),
            ("CREATE INDEX i ON orders (a)", true, false),
            ("CREATE UNIQUE INDEX i ON orders (a)", true, false),
            ("DROP INDEX i ON orders", true, false),
            ("DROP INDEX `PRIMARY` ON orders", true, true),
            ("CREATE TRIGGER t BEFORE INSERT ON orders FOR EACH ROW SET @a = 1", false, false),
            ("GRANT SELECT ON orders TO u", false, false),
            ("OPTIMIZE TABLE orders", false, false),
            ("CREATE VIEW v AS SELECT * FROM orders", false, false),
            ("DROP DATABASE shop", true, true),
            ("DROP SCHEMA IF EXISTS shop", true, true),
            ("ALTER SCHEMA other READ ONLY = 1", false, false),
        ] {
            let found = by(statement)
                .map_or((false, false), |by| (by.may_be("shop", "orders"), by.may_rename("shop", "orders")));
            assert_eq!(found, (alters, renames), "{statement}");
        }
        let may_be = |statement, table| by(statement).is_some_and(|by| by.may_be("shop", table));
        assert!(may_be("ALTER TABLE `a``b` ADD c INT", "a`b"));
        assert!(may_be("ALTER TABLE \"a`b\"\"\" ADD c INT", "a`b\""));
        assert!(may_be("ALTER TABLE \"a`b\" ADD c INT", "a`b"));
        let of = |schemas| Altered::by("ALTER TABLE orders ADD c INT", schemas).expect("it alters");
        assert!(of(Some(vec!["other", "Shop"])).may_be("shop", "orders") && of(Some(vec![])).may_be("shop", "orders"));
        assert!(!of(Some(vec!["other"])).may_be("shop", "orders"));
    }
}
