//! What a statement that is logged as text means for the rows around it. DDL is never parsed: a
//! statement is classified by its first words.

/// What a statement means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// What follows is of one transaction, until it ends.
    Begin,
    Commit,
    Rollback,
    Savepoint(String),
    RollbackTo(String),
    XaStart(String),
    XaEnd,
    XaCommit(String),
    XaRollback(String),
    /// A change of rows that isn't logged as rows.
    Change,
    /// DDL whose rows follow in the same transaction: `CREATE TABLE ... SELECT`.
    CreateWithRows,
    /// DDL of tables, their indexes and schemas.
    Schema,
    /// What else changes no rows: other DDL, grants, the making of temporary tables.
    Other,
}

impl Statement {
    /// What a statement means.
    pub fn of(text: &str) -> Self {
        let mut words = Words(text);
        let (first, second, third) = (words.upper(), words.upper(), words.upper());
        // What stands behind the first `skip` words.
        let behind = |skip: usize| {
            let mut words = Words(text);
            words.by_ref().take(skip).for_each(drop);
            words.0.trim().trim_end_matches(';').trim()
        };
        match (first.as_str(), second.as_str(), third.as_str()) {
            ("BEGIN", ..) | ("START", "TRANSACTION", _) => Self::Begin,
            ("COMMIT", ..) => Self::Commit,
            ("ROLLBACK", "TO", "SAVEPOINT") => Self::RollbackTo(savepoint(behind(3))),
            ("ROLLBACK", "TO", _) => Self::RollbackTo(savepoint(behind(2))),
            ("ROLLBACK", ..) => Self::Rollback,
            ("SAVEPOINT", ..) => Self::Savepoint(savepoint(behind(1))),
            ("XA", "START" | "BEGIN", _) => Self::XaStart(behind(2).to_ascii_lowercase()),
            ("XA", "END", _) => Self::XaEnd,
            ("XA", "COMMIT", _) => Self::XaCommit(behind(2).to_ascii_lowercase()),
            ("XA", "ROLLBACK", _) => Self::XaRollback(behind(2).to_ascii_lowercase()),
            (
                "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "CALL" | "DO" | "SELECT" | "WITH" | "EXECUTE",
                ..,
            ) => Self::Change,
            // MariaDB's `SET STATEMENT variable = value FOR statement`.
            ("SET", "STATEMENT", _) => {
                let mut words = Words(text);
                let behind = words.find(|word| word.eq_ignore_ascii_case("FOR")).map(|_| words.0);
                behind.map_or(Self::Other, Self::of)
            }
            ("CREATE" | "ALTER" | "DROP" | "RENAME" | "TRUNCATE", ..) => {
                let mut words = Words(text);
                words.next();
                definition(&first, words)
            }
            _ => Self::Other,
        }
    }
}

/// What DDL means; `words` are those behind its verb.
fn definition(verb: &str, mut words: Words<'_>) -> Statement {
    loop {
        match words.upper().as_str() {
            "TABLE" | "TABLES" if verb == "CREATE" => return creation(words),
            "TABLE" | "TABLES" | "DATABASE" | "SCHEMA" | "INDEX" => return Statement::Schema,
            "OR" | "REPLACE" | "ONLINE" | "OFFLINE" | "IGNORE" | "UNIQUE" | "FULLTEXT" | "SPATIAL" | "VECTOR" => {}
            _ if verb == "TRUNCATE" => return Statement::Schema,
            _ => return Statement::Other,
        }
    }
}

/// What `CREATE TABLE` means: its rows may follow, or be made by the statement itself.
fn creation(mut words: Words<'_>) -> Statement {
    let (mut word, mut last) = (words.upper(), String::new());
    while !word.is_empty() {
        let next = words.upper();
        match (word.as_str(), next.as_str()) {
            ("START", "TRANSACTION") => return Statement::CreateWithRows,
            ("SELECT" | "TABLE", _) | ("VALUES", "ROW") if last != "." => return Statement::Change,
            _ => {}
        }
        (last, word) = (word, next);
    }
    Statement::Schema
}

/// The words of a statement, one after another, and its dots; of what is quoted just the quotation
/// mark. Other punctuation and comments are passed over.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
        loop {
            let rest = without_comments(self.0);
            let first = rest.chars().next();
            let (word_len, len) = match first {
                None => (0, 0),
                Some('.') => (1, 1),
                Some(quote @ ('`' | '\'' | '"')) => (1, quoted_len(rest, quote)),
                Some(c) if is_of_word(c) => {
                    let len = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                    (len, len)
                }
                Some(c) => (0, c.len_utf8()),
            };
            self.0 = &rest[len..];
            if first.is_none() || word_len > 0 {
                return first.map(|_| &rest[..word_len]);
            }
        }
    }
}

