//! Classifies statements that are logged as text by their meaning for the rows around them.
//!
//! DDL is never parsed: a statement is classified by its first words. Whether a statement is a whole transaction
//! follows from the events around it, never from its text.

use super::sql::{Dialect, SERVER_DIALECT, Token, Tokens};

/// The meaning of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Statement {
    /// The beginning of a transaction.
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
    /// `DELETE FROM` a whole table.
    DeleteAll,
    /// `CREATE TABLE`. Its rows, if any, follow in the same transaction; a statement that is a transaction of its own
    /// may insert rows itself: see [`creates_rows`].
    CreateTable,
    /// DDL of tables, indexes and schemas.
    Schema,
    /// Any other statement that changes no rows: other DDL, grants, the creation of temporary tables.
    Other,
}

impl Statement {
    /// Classifies a statement.
    pub fn of(text: &[u8], dialect: &Dialect) -> Self {
        let tokens = Tokens::new(text, dialect);
        let mut words = tokens.clone().filter(|token| !matches!(token, Token::Symbol(b'(' | b';')));
        let mut word = || match words.next() {
            Some(Token::Word(word)) => String::from_utf8_lossy(word).to_ascii_uppercase(),
            Some(_) => "?".to_owned(),
            None => String::new(),
        };
        let (first, second, third) = (word(), word(), word());
        match (first.as_str(), second.as_str(), third.as_str()) {
            ("BEGIN", ..) | ("START", "TRANSACTION", _) => Self::Begin,
            ("COMMIT", ..) => Self::Commit,
            ("ROLLBACK", "TO", "SAVEPOINT") => Self::RollbackTo(savepoint(text, 3)),
            ("ROLLBACK", "TO", _) => Self::RollbackTo(savepoint(text, 2)),
            ("ROLLBACK", ..) => Self::Rollback,
            ("SAVEPOINT", ..) => Self::Savepoint(savepoint(text, 1)),
            ("XA", "START" | "BEGIN", _) => Self::XaStart(xa_id(text)),
            ("XA", "END", _) => Self::XaEnd,
            ("XA", "COMMIT", _) => Self::XaCommit(xa_id(text)),
            ("XA", "ROLLBACK", _) => Self::XaRollback(xa_id(text)),
            ("DELETE", "FROM", _) if is_delete_of_all(tokens.clone()) => Self::DeleteAll,
            // MariaDB's `SET STATEMENT variable = value FOR statement`.
            ("SET", "STATEMENT", _) => {
                let mut tokens = tokens;
                match tokens.find(|token| token.is("FOR")) {
                    Some(_) => Self::of(tokens.rest(), dialect),
                    None => Self::Other,
                }
            }
            ("CREATE" | "ALTER" | "DROP" | "RENAME" | "TRUNCATE", ..) => definition(tokens),
            // MariaDB's `ANALYZE FORMAT = JSON UPDATE ...` runs the statement.
            ("ANALYZE", "TABLE" | "TABLES" | "LOCAL" | "NO_WRITE_TO_BINLOG", _) => Self::Other,
            (
                "" | "SET" | "GRANT" | "REVOKE" | "FLUSH" | "RESET" | "OPTIMIZE" | "REPAIR" | "CHECK" | "CHECKSUM"
                | "CACHE" | "INSTALL" | "UNINSTALL" | "LOCK" | "UNLOCK" | "USE" | "KILL" | "PURGE" | "CHANGE" | "START"
                | "STOP" | "IMPORT" | "PREPARE" | "DEALLOCATE" | "RELEASE" | "SHOW" | "DESCRIBE" | "DESC" | "HELP"
                | "SIGNAL" | "RESIGNAL" | "GET" | "BACKUP" | "CLONE" | "RESTART" | "SHUTDOWN",
                ..,
            ) => Self::Other,
            // INSERT, UPDATE, DELETE, REPLACE, LOAD, CALL, DO, SELECT, WITH, EXECUTE, and any unknown statement.
            _ => Self::Change,
        }
    }
}

/// Classifies DDL.
fn definition(tokens: Tokens<'_>) -> Statement {
    let (verb, object) = verb_and_object(tokens);
    match (verb.as_str(), object.as_str()) {
        ("CREATE", "TABLE" | "TABLES") => Statement::CreateTable,
        (_, "TABLE" | "TABLES" | "DATABASE" | "SCHEMA" | "INDEX") | ("TRUNCATE", _) => Statement::Schema,
        _ => Statement::Other,
    }
}

