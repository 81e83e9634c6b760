//! Finds the schemas whose rows a statement changes, from the statement's text: MariaDB's events don't list them.
//!
//! The result is certain or unknown: a statement of a form that isn't recognized here, or one that calls what may be a
//! stored function, may change anything. Triggers, views and cascades of the named tables don't show in the text.

use super::sql::{Dialect, Token, Tokens};

/// The schemas whose rows a statement changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Targets {
    /// Only rows of tables of these schemas.
    Schemas(Vec<String>),
    /// Maybe rows of any schema.
    Unknown,
}

/// A name in its parts, such as `schema.table`.
struct Name<'a> {
    first: Token<'a>,
    parts: usize,
    last: Token<'a>,
    /// The index of the token after the name.
    end: usize,
}

/// A token, and whether the next one directly follows it.
type Placed<'a> = (Token<'a>, bool);

/// Returns the schemas whose rows a statement changes. `default` is the session's schema, empty if it has none.
pub(super) fn schemas(text: &[u8], dialect: &Dialect, default: &str) -> Targets {
    let mut rest = Tokens::new(text, dialect);
    let mut tokens = Vec::new();
    while let Some(token) = rest.next() {
        tokens.push((token, rest.is_adjacent()));
    }
    // MariaDB's `SET STATEMENT variable = value FOR statement`.
    if is_at(&tokens, 0, "SET") && is_at(&tokens, 1, "STATEMENT") {
        let begin = tokens.iter().position(|(token, _)| token.is("FOR"));
        tokens.drain(..begin.map_or(tokens.len(), |at| at + 1));
    }
    named(&tokens).and_then(|names| resolve(&names, dialect, default)).map_or(Targets::Unknown, Targets::Schemas)
}

fn is_at(tokens: &[Placed<'_>], at: usize, keyword: &str) -> bool {
    tokens.get(at).is_some_and(|(token, _)| token.is(keyword))
}

/// Returns the tables that the statement changes, and maybe others; `None` if they are unknown.
fn named<'a>(tokens: &[Placed<'a>]) -> Option<Vec<Name<'a>>> {
    let is = |at: usize, keywords: &[&str]| keywords.iter().any(|keyword| is_at(tokens, at, keyword));
    let skip = |mut at: usize, keywords: &[&str]| {
        while is(at, keywords) {
            at += 1;
        }
        at
    };
    // The changed table, and the index at which the column list of an INSERT may begin, which looks like a function's
    // arguments.
    let (names, columns) = if is(0, &["INSERT", "REPLACE"]) {
        let target = name(tokens, skip(1, &["LOW_PRIORITY", "DELAYED", "HIGH_PRIORITY", "IGNORE", "INTO"]))?;
        let end = target.end;
        (vec![target], Some(end))
    } else if is(0, &["UPDATE"]) {
        let target = name(tokens, skip(1, &["LOW_PRIORITY", "IGNORE"]))?;
        // Of several tables it is unknown which ones are changed.
        if !is(target.end, &["SET"]) {
            return None;
        }
        (vec![target], None)
    } else if is(0, &["DELETE"]) {
        let from = skip(1, &["LOW_PRIORITY", "QUICK", "IGNORE", "HISTORY"]);
        let target = name(tokens, from + 1).filter(|_| is(from, &["FROM"]))?;
        let is_single = target.end == tokens.len()
            || tokens.get(target.end).is_some_and(|(token, _)| *token == Token::Symbol(b';'))
            || is(target.end, &["WHERE", "ORDER", "LIMIT", "RETURNING", "BEFORE", "FOR"]);
        if !is_single {
            return None;
        }
        (vec![target], None)
    } else if is(0, &["CREATE"]) {
        let table = skip(1, &["OR", "REPLACE"]);
        let target = name(tokens, skip(table + 1, &["IF", "NOT", "EXISTS"])).filter(|_| is(table, &["TABLE"]))?;
        let end = target.end;
        (vec![target], Some(end))
    } else {
        return None;
    };
    (!may_call(tokens, columns)).then_some(names)
}

/// Returns the name that begins at the token `at`.
fn name<'a>(tokens: &[Placed<'a>], at: usize) -> Option<Name<'a>> {
    let is_part = |token: &Token<'_>| matches!(token, Token::Word(_) | Token::Quoted(..));
    let first = tokens.get(at).map(|(token, _)| *token).filter(is_part)?;
    let mut name = Name { first, parts: 1, last: first, end: at + 1 };
    while let [(Token::Symbol(b'.'), _), (part, _), ..] = &tokens[name.end..] {
        name = Name { parts: name.parts + 1, last: Some(*part).filter(is_part)?, end: name.end + 2, ..name };
    }
    (name.parts <= 2).then_some(name)
}

