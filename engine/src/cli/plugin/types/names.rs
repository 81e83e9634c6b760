//! Names of tables, columns and members as identifiers, and as texts in literals and comments.

use std::collections::HashSet;

use super::{ColumnType, Reads, TableType};

/// Names that no generated type has, as the languages or the SDKs have such a type: its table's schema comes before it.
const TAKEN_TYPES: &str = "\
    Any Array Batch Bool Boolean Box Bytes Cell Column ColumnError Condition Copy Date Decimal Err Error \
    Failure Float Function Image Int Interest Json Kind Level Map Math Message None Number Object Ok Operation \
    Option Outcome Promise Proxy Recipe Reflect Result Retry Row Rows Self Set Some String Symbol Table \
    Template Text Transaction Transform Uint Vec View";

/// Returns whether a name is one of some words, which blanks separate.
pub fn is_among(name: &str, words: &str) -> bool {
    words.split_whitespace().any(|word| word == name)
}

/// Identifiers of one scope, each of which is given once.
pub struct Unique {
    given: HashSet<String>,
    /// What is between a name that is given already and its number.
    separator: &'static str,
}

impl Unique {
    /// Returns a scope in which these names are taken.
    pub fn new<'a>(separator: &'static str, taken: impl IntoIterator<Item = &'a str>) -> Self {
        Self { given: taken.into_iter().map(str::to_owned).collect(), separator }
    }

    /// Gives a name; one that is given already gets a number at its end.
    pub fn give(&mut self, name: String) -> String {
        let numbered = (2..).map(|number: u64| format!("{name}{}{number}", self.separator));
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| !self.given.contains(name));
        let free = free.unwrap_or(name);
        self.given.insert(free.clone());
        free
    }

    /// Gives a name; one that a word of the language or of the generated code takes gets `_` at its end.
    pub fn give_unreserved(&mut self, name: String, reserved: &[&str]) -> String {
        let name = if reserved.contains(&name.as_str()) { format!("{name}_") } else { name };
        self.give(name)
    }
}

/// Whether a character may be in an identifier of every language: ASCII, and letters of scripts that have no other form.
fn is_letter(c: char) -> bool {
    let is_of_script = matches!(c,
        '\u{c0}'..='\u{131}' | '\u{134}'..='\u{13e}' | '\u{141}'..='\u{148}' | '\u{14a}'..='\u{17e}'
        | '\u{386}' | '\u{388}'..='\u{3ce}' | '\u{400}'..='\u{481}' | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}'
        | '\u{4e00}'..='\u{9fa5}' | '\u{ac00}'..='\u{d7a3}');
    c.is_ascii_alphanumeric() || is_of_script && c.is_alphabetic()
}

/// Returns a name as an identifier: with `_` in place of other characters, and before a digit.
pub fn identifier(name: &str) -> String {
    let mut identifier: String = name.chars().map(|c| if is_letter(c) { c } else { '_' }).collect();
    if identifier.starts_with(|c: char| c.is_ascii_digit()) {
        identifier.insert(0, '_');
    }
    // Several languages give `_` a meaning.
    if identifier.chars().all(|c| c == '_') { format!("column{identifier}") } else { identifier }
}

/// Returns the words of a name: what other characters separate, and `created` and `At` of `createdAt`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_lower = false;
    for c in name.chars() {
        if (!is_letter(c) || was_lower && c.is_uppercase()) && words.last().is_some_and(|word| !word.is_empty()) {
            words.push(String::new());
        }
        was_lower = c.is_lowercase();
        if is_letter(c)
            && let Some(word) = words.last_mut()
        {
            word.push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(upper).unwrap_or_default();
    let is_shouted = word.chars().count() > 1 && !word.chars().any(char::is_lowercase);
    let rest: String = if is_shouted { letters.as_str().to_lowercase() } else { letters.as_str().to_owned() };
    first + &rest
}

/// Returns a letter in upper case, if that is one letter.
fn upper(c: char) -> String {
    let text: String = c.to_uppercase().collect();
    if text.chars().all(is_letter) { text } else { c.to_string() }
}

/// Returns a name as types are written, `OrderItems`; empty if it has no letter.
pub fn pascal(name: &str) -> String {
    let name: String = words(name).iter().map(|word| capitalized(word)).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("N{name}") } else { name }
}

/// Returns a name as constants are written, `ORDER_ITEMS`; empty if it has no letter.
pub fn screaming(name: &str) -> String {
    let name = words(name).iter().map(|word| word.chars().map(upper).collect()).collect::<Vec<String>>().join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("N{name}") } else { name }
}

/// Returns a name in lower case with `_` between its words, `order_items`.
pub fn snake(name: &str) -> String {
    let words: Vec<String> = words(name).iter().map(|word| word.to_lowercase()).collect();
    let name = words.join("_");
    if name.starts_with(|c: char| c.is_ascii_digit()) { format!("n{name}") } else { name }
}

