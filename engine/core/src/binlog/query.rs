//! Query events: statements that are logged as text.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/classmysql_1_1binlog_1_1event_1_1Query__event.html>

use super::bytes::Bytes;
use super::charset::Charset;
use super::error::Fault;
use super::statement::Statement;

/// Status variables: the session's character sets (first the one of the statement's text), and the
/// schemas that it changed.
const CHARSET: u8 = 4;
const UPDATED_DB_NAMES: u8 = 12;

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

/// A statement that changed tables or schemas, or may have: what consumers are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaChange {
    /// The schema that it is about: where the event doesn't say, the session's own; `None` if it has none.
    pub schema: Option<String>,
    /// Its text, as it was sent.
    pub statement: String,
    /// The binlog file that it is in.
    pub file: String,
    /// Where its event begins.
    pub event_position: u64,
    /// Its transaction's GTID; empty where there are none.
    pub gtid: String,
    /// When it began, in microseconds since 1970.
    pub time_us: i64,
    /// When it was committed, in microseconds since 1970; 0 where the server doesn't say.
    pub commit_time_us: i64,
    /// The server that it ran on first.
    pub server_id: u32,
    /// The session in which it ran.
    pub thread_id: u32,
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
        Statement::of(&String::from_utf8_lossy(self.text))
    }

    /// The schemas whose tables the statement changed; `None` where the event doesn't say.
    pub fn changed_schemas(&self) -> Option<Vec<&'a str>> {
        const TOO_MANY: u8 = 254;
        let mut status = self.status_behind(UPDATED_DB_NAMES)?;
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
        Some(names)
    }

    /// The schema that the statement is about, as far as the event says.
    pub fn about(&self) -> Option<&'a str> {
        let changed = self.changed_schemas().and_then(|schemas| schemas.first().copied());
        let current = || std::str::from_utf8(self.schema).ok().filter(|schema| !schema.is_empty());
        changed.or_else(current)
    }

    /// The statement's text, from its session's character set. It is for people to read: what stands
    /// for nothing in that set is shown as U+FFFD.
    pub fn readable(&self) -> String {
        let collation = self.status_behind(CHARSET).and_then(|mut status| status.u16().ok());
        let mut text = Vec::new();
        match collation.map(|id| Charset::of_collation(id.into()).decode(self.text, &mut text)) {
            Some(Ok(())) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::from_utf8_lossy(self.text).into_owned(),
        }
    }

    /// The status variables from the value of one of them on.
    fn status_behind(&self, wanted: u8) -> Option<Bytes<'a>> {
        let mut status = Bytes(self.status);
        while !status.is_empty() {
            let code = status.u8().ok()?;
            if code == wanted {
                return Some(status);
            }
            let len = match code {
                0 | 3 | 10 => 4,
                1 | 9 | 17 => 8,
                2 => usize::from(status.u8().ok()?) + 1,
                5 | 6 => usize::from(status.u8().ok()?),
                CHARSET => 6,
                7 | 8 | 18 => 2,
                11 => {
                    let user = usize::from(status.u8().ok()?);
                    status.take(user).ok()?;
                    usize::from(status.u8().ok()?)
                }
                13 => 3,
                16 | 19 | 20 => 1,
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

#[cfg(test)]
mod tests {
    use super::*;

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