impl Words<'_> {
    /// The next one in upper case; empty behind the last.
    fn upper(&mut self) -> String {
        self.next().unwrap_or_default().to_ascii_uppercase()
    }
}

/// How long the quoted text is that `text` begins with, with its marks.
fn quoted_len(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' if quote != '`' => drop(characters.next()),
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The names of savepoints are compared without their case and quotes.
fn savepoint(name: &str) -> String {
    name.trim_matches('`').to_lowercase()
}

/// The text behind the comments that it begins with; of those that are executed, what they say.
fn without_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        // What stands in `/*! ... */` is executed.
        let executed = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!"));
        rest = if let Some(behind) = executed {
            behind.trim_start_matches(|c: char| c.is_ascii_digit())
        } else if let Some(behind) = rest.strip_prefix("/*") {
            behind.split_once("*/").map_or("", |(_, rest)| rest)
        } else if let Some(behind) = rest.strip_prefix("*/") {
            behind // the end of an executed one
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            rest.split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            return rest;
        }
        .trim_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_known_by_their_first_words() {
        let text = |text: &str| text.to_owned();
        for (sql, expected) in [
            ("BEGIN", Statement::Begin),
            ("begin", Statement::Begin),
            ("START TRANSACTION READ WRITE", Statement::Begin),
            ("COMMIT", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("SAVEPOINT `A b`", Statement::Savepoint(text("a b"))),
            ("ROLLBACK TO `A b`", Statement::RollbackTo(text("a b"))),
            ("rollback to savepoint x;", Statement::RollbackTo(text("x"))),
            ("XA START X'7831',X'',1", Statement::XaStart(text("x'7831',x'',1"))),
            ("XA END X'7831',X'',1", Statement::XaEnd),
            ("XA COMMIT X'7831',X'',1", Statement::XaCommit(text("x'7831',x'',1"))),
            ("XA ROLLBACK X'7831',X'',1", Statement::XaRollback(text("x'7831',x'',1"))),
            ("/* app */ -- why\n# so\nINSERT INTO t VALUES (1)", Statement::Change),
            ("/*!50003 UPDATE t SET a = 1 */", Statement::Change),
            ("delete from t", Statement::Change),
            ("LOAD DATA INFILE 'x' INTO TABLE t", Statement::Change),
            ("(SELECT f())", Statement::Change),
            ("CREATE TABLE t (a INT)\nSTART TRANSACTION", Statement::CreateWithRows),
            ("CREATE TABLE t (a INT DEFAULT 1 COMMENT 'SELECT it''s \\' SELECT')", Statement::Schema),
            (
                "CREATE TABLE shop.select (`select` INT) PARTITION BY RANGE (`select`) (PARTITION p VALUES LESS THAN (1))",
                Statement::Schema,
            ),
            ("CREATE OR REPLACE TABLE t LIKE u", Statement::Schema),
            ("CREATE TABLE t (a INT) /* x */ AS (SELECT 1 AS a)", Statement::Change),
            ("CREATE TABLE IF NOT EXISTS t VALUES ROW(1)", Statement::Change),
            ("CREATE TEMPORARY TABLE t SELECT 1", Statement::Other),
            ("DROP TABLE `insert`", Statement::Schema),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `t`", Statement::Other),
            ("alter/**/online\ttable t ADD a INT", Statement::Schema),
            ("CREATE UNIQUE INDEX i ON t (a)", Statement::Schema),
            ("RENAME TABLES a TO b", Statement::Schema),
            ("TRUNCATE `t`", Statement::Schema),
            ("DROP DATABASE shop", Statement::Schema),
            ("CREATE USER u IDENTIFIED BY 'x'", Statement::Other),
            ("CREATE VIEW v AS SELECT 1", Statement::Other),
            ("SET STATEMENT max_statement_time = 1 FOR DELETE FROM t", Statement::Change),
            ("SET STATEMENT max_statement_time = 1 FOR ALTER TABLE t FORCE", Statement::Schema),
            ("/* unfinished", Statement::Other),
            ("", Statement::Other),
        ] {
            assert_eq!(Statement::of(sql), expected, "{sql}");
        }
    }
}
