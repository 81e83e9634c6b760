//! Table patterns: `["shop.*", "!shop.audit_*"]`, of which the last match decides. Schema and table are matched separately: a
//! dot in a name is a character of that name, and never separates the two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regex::{Regex, RegexBuilder};
use rowmill_core::binlog::TableSelector;
use serde::{Deserialize, Deserializer, de::Error};

/// System schemas, which no pattern with a wildcard for the schema includes.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "information_schema", "performance_schema", "sys"];

/// Suffixes of the work tables of online schema changes, by gh-ost (`_orders_gho`) and pt-online-schema-change
/// (`_orders_new`). Such a name begins with an underscore.
const SCHEMA_CHANGE_ENDINGS: [&str; 5] = ["_gho", "_ghc", "_del", "_new", "_old"];

/// A selection of tables. Without patterns it has all tables but those of system schemas and the work tables of online
/// schema changes: a pattern must name such a schema or such a table without a wildcard.
#[derive(Debug, Clone, Default)]
pub struct TablePatterns {
    patterns: Vec<Pattern>,
    case: NameCase,
}

/// Whether the server ignores the case of schema and table names. It is set once the server is connected; clones share it.
#[derive(Debug, Clone, Default)]
pub struct NameCase {
    is_ignored: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
struct Pattern {
    excludes: bool,
    schema: NamePattern,
    table: NamePattern,
}

/// The half of a pattern that matches the schema's name, or the table's.
#[derive(Debug, Clone)]
struct NamePattern {
    /// The text in the pattern.
    text: String,
    /// Whether the pattern is a single name, without wildcards.
    is_literal: bool,
    exact: Regex,
    ignoring_case: Regex,
}

impl NameCase {
    /// Sets whether names that differ only by case are the same name, as with `lower_case_table_names` other than 0.
    pub fn ignore(&self, is_ignored: bool) {
        self.is_ignored.store(is_ignored, Ordering::Relaxed);
    }

    fn is_ignored(&self) -> bool {
        self.is_ignored.load(Ordering::Relaxed)
    }
}

impl NamePattern {
    fn is_match(&self, name: &str, case: &NameCase) -> bool {
        if case.is_ignored() { self.ignoring_case.is_match(name) } else { self.exact.is_match(name) }
    }

    /// Returns whether the pattern is this name, without wildcards.
    fn names(&self, name: &str, case: &NameCase) -> bool {
        self.is_literal && self.is_match(name, case)
    }
}

impl std::fmt::Display for TablePatterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, Pattern { excludes, schema, table }) in self.patterns.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{}{}.{}", if *excludes { "!" } else { "" }, schema.text, table.text)?;
        }
        Ok(())
    }
}

impl TablePatterns {
    /// Parses patterns: `schema.table`, each half either a name within backticks, which is literal, or a name with wildcards:
    /// `*` for any characters, `?` for one, `[a-z]` and `[!a-z]` for one that is or is not among these, `{a,b}` for one of
    /// several texts, and `\` before a literal character.
    ///
    /// # Errors
    /// If a text is not a pattern of schema and table.
    pub fn parse(patterns: &[String]) -> Result<Self, String> {
        let pattern = |text: &String| {
            let (excludes, names) = text.strip_prefix('!').map_or((false, text.as_str()), |names| (true, names));
            let (schema, table) =
                schema_and_table(names).map_err(|error| format!("`{text}` is not a table pattern: {error}"))?;
            Ok(Pattern { excludes, schema, table })
        };
        Ok(Self { patterns: patterns.iter().map(pattern).collect::<Result<_, String>>()?, case: NameCase::default() })
    }

    /// Returns the rule for the case of names, which is shared with [`TablePatterns::with_case`].
    pub fn case(&self) -> &NameCase {
        &self.case
    }

    /// Returns the patterns with the case rule of another selection of the same server's tables.
    pub fn with_case(self, case: &NameCase) -> Self {
        Self { case: case.clone(), ..self }
    }

    /// Returns whether a table is selected.
    pub fn matches(&self, schema: &str, table: &str) -> bool {
        let case = &self.case;
        let is_system = is_system(schema, case);
        // A list that begins with an exclusion starts from all tables.
        let begins_with_all = self.patterns.first().is_none_or(|first| first.excludes);
        let is_of_table = |pattern: &&Pattern| {
            let means_system = pattern.excludes || pattern.schema.names(schema, case);
            (!is_system || means_system) && pattern.schema.is_match(schema, case) && pattern.table.is_match(table, case)
        };
        match self.patterns.iter().rev().find(is_of_table) {
            Some(last) if last.table.names(table, case) => !last.excludes,
            _ if is_of_schema_change(table) => false,
            Some(last) => !last.excludes,
            None => begins_with_all && !is_system,
        }
    }