/// Whether the statement calls what may be a stored function, or takes a value from a sequence, which changes the
/// sequence. `columns` is the index at which a list of columns may begin.
fn may_call(tokens: &[Placed<'_>], columns: Option<usize>) -> bool {
    tokens.iter().enumerate().any(|(at, (token, is_adjacent))| {
        let is_before = |symbol: u8| matches!(tokens.get(at + 1), Some((Token::Symbol(found), _)) if *found == symbol);
        if token.is("NEXT") && is_at(tokens, at + 1, "VALUE") || token.is("NEXTVAL") || token.is("SETVAL") {
            return true;
        }
        if !is_before(b'(') || columns == Some(at + 1) {
            return false;
        }
        match token {
            Token::Word(word) => {
                let is_qualified = at > 0 && tokens[at - 1].0 == Token::Symbol(b'.');
                let is_one_of = |list: &[&str]| list.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
                is_qualified || !(is_one_of(KEYWORDS) || *is_adjacent && is_one_of(FUNCTIONS))
            }
            Token::Quoted(..) => true,
            Token::Text | Token::Symbol(_) => false,
        }
    })
}

/// Returns the schemas of names; `None` if one of them is unknown.
fn resolve(names: &[Name<'_>], dialect: &Dialect, default: &str) -> Option<Vec<String>> {
    let schema = |name: &Name<'_>| {
        name.last.name(dialect)?;
        let schema = if name.parts == 1 { default.to_owned() } else { name.first.name(dialect)? };
        Some(schema).filter(|schema| !schema.is_empty())
    };
    names.iter().map(schema).collect()
}

/// The keywords that a parenthesis may follow and that aren't functions.
const KEYWORDS: &[&str] = &[
    "ALL",
    "AND",
    "ANY",
    "AS",
    "BETWEEN",
    "BINARY",
    "BY",
    "CASE",
    "CHAR",
    "CHARACTER",
    "CHECK",
    "DATETIME",
    "DECIMAL",
    "DISTINCT",
    "DIV",
    "ELSE",
    "EXCEPT",
    "EXISTS",
    "FROM",
    "HAVING",
    "IN",
    "INT",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "KEY",
    "LIKE",
    "LIMIT",
    "MOD",
    "NOT",
    "ON",
    "OR",
    "RETURNING",
    "SELECT",
    "SET",
    "SOME",
    "THEN",
    "UNION",
    "USING",
    "VALUE",
    "VALUES",
    "VARBINARY",
    "VARCHAR",
    "WHEN",
    "WHERE",
    "XOR",
];

/// Built-in functions that change nothing. Directly before a parenthesis their names never mean a stored function.
const FUNCTIONS: &[&str] = &[
    "ABS",
    "AVG",
    "CAST",
    "CEIL",
    "CEILING",
    "CHAR_LENGTH",
    "COALESCE",
    "CONCAT",
    "CONCAT_WS",
    "CONNECTION_ID",
    "CONVERT",
    "CONVERT_TZ",
    "COUNT",
    "CRC32",
    "CURDATE",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "CURTIME",
    "DATABASE",
    "DATE",
    "DATEDIFF",
    "DATE_ADD",
    "DATE_FORMAT",
    "DATE_SUB",
    "DAY",
    "DAYOFMONTH",
    "DAYOFWEEK",
    "DAYOFYEAR",
    "FLOOR",
    "FORMAT",
    "FROM_UNIXTIME",
    "GREATEST",
    "HEX",
    "HOUR",
    "IF",
    "IFNULL",
    "JSON_ARRAY",
    "JSON_EXTRACT",
    "JSON_OBJECT",
    "JSON_SET",
    "JSON_VALUE",
    "LAST_INSERT_ID",
    "LEAST",
    "LEFT",
    "LENGTH",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "LOWER",
    "LPAD",
    "LTRIM",
    "MAX",
    "MD5",
    "MICROSECOND",
    "MIN",
    "MINUTE",
    "MONTH",
    "NOW",
    "NULLIF",
    "POW",
    "POWER",
    "QUARTER",
    "RAND",
    "REPEAT",
    "REPLACE",
    "RIGHT",
    "ROUND",
    "RPAD",
    "RTRIM",
    "SCHEMA",
    "SECOND",
    "SESSION_USER",
    "SHA",
    "SHA1",
    "SHA2",
    "SIGN",
    "STR_TO_DATE",
    "SUBSTR",
    "SUBSTRING",
    "SUBSTRING_INDEX",
    "SUM",
    "SYSDATE",
    "SYSTEM_USER",
    "TIME",
    "TIMEDIFF",
    "TIMESTAMP",
    "TIMESTAMPADD",
    "TIMESTAMPDIFF",
    "TIME_TO_SEC",
    "TRIM",
    "TRUNCATE",
    "UNHEX",
    "UNIX_TIMESTAMP",
    "UPPER",
    "USER",
    "UTC_DATE",
    "UTC_TIME",
    "UTC_TIMESTAMP",
    "UUID",
    "VERSION",
    "WEEK",
    "WEEKDAY",
    "YEAR",
];

#[cfg(test)]
mod tests {
    use super::super::charset::Charset;
    use super::*;

    fn dialect(charset: &str) -> Dialect {
        Dialect { ansi_quotes: false, plain_backslashes: false, charset: Charset::by_name(charset) }
    }

    #[test]
    fn the_changed_table_tells_the_schema() {
        let changed = |sql: &str| match schemas(sql.as_bytes(), &dialect("utf8mb4"), "now") {
            Targets::Schemas(schemas) => schemas.join(","),
            Targets::Unknown => "?".to_owned(),
        };
        for (sql, expected) in [
            ("INSERT INTO mysql.rds_heartbeat2(id, value) values (1,1) ON DUPLICATE KEY UPDATE value = 1", "mysql"),
            ("REPLACE INTO `percona`.`heartbeat` (ts, server_id) VALUES ('2026', UNIX_TIMESTAMP())", "percona"),
            ("INSERT heartbeat VALUES (NOW(6))", "now"),
            ("INSERT LOW_PRIORITY IGNORE INTO a . b SELECT * FROM shop.t", "a"),
            ("UPDATE percona.heartbeat SET ts = NOW() WHERE id = 1", "percona"),
            ("UPDATE heartbeat SET ts = 1", "now"),
            ("UPDATE a.t, shop.t SET shop.t.x = 1", "?"),
            ("UPDATE a.t x SET x = 1", "?"),
            ("UPDATE v SET a = f()", "?"),
            ("DELETE FROM a.t WHERE id IN (SELECT id FROM shop.t)", "a"),
            ("DELETE HISTORY FROM a.t BEFORE SYSTEM_TIME '2026-01-01'", "a"),
            ("DELETE FROM a.t", "a"),
            ("DELETE a.t FROM a.t JOIN shop.t", "?"),
            ("DELETE FROM a.t, shop.t USING a.t JOIN shop.t", "?"),
            ("INSERT INTO a.t VALUES (shop.f())", "?"),
            ("INSERT INTO a.t VALUES (f(1))", "?"),
            ("INSERT INTO a.t VALUES (`now`())", "?"),
            ("INSERT INTO a.t VALUES (now ())", "?"),
            ("INSERT INTO a.t VALUES (NEXT VALUE FOR shop.s)", "?"),
            ("INSERT INTO a.t VALUES (NEXTVAL(shop.s))", "?"),
            ("INSERT INTO a.t VALUES ('f()')", "a"),
            ("INSERT INTO a.`t(` (b) VALUES (1)", "a"),
            ("CREATE TABLE IF NOT EXISTS a.t (b INT) SELECT 1 AS b", "a"),
            ("SET STATEMENT max_statement_time = 1 FOR INSERT INTO a.t VALUES (1)", "a"),
            ("/* shop.t */ INSERT /*! INTO shop. */ t VALUES (1)", "shop"),
            ("SELECT f()", "?"),
            ("CALL a.p()", "?"),
            ("DO SLEEP(1)", "?"),
            ("ANALYZE DELETE FROM a.t", "?"),
            ("INSERT INTO a.b.c VALUES (1)", "?"),
            ("INSERT INTO .t VALUES (1)", "?"),
            ("INSERT INTO", "?"),
            ("", "?"),
        ] {
            assert_eq!(changed(sql), expected, "{sql}");
        }
        assert_eq!(schemas(b"INSERT INTO t VALUES (1)", &dialect("utf8mb4"), ""), Targets::Unknown);
    }

    #[test]
    fn names_are_read_as_the_session_wrote_them() {
        let ansi = Dialect { ansi_quotes: true, ..dialect("utf8mb4") };
        for (sql, dialect, expected) in [
            (&b"INSERT INTO `\x95\x5c`.t VALUES (1)"[..], &dialect("cp932"), "\u{8868}"),
            (b"INSERT INTO caf\xe9.t VALUES (1)", &dialect("latin1"), "caf\u{e9}"),
            (b"INSERT INTO \"a\"\"b\".t VALUES (1)", &ansi, "a\"b"),
            (b"INSERT INTO `a.b`.t VALUES (1)", &ansi, "a.b"),
        ] {
            assert_eq!(schemas(sql, dialect, "now"), Targets::Schemas(vec![expected.to_owned()]));
        }
        assert_eq!(schemas(b"INSERT INTO `\xff`.t VALUES (1)", &dialect("utf8mb4"), "now"), Targets::Unknown);
    }
}
