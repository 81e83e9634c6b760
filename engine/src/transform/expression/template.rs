//! Texts with placeholders: `customer-{customer_id}`.

use rowmill_core::batch::Table;
use rowmill_core::envelope::{push_cell, push_raw, push_string};

use super::compile::Compiled;
use super::node::RowContext;
use super::parse::parse_placeholder;
use super::value::{Value, float_text};
use super::{Expression, Scope};

/// A text with placeholders, each an expression within braces. Braces of the text itself are doubled.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::transform) struct Template(Vec<Piece<Expression>>);

/// A template compiled for one table.
#[derive(Debug)]
pub(in crate::transform) struct CompiledTemplate(Vec<Piece<Compiled>>);

#[derive(Debug, Clone, PartialEq)]
enum Piece<T> {
    Text(String),
    Value(T),
}

impl Template {
    /// Parses a text.
    ///
    /// # Errors
    /// If a placeholder is not closed or not an expression, or a brace is not doubled.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let (brace, after) = rest[at..].split_at(1);
            rest = after;
            if let Some(after) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = after;
            } else if brace == "{" {
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal)));
                }
                let (expression, after) = parse_placeholder(rest)?;
                pieces.push(Piece::Value(expression));
                rest = after;
            } else {
                return Err(format!("`{text}` has a `}}` without a `{{`: double the braces that stand for themselves"));
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self(pieces))
    }

    /// Returns the expression, if the text is a single placeholder.
    pub fn as_expression(&self) -> Option<&Expression> {
        if let [Piece::Value(expression)] = &*self.0 { Some(expression) } else { None }
    }

    /// Returns the text, if it has no placeholder.
    pub fn as_text(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// Compiles the template for a table.
    ///
    /// # Errors
    /// If an expression cannot be compiled.
    pub fn compile(&self, table: &Table, scope: Scope<'_>) -> Result<CompiledTemplate, String> {
        let compile = |piece: &Piece<Expression>| match piece {
            Piece::Text(text) => Ok(Piece::Text(text.clone())),
            Piece::Value(expression) => Compiled::new(expression, table, scope).map(Piece::Value),
        };
        self.0.iter().map(compile).collect::<Result<_, _>>().map(CompiledTemplate)
    }
}

impl CompiledTemplate {
    /// Appends the text of a row. NULL is nothing.
    ///
    /// # Errors
    /// If an expression has no value for the row.
    pub fn push(&self, context: &RowContext<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Value(value) => value.value(context)?.push_text(out)?,
            }
        }
        Ok(())
    }
}

/// Appends the value of an expression as JSON. Decimals are strings, as in all formats of messages.
///
/// # Errors
/// If it has no value for the row.
pub(in crate::transform) fn push_json(
    compiled: &Compiled,
    context: &RowContext<'_>,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    match compiled.value(context)? {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(bool) => out.extend_from_slice(if bool { b"true" } else { b"false" }),
        Value::Number(number) if number.is_integer() => number.push(out),
        Value::Number(number) => push_string(&number.text(), out),
        Value::Float(number) => out.extend_from_slice(float_text(number)?.as_bytes()),
        Value::Moment(text) => push_string(&format!("{}Z", text.replacen(' ', "T", 1)), out),
        Value::Text(text) => push_string(&text, out),
        Value::Json(json) => push_raw(json.as_bytes(), out),
        Value::Cell(column, cell) => push_cell(column, cell, out),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_stand_for_placeholders_or_for_themselves() {
        let parse = |text| Template::parse(text);
        assert_eq!(parse("a{{b}}").expect("a text").as_text(), Some("a{b}"));
        assert_eq!(parse("").expect("a text").as_text(), Some(""));
        assert!(parse("{id}").expect("a placeholder").as_expression().is_some());
        assert!(parse("{concat('}', `a}`)}").expect("a placeholder").as_expression().is_some());
        let mixed = parse("{id}-{{{status}").expect("mixed");
        assert!(mixed.as_expression().is_none() && mixed.as_text().is_none() && mixed.0.len() == 3);
        for (text, error) in [
            ("a}", "double the braces"),
            ("{id", "expected `}` at its end"),
            ("{}", "expected a value"),
            ("{id status}", "expected an operator or the end at character 4, before `status}`"),
            ("{a = }", "expected a value at character 5"),
        ] {
            let refused = parse(text).expect_err(text);
            assert!(refused.contains(error), "{text}: {refused}");
        }
    }
}