/// Returns the names of the tables' types: the table's name alone, or after the schema's where two schemas have such a
/// table or the name is taken.
pub fn type_names(tables: &[TableType]) -> Vec<String> {
    let short =
        |table: &TableType| Some(pascal(&table.name)).filter(|name| !name.is_empty()).unwrap_or("Table".to_owned());
    let mut unique = Unique::new("", []);
    let name = |table: &TableType| {
        let name = short(table);
        let is_shared = tables.iter().filter(|other| short(other) == name).count() > 1;
        let is_taken = is_shared || is_among(&name, TAKEN_TYPES);
        unique.give(if is_taken { pascal(&table.schema) + &name } else { name })
    };
    tables.iter().map(name).collect()
}

/// Writes the tables one after another by `push`, which is given the name of each table's type, and the scope of types.
pub fn push_tables(text: &mut String, tables: &[TableType], push: fn(&mut String, &TableType, &str, &mut Unique)) {
    let names = type_names(tables);
    let mut types = Unique::new("", names.iter().map(String::as_str));
    for (table, name) in tables.iter().zip(&names) {
        push(text, table, name, &mut types);
    }
}

/// Returns the names of an enum's members, as `style` writes them.
pub fn member_names(members: &[String], style: fn(&str) -> String, taken: &[&str]) -> Vec<String> {
    let mut unique = Unique::new(if style("a b").contains('_') { "_" } else { "" }, taken.iter().copied());
    let name = |(number, member): (usize, &String)| {
        let name = style(member);
        let described = if member.is_empty() { style("empty") } else { style(&format!("member {number}")) };
        unique.give(if name.is_empty() { described } else { name })
    };
    (1..).zip(members).map(name).collect()
}

/// Returns the names of the types of a table's enums, by column, after the name of the table's type.
pub fn enum_types(table: &TableType, name: &str, types: &mut Unique) -> Vec<Option<String>> {
    let enum_type = |column: &ColumnType| {
        (column.reads() == Reads::Member).then(|| types.give(format!("{name}{}", pascal(&column.name))))
    };
    table.columns.iter().map(enum_type).collect()
}

/// Returns a template with texts in place of its marks, `$NAME`. A mark within such a text is left as it is.
pub fn fill(template: &str, texts: &[(&str, &str)]) -> String {
    let mut parts = template.split('$');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_uppercase()).unwrap_or(part.len());
        match texts.iter().find(|(mark, _)| *mark == &part[..end]) {
            Some((_, text)) => filled.push_str(text),
            None => filled.extend(["$", &part[..end]]),
        }
        filled.push_str(&part[end..]);
    }
    filled
}

/// Returns a text for a comment of any language: on one line, and without the end of a block comment.
pub fn comment(text: &str) -> String {
    let text: String = text.chars().map(|c| if is_hidden(c) { ' ' } else { c }).collect();
    text.replace("*/", "* /")
}

/// Returns a text within quotes, as a literal. `escape` writes a character beside `\` and `"` that must not be in it as it is.
pub fn literal(text: &str, escape: impl Fn(char) -> Option<String>) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => literal.extend(['\\', c]),
            _ => match escape(c) {
                Some(escape) => literal.push_str(&escape),
                None => literal.push(c),
            },
        }
    }
    literal.push('"');
    literal
}

/// Returns whether a character is written as an escape in every language: it is not seen, or ends a line.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns a text as a literal whose escapes are `\u{...}`: of Rust, Zig and AssemblyScript.
pub fn literal_with_braces(text: &str) -> String {
    literal(text, |c| is_hidden(c).then(|| format!("\\u{{{:x}}}", u32::from(c))))
}

/// Returns a text as a literal whose escapes are `\uHHHH`: of Go, JavaScript and Python. Hidden characters are all below
/// U+10000.
pub fn literal_with_digits(text: &str) -> String {
    literal(text, |c| is_hidden(c).then(|| format!("\\u{:04x}", u32::from(c))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_identifiers_once_each() {
        for (name, expected) in
            [("a-b", "a_b"), ("2nd", "_2nd"), ("größe", "größe"), ("☃", "column_"), ("名前", "名前"), ("x²", "x_")]
        {
            assert_eq!(identifier(name), expected);
        }
        for (name, expected) in [
            ("order_items", ["OrderItems", "ORDER_ITEMS", "order_items"]),
            ("createdAt", ["CreatedAt", "CREATED_AT", "created_at"]),
            ("DHL express", ["DhlExpress", "DHL_EXPRESS", "dhl_express"]),
            ("1.5", ["N15", "N1_5", "n1_5"]),
            ("größe", ["Größe", "GRÖSSE", "größe"]),
            ("+", ["", "", ""]),
        ] {
            assert_eq!([pascal(name), screaming(name), snake(name)], expected, "{name}");
        }
        let mut unique = Unique::new("_", ["taken"]);
        let given = ["a", "a", "a_2", "taken", "a"].map(|name| unique.give(name.to_owned()));
        assert_eq!(given, ["a", "a_2", "a_2_2", "taken_2", "a_3"]);
        assert_eq!(literal_with_braces("a\"\\\n\u{202e}"), r#""a\"\\\u{a}\u{202e}""#);
        assert_eq!(literal_with_digits("a\"\\\n\u{202e}"), r#""a\"\\\u000a\u202e""#);
        assert_eq!(comment("a */ b\nc"), "a * / b c");
        assert_eq!(fill("$A ${B} $$A $C", &[("A", "$C"), ("C", "c")]), "$C ${B} $$C c");
    }
}