    /// Returns whether any table of a schema may be selected.
    fn may_match(&self, schema: &str) -> bool {
        let case = &self.case;
        let is_system = is_system(schema, case);
        for pattern in self.patterns.iter().rev().filter(|pattern| pattern.schema.is_match(schema, case)) {
            match pattern.excludes {
                true if pattern.table.text == "*" => return false,
                true => {}
                false if is_system && !pattern.schema.names(schema, case) => {}
                false => return true,
            }
        }
        self.patterns.first().is_none_or(|first| first.excludes) && !is_system
    }
}

impl TableSelector for TablePatterns {
    fn table(&self, schema: &str, table: &str) -> bool {
        self.matches(schema, table)
    }

    fn schema(&self, schema: &str) -> bool {
        self.may_match(schema)
    }
}

fn is_system(schema: &str, case: &NameCase) -> bool {
    SYSTEM_SCHEMAS.iter().any(|&name| name == schema || case.is_ignored() && name.eq_ignore_ascii_case(schema))
}

fn is_of_schema_change(table: &str) -> bool {
    table.starts_with('_')
        && SCHEMA_CHANGE_ENDINGS.iter().any(|ending| table.len() > ending.len() && table.ends_with(ending))
}

impl<'de> Deserialize<'de> for TablePatterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let patterns = Vec::<String>::deserialize(deserializer)?;
        if patterns.is_empty() {
            return Err(D::Error::custom("an empty list of tables; write [\"*.*\"] for all tables"));
        }
        Self::parse(&patterns).map_err(D::Error::custom)
    }
}

const SHAPE: &str = "write `schema.table`, with `*` for any characters";
const HOW_TO_QUOTE: &str = "put the name within backticks, or a backslash before the character";

/// Parses both halves of a pattern, and the dot between them.
fn schema_and_table(text: &str) -> Result<(NamePattern, NamePattern), String> {
    let (schema, rest) = NamePattern::parse(text)?;
    let table = rest.strip_prefix('.').ok_or(SHAPE)?;
    let (table, rest) = NamePattern::parse(table)?;
    match rest.chars().next() {
        None => Ok((schema, table)),
        Some('.') => Err("it has more than one dot; put a name that has a dot within backticks".to_owned()),
        Some(_) => Err(format!("`{rest}` after a closing backtick; {SHAPE}")),
    }
}

impl NamePattern {
    /// Parses a name's pattern up to a dot or the end, and returns the rest as well.
    fn parse(text: &str) -> Result<(Self, &str), String> {
        if let Some(quoted) = text.strip_prefix('`') {
            let (name, rest) = quoted_name(quoted)?;
            let written = &text[..text.len() - rest.len()];
            return Ok((Self::new(written, &regex::escape(&name), true)?, rest));
        }
        let mut glob = Glob { rest: text, expression: String::new(), is_literal: true, open: 0 };
        glob.read()?;
        let Glob { rest, expression, is_literal, .. } = glob;
        let written = &text[..text.len() - rest.len()];
        if written.is_empty() {
            return Err(SHAPE.to_owned());
        }
        if written.starts_with(char::is_whitespace) || written.ends_with(char::is_whitespace) {
            return Err(format!("`{written}` begins or ends with a blank; {HOW_TO_QUOTE}"));
        }
        Ok((Self::new(written, &expression, is_literal)?, rest))
    }

    fn new(text: &str, expression: &str, is_literal: bool) -> Result<Self, String> {
        let compiled = |ignores_case: bool| {
            RegexBuilder::new(&format!("^(?:{expression})$"))
                .case_insensitive(ignores_case)
                .dot_matches_new_line(true)
                .build()
                .map_err(|_| format!("`{text}` is too large"))
        };
        Ok(Self { text: text.to_owned(), is_literal, exact: compiled(false)?, ignoring_case: compiled(true)? })
    }
}

/// Returns the name after an opening backtick, and the text after the closing one. A backtick in a name is doubled, as in SQL.
fn quoted_name(text: &str) -> Result<(String, &str), String> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let (piece, after) = rest.split_once('`').ok_or("a backtick without a closing one")?;
        name.push_str(piece);
        match after.strip_prefix('`') {
            Some(more) => rest = more,
            None if name.is_empty() => return Err("an empty name".to_owned()),
            None => return Ok((name, after)),
        }
        name.push('`');
    }
}

/// A parser of names with wildcards, which makes a regular expression of one.
struct Glob<'a> {
    rest: &'a str,
    expression: String,
    /// Whether no wildcard was read so far.
    is_literal: bool,
    /// Number of braces that are not closed yet.
    open: usize,
}

