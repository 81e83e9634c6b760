//! Query events: what a statement that is logged as text means for the rows around it. DDL is never
//! parsed: a statement is classified by its first words.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Query__event.html>

use super::bytes::Bytes;
use super::error::Fault;

/// A query event, taken apart.
#[derive(Debug)]
pub(super) struct Query<'a> {
    /// The session in which it ran.
    pub thread_id: u32,
    status: &'a [u8],
    schema: &'a [u8],
    /// The statement's text.
    pub text: &'a [u8],
}

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
    /// DDL and what else changes no rows.
    Other,
}

impl<'a> Query<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, Fault> {
        let mut bytes = Bytes(body);
        let thread_id = bytes.u32()?;
        bytes.u32()?; // execution time
        let schema_len = usize::from(bytes.u8()?);
        bytes.u16()?; // error code
        let status_len = usize::from(bytes.u16()?);
        let status = bytes.take(status_len)?;
        let schema = bytes.take(schema_len)?;
        bytes.take(1)?; // a zero byte
        Ok(Self { thread_id, status, schema, text: bytes.0 })
    }

    /// The statement's text with its event unpacked, of MariaDB's compressed kind.
    pub fn with_text(self, text: &'a [u8]) -> Self {
        Self { text, ..self }
    }

    pub fn statement(&self) -> Statement {
        // Most are BEGIN and COMMIT.
        match self.text {
            b"BEGIN" => return Statement::Begin,
            b"COMMIT" => return Statement::Commit,
            _ => {}
        }
        statement(&String::from_utf8_lossy(self.text))
    }

    /// The schemas whose tables the statement changed; `None` where the event doesn't say.
    pub fn changed_schemas(&self) -> Option<Vec<&'a str>> {
        const UPDATED_DB_NAMES: u8 = 12;
        const TOO_MANY: u8 = 254;
        let mut status = Bytes(self.status);
        while !status.is_empty() {
            let code = status.u8().ok()?;
            let len = match code {
                0 | 3 | 10 => 4,
                1 | 9 | 17 => 8,
                2 => usize::from(status.u8().ok()?) + 1,
                5 | 6 => usize::from(status.u8().ok()?),
                4 => 6,
                7 | 8 | 18 => 2,
                11 => {
                    let user = usize::from(status.u8().ok()?);
                    status.take(user).ok()?;
                    usize::from(status.u8().ok()?)
                }
                13 => 3,
                16 | 19 | 20 => 1,
                UPDATED_DB_NAMES => {
                    let count = status.u8().ok()?;
                    if count == TOO_MANY {
                        return None;
                    }
                    let mut names = Vec::new();
                    for _ in 0..count {
                        let end = status.0.iter().position(|&byte| byte == 0)?;
                        let name = status.take(end).ok()?;
                        status.take(1).ok()?;
                        names.push(std::str::from_utf8(name).ok()?);
                    }
                    return Some(names);
                }
                _ => return None,
            };
            status.take(len).ok()?;
        }
        None
    }

    /// The statement as an error shows it.
    pub fn shown(&self) -> String {
        let text: String = String::from_utf8_lossy(self.text).chars().take(200).collect();
        match std::str::from_utf8(self.schema) {
            Ok(schema) if !schema.is_empty() => format!("{text}` in schema `{schema}"),
            _ => text,
        }
    }
}

fn statement(text: &str) -> Statement {
    let text = without_comments(text);
    let mut words =
        text.split(|c: char| c.is_ascii_whitespace() || c == ';' || c == '(').filter(|word| !word.is_empty());
    let mut word = || words.next().unwrap_or_default().to_ascii_uppercase();
    let (first, second, third) = (word(), word(), word());
    // What stands behind the first `skip` words.
    let behind = |skip: usize| {
        let mut rest = text;
        for _ in 0..skip {
            rest = rest.trim_start();
            rest = &rest[rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len())..];
        }
        rest.trim().trim_end_matches(';').trim().to_owned()
    };
    match (first.as_str(), second.as_str(), third.as_str()) {
        ("BEGIN", ..) | ("START", "TRANSACTION", _) => Statement::Begin,
        ("COMMIT", ..) => Statement::Commit,
        ("ROLLBACK", "TO", "SAVEPOINT") => Statement::RollbackTo(savepoint(&behind(3))),
        ("ROLLBACK", "TO", _) => Statement::RollbackTo(savepoint(&behind(2))),
        ("ROLLBACK", ..) => Statement::Rollback,
        ("SAVEPOINT", ..) => Statement::Savepoint(savepoint(&behind(1))),
        ("XA", "START" | "BEGIN", _) => Statement::XaStart(behind(2).to_ascii_lowercase()),
        ("XA", "END", _) => Statement::XaEnd,
        ("XA", "COMMIT", _) => Statement::XaCommit(behind(2).to_ascii_lowercase()),
        ("XA", "ROLLBACK", _) => Statement::XaRollback(behind(2).to_ascii_lowercase()),
        ("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "CALL" | "DO" | "SELECT" | "WITH" | "EXECUTE", ..) => {
            Statement::Change
        }
        ("CREATE", ..) if text.trim_end().to_ascii_uppercase().ends_with("START TRANSACTION") => {
            Statement::CreateWithRows
        }
        _ => Statement::Other,
    }
}

/// The names of savepoints are compared without their case and quotes.
fn savepoint(name: &str) -> String {
    name.trim_matches('`').to_lowercase()
}

/// The text behind the comments that it begins with.
fn without_comments(text: &str) -> &str {
    let mut rest = text.trim_start();
    loop {
        // What stands in `/*! ... */` is executed.
        let executed = rest.strip_prefix("/*!").or_else(|| rest.strip_prefix("/*M!"));
        rest = if let Some(behind) = executed {
            behind.trim_start_matches(|c: char| c.is_ascii_digit())
        } else if let Some(behind) = rest.strip_prefix("/*") {
            behind.split_once("*/").map_or("", |(_, rest)| rest)
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
            ("CREATE TABLE t (a INT)", Statement::Other),
            ("DROP TABLE `insert`", Statement::Other),
            ("/* unfinished", Statement::Other),
            ("", Statement::Other),
        ] {
            assert_eq!(statement(sql), expected, "{sql}");
        }
    }

    #[test]
    fn the_changed_schemas_are_named() {
        let status = [&[0, 1, 2, 3, 4, 4, 1, 2, 3, 4, 5, 6, 12, 2][..], b"shop\0percona\0", &[13, 1, 2, 3]].concat();
        let mut body = vec![9, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0];
        body.extend((status.len() as u16).to_le_bytes());
        body.extend(&status);
        body.extend(b"shop\0INSERT INTO t VALUES (1)");
        let query = Query::parse(&body).expect("a query");
        assert_eq!((query.thread_id, query.changed_schemas()), (9, Some(vec!["shop", "percona"])));
        assert_eq!(query.statement(), Statement::Change);
        assert!(query.shown().contains("INSERT INTO t VALUES (1)` in schema `shop"));
        assert!(Query::parse(&body[..20]).is_err());
    }
}