/// Returns a statement's verb and the type of its object in upper case, such as `CREATE` and `TABLE`; empty if there is
/// no word.
pub(super) fn verb_and_object(mut tokens: Tokens<'_>) -> (String, String) {
    let verb = tokens.keyword();
    loop {
        match tokens.keyword().as_str() {
            "OR" | "REPLACE" | "ONLINE" | "OFFLINE" | "IGNORE" | "UNIQUE" | "FULLTEXT" | "SPATIAL" | "VECTOR"
            | "EXTERNAL" => {}
            object => return (verb, object.to_owned()),
        }
    }
}

/// Whether a `CREATE TABLE` that is a transaction of its own inserts rows: it has a query, or copies another table.
/// Outside of quotes and comments the keywords of queries are reserved in both families, so each is a keyword unless a
/// dot precedes it.
pub(super) fn creates_rows(text: &[u8], dialect: &Dialect) -> bool {
    let mut tokens = Tokens::new(text, dialect).skip_while(|token| !token.is("TABLE"));
    let mut last = tokens.next();
    let mut tokens = tokens.peekable();
    while let Some(token) = tokens.next() {
        let is_name = last == Some(Token::Symbol(b'.'));
        // Partitions have `VALUES LESS THAN` and `VALUES IN`.
        let is_list = |next: &Token<'_>| next.is("ROW") || *next == Token::Symbol(b'(');
        let is_query =
            token.is("SELECT") || token.is("TABLE") || token.is("VALUES") && tokens.peek().is_some_and(is_list);
        if is_query && !is_name {
            return true;
        }
        last = Some(token);
    }
    false
}

/// Whether a `DELETE FROM` has nothing but the quoted name of a table with its schema. A server logs this statement
/// when a MEMORY table lost its rows with the server's process.
fn is_delete_of_all(tokens: Tokens<'_>) -> bool {
    let rest: Vec<_> = tokens.skip(2).take(4).collect();
    matches!(rest[..], [Token::Quoted(..), Token::Symbol(b'.'), Token::Quoted(..)])
}

/// Returns the name of a savepoint after the first `words` words. The server generates the text: in UTF-8, with quotes
/// where they are necessary.
fn savepoint(text: &[u8], words: usize) -> String {
    let mut tokens = Tokens::new(text, &SERVER_DIALECT);
    tokens.by_ref().take(words).for_each(drop);
    let rest = String::from_utf8_lossy(tokens.rest()).into_owned();
    tokens.next().and_then(|token| token.name(&SERVER_DIALECT)).unwrap_or(rest)
}

/// Returns the ID of an XA transaction after the first two words, as the server writes it: numbers, and strings in
/// hexadecimal.
fn xa_id(text: &[u8]) -> String {
    let mut tokens = Tokens::new(text, &SERVER_DIALECT);
    tokens.by_ref().take(2).for_each(drop);
    String::from_utf8_lossy(tokens.rest()).trim().trim_end_matches(';').trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::charset::Charset;
    use super::*;

    fn dialect(charset: &str) -> Dialect {
        Dialect { ansi_quotes: false, plain_backslashes: false, charset: Charset::by_name(charset) }
    }

    #[test]
    fn statements_are_known_by_their_first_words() {
        let text = |text: &str| text.to_owned();
        for (sql, expected) in [
            ("BEGIN", Statement::Begin),
            ("begin", Statement::Begin),
            ("START TRANSACTION READ WRITE", Statement::Begin),
            ("COMMIT", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("SAVEPOINT `A b`", Statement::Savepoint(text("A b"))),
            ("SAVEPOINT `a```", Statement::Savepoint(text("a`"))),
            ("SAVEPOINT \"a\"\"b`c\"", Statement::Savepoint(text("a\"b`c"))),
            ("SAVEPOINT abc", Statement::Savepoint(text("abc"))),
            ("SAVEPOINT `é€\\`", Statement::Savepoint(text("é€\\"))),
            ("ROLLBACK TO `A b`", Statement::RollbackTo(text("A b"))),
            ("rollback to savepoint x;", Statement::RollbackTo(text("x"))),
            ("XA START X'7831',X'',1", Statement::XaStart(text("x'7831',x'',1"))),
            ("XA END X'7831',X'',1", Statement::XaEnd),
            ("XA COMMIT X'7831',X'',1", Statement::XaCommit(text("x'7831',x'',1"))),
            ("XA ROLLBACK X'7831',X'',1", Statement::XaRollback(text("x'7831',x'',1"))),
            ("/* app */ -- why\n# so\nINSERT INTO t VALUES (1)", Statement::Change),
            ("--\tno\nCREATE VIEW v AS SELECT 1", Statement::Other),
            ("/*!50003 UPDATE t SET a = 1 */", Statement::Change),
            ("delete from t", Statement::Change),
            ("DELETE FROM `t`", Statement::Change),
            ("DELETE FROM `shop`.`t` WHERE a", Statement::Change),
            ("DELETE FROM `shop`.`t`", Statement::DeleteAll),
            ("DELETE FROM `shop`.`t` /* generated by server */", Statement::DeleteAll),
            ("LOAD DATA INFILE 'x' INTO TABLE t", Statement::Change),
            ("(SELECT f())", Statement::Change),
            ("MERGE INTO t", Statement::Change),
            ("ANALYZE FORMAT = JSON DELETE FROM t", Statement::Change),
            ("ANALYZE TABLE t", Statement::Other),
            ("CREATE TABLE t (a INT)\nSTART TRANSACTION", Statement::CreateTable),
            ("CREATE OR REPLACE TABLE t LIKE u", Statement::CreateTable),
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
            ("SET STATEMENT sql_mode = ' FOR ' FOR ALTER TABLE t FORCE", Statement::Schema),
            ("# Dummy event", Statement::Other),
            ("/* unfinished", Statement::Other),
            ("", Statement::Other),
        ] {
            assert_eq!(Statement::of(sql.as_bytes(), &dialect("utf8mb4")), expected, "{sql}");
        }
    }

    #[test]
    fn a_new_table_has_rows_if_it_has_a_query() {
        let plain = dialect("utf8mb4");
        let ansi = Dialect { ansi_quotes: true, ..dialect("utf8mb4") };
        let no_escapes = Dialect { plain_backslashes: true, ..dialect("utf8mb4") };
        let (cp932, gbk) = (dialect("cp932"), dialect("gbk"));
        for (sql, dialect, expected) in [
            (&b"CREATE TABLE l (start INT, transaction INT, KEY (start, transaction))"[..], &plain, false),
            (b"CREATE TABLE t (a INT DEFAULT 1 COMMENT 'SELECT it''s \\' SELECT')", &plain, false),
            (
                b"CREATE TABLE shop.select (`select` INT) PARTITION BY RANGE (a) (PARTITION p VALUES LESS THAN (1))",
                &plain,
                false,
            ),
            (b"CREATE TABLE t (a INT) PARTITION BY LIST (a) (PARTITION p VALUES IN (1))", &plain, false),
            (b"CREATE TABLE t (a INT) /* x */ AS (SELECT 1 AS a)", &plain, true),
            (b"CREATE TABLE t (a INT) /*!50000 SELECT 1 AS a */", &plain, true),
            (b"CREATE TABLE t (a INT) /* 99999 SELECT 1 AS a */", &plain, false),
            (b"CREATE TABLE IF NOT EXISTS t VALUES ROW(1)", &plain, true),
            (b"CREATE TABLE t VALUES (1), (2)", &plain, true),
            (b"CREATE TABLE t TABLE u", &plain, true),
            (b"CREATE TABLE t (a VARCHAR(9) DEFAULT '\\', q VARCHAR(9) DEFAULT ' table ')", &no_escapes, false),
            (b"CREATE TABLE t (a VARCHAR(9) DEFAULT '\\' SELECT ', b INT)", &plain, false),
            (b"CREATE TABLE t (a VARCHAR(9) DEFAULT '\\') SELECT 'b'", &no_escapes, true),
            (b"CREATE TABLE t (\"a\\\" INT) SELECT 1 AS \"b\"", &ansi, true),
            (b"CREATE TABLE t (\"a \"\" select\" INT)", &ansi, false),
            (b"CREATE TABLE k (id INT COMMENT '\x95\x5c') COMMENT='customer table'", &cp932, false),
            (b"CREATE TABLE k (id INT COMMENT '\x95\x5c') SELECT 'x' AS id", &cp932, true),
            (b"CREATE TABLE k (`\x81\x60` INT COMMENT '`') SELECT 1", &gbk, true),
            (b"CREATE TABLE k (`\x81\x60 select ` INT)", &gbk, false),
            (b"CREATE TABLE t LIKE u", &plain, false),
        ] {
            assert_eq!(creates_rows(sql, dialect), expected, "{}", sql.escape_ascii());
        }
    }
}