impl Glob<'_> {
    /// Reads up to a separating dot, or to the end.
    fn read(&mut self) -> Result<(), String> {
        while let Some(c) = self.rest.chars().next() {
            if c == '.' && self.open == 0 {
                break;
            }
            self.rest = &self.rest[c.len_utf8()..];
            match c {
                '*' => self.wildcard(".*"),
                '?' => self.wildcard("."),
                '[' => self.class()?,
                '{' => {
                    self.wildcard("(?:");
                    self.open += 1;
                }
                ',' if self.open > 0 => self.wildcard("|"),
                '}' if self.open > 0 => {
                    self.wildcard(")");
                    self.open -= 1;
                }
                '}' => return Err(format!("a `}}` without an opening `{{`; {HOW_TO_QUOTE}")),
                '`' => return Err(format!("a backtick within a name; {HOW_TO_QUOTE}")),
                '\\' => {
                    let escaped = self.next().ok_or("a backslash at the end, without a character after it")?;
                    push_literal(escaped, &mut self.expression);
                }
                literal => push_literal(literal, &mut self.expression),
            }
        }
        if self.open > 0 { Err(format!("a `{{` without a closing `}}`; {HOW_TO_QUOTE}")) } else { Ok(()) }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn wildcard(&mut self, expression: &str) {
        self.expression.push_str(expression);
        self.is_literal = false;
    }

    /// Reads a bracket expression: characters and ranges of them.
    fn class(&mut self) -> Result<(), String> {
        let unclosed = || format!("a `[` without a closing `]`; {HOW_TO_QUOTE}");
        self.wildcard("[");
        if let Some(rest) = self.rest.strip_prefix(['!', '^']) {
            self.rest = rest;
            self.expression.push('^');
        }
        let mut is_first = true;
        loop {
            let mut first = self.next().ok_or_else(unclosed)?;
            if first == ']' && !is_first {
                break;
            }
            is_first = false;
            if first == '\\' {
                first = self.next().ok_or_else(unclosed)?;
            }
            push_literal(first, &mut self.expression);
            let Some(range) = self.rest.strip_prefix('-').filter(|range| !range.starts_with(']')) else { continue };
            self.rest = range;
            let mut last = self.next().ok_or_else(unclosed)?;
            if last == '\\' {
                last = self.next().ok_or_else(unclosed)?;
            }
            if last < first {
                return Err(format!("the range `{first}-{last}` is reversed"));
            }
            self.expression.push('-');
            push_literal(last, &mut self.expression);
        }
        self.expression.push(']');
        Ok(())
    }
}

/// Appends a character by its code point, which has no special meaning in a regular expression.
fn push_literal(c: char, expression: &mut String) {
    expression.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(patterns: &[&str]) -> Result<TablePatterns, String> {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        TablePatterns::parse(&patterns)
    }

    fn matches(patterns: &[&str], schema: &str, table: &str) -> bool {
        parse(patterns).expect("patterns").matches(schema, table)
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
    fn a_dot_in_a_name_separates_nothing() {
        assert!(matches(&["my.*"], "my", "t") && matches(&["my.*"], "my", "db.t"));
        assert!(!matches(&["my.*"], "my.db", "t"));
        assert!(!matches(&["*.t"], "my", "db.t") && matches(&["*.t"], "my.db", "t"));
        assert!(!matches(&["*.`db.t`"], "my.db", "t"));
        assert!(!matches(&["my.?"], "my.d", "b") && !matches(&["m[xy].*"], "my.db", "t"));
        assert!(matches(&["my*.*"], "my.db", "t") && matches(&["*.*"], "my.db", "a.b"));
        // Exclusions are as exact: no table of another schema is lost.
        assert!(matches(&["!my.*"], "my.db", "t") && !matches(&["!my.*"], "my", "db.t"));
        let may = |pattern: &str, schema: &str| parse(&[pattern]).expect("a pattern").schema(schema);
        assert!(!may("my.*", "my.db") && may("`my.db`.t", "my.db") && !may("`my.db`.t", "my"));
        assert!(may("!my.*", "my.db") && !may("!`my.db`.*", "my.db"));
    }

    #[test]
    fn names_of_any_characters_can_be_written() {
        for (pattern, schema, table) in [
            ("`my.db`.`a.b`", "my.db", "a.b"),
            (r"my\.db.a\.b", "my.db", "a.b"),
            ("my[.]db.{a.b,c}", "my.db", "a.b"),
            ("`a``b`.`*`", "a`b", "*"),
            (r"a\`b.\*", "a`b", "*"),
            ("`!x`.t", "!x", "t"),
            (r"\!x.t", "!x", "t"),
            ("`[a]`.`{b}`", "[a]", "{b}"),
            (r"`a\b`.`?`", r"a\b", "?"),
            (r"a\\b.\?", r"a\b", "?"),
            ("` x`.my table", " x", "my table"),
            ("größe.☃❤", "größe", "☃❤"),
            ("`it's`.\"q\"", "it's", "\"q\""),
            ("a-b.c$d#e,f", "a-b", "c$d#e,f"),
            ("a/b.c|d(e)^f+", "a/b", "c|d(e)^f+"),
            ("x.`1e3`", "x", "1e3"),
            ("mysql.`user`", "mysql", "user"),
            ("shop.`_orders_new`", "shop", "_orders_new"),
        ] {
            assert!(matches(&[pattern], schema, table), "{pattern}");
            assert!(!matches(&[pattern], schema, "other") && !matches(&[pattern], "other", table), "{pattern}");
            assert_eq!(parse(&[pattern]).expect("a pattern").to_string(), pattern);
        }
        // Within backticks nothing is a wildcard.
        assert!(!matches(&["shop.`*`"], "shop", "orders") && !matches(&["shop.`a?`"], "shop", "ab"));
    }

    #[test]
    fn wildcards_stand_for_characters() {
        for (pattern, yes, no) in [
            ("s.o?", "oé", "o"),
            ("s.??", "☃❤", "☃"),
            ("s.[a-cé]x", "éx", "dx"),
            ("s.[!a-c]x", "☃x", "bx"),
            ("s.[^a-c]x", "dx", "ax"),
            ("s.[]a]", "]", "b"),
            ("s.[a-]", "-", "b"),
            (r"s.[\]\\]", r"\", "["),
            ("s.{a,b{c,d}}", "bd", "b"),
            ("s.{orders,lines}_*", "lines_2", "lines"),
            ("s.a**b", "a/x/b", "ab/"),
            ("s.a*", "a\nb", "ba"),
            ("s.A*", "Ab", "ab"),
        ] {
            assert!(matches(&[pattern], "s", yes), "{pattern} {yes}");
            assert!(!matches(&[pattern], "s", no), "{pattern} {no}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, words) in [
            ("orders", "write `schema.table`"),
            ("", "write `schema.table`"),
            ("shop.", "write `schema.table`"),
            (".orders", "write `schema.table`"),
            ("!", "write `schema.table`"),
            ("my.db.t", "more than one dot"),
            ("`my.db`.a.b", "more than one dot"),
            ("`shop.t", "without a closing one"),
            ("shop.`t", "without a closing one"),
            ("``.t", "an empty name"),
            ("`a`b.t", "write `schema.table`"),
            ("shop.`a`b", "after a closing backtick"),
            ("shop.a`b", "a backtick within a name"),
            ("shop.t\\", "a backslash at the end"),
            ("shop.[ab", "`[` without a closing `]`"),
            ("shop.[]", "`[` without a closing `]`"),
            ("shop.[z-a]", "is reversed"),
            ("shop.{a,b", "`{` without a closing `}`"),
            ("{shop.a,shop.b}", "write `schema.table`"),
            ("shop.a}", "`}` without an opening `{`"),
            ("shop.orders ", "begins or ends with a blank"),
            (" shop.orders", "begins or ends with a blank"),
        ] {
            let error = parse(&[pattern]).expect_err(pattern);
            assert!(error.contains(words) && error.contains(&format!("`{pattern}` is not")), "{pattern}: {error}");
        }
    }

    #[test]
    fn case_counts_where_the_server_says_so() {
        let patterns = parse(&["Shop.Or*", "!shop.`ORDERS_OLD`", "MySQL.User"]).expect("patterns");
        assert!(!patterns.matches("shop", "orders") && !patterns.schema("shop"));
        let others = parse(&["SHOP.*"]).expect("patterns").with_case(patterns.case());
        patterns.case().ignore(true);
        assert!(patterns.matches("shop", "orders") && patterns.schema("shop") && others.matches("shop", "x"));
        assert!(!patterns.matches("shop", "orders_old") && patterns.matches("mysql", "user"));
        assert!(!parse(&["*.*"]).expect("all").with_case(patterns.case()).matches("MYSQL", "user"));
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
        let may = |patterns: &[&str], schema: &str| parse(patterns).expect("patterns").schema(schema);
        assert!(may(&[], "shop") && !may(&[], "mysql"));
        assert!(may(&["shop.*"], "shop") && !may(&["shop.*"], "percona"));
        assert!(!may(&["!percona.*"], "percona") && may(&["!percona.heart*"], "percona"));
        assert!(may(&["!percona.*", "percona.orders"], "percona") && may(&["mysql.user"], "mysql"));
    }
}
