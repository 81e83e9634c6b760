//! The values of expressions.

use std::borrow::Cow;

use rowmill_core::batch::{Cell, Column, Kind};
use rowmill_core::envelope::push_cell_text;

use super::number::Number;
use super::scalar::{Class, Scalar};

/// The value of an expression.
#[derive(Debug, Clone)]
pub(in crate::transform) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    Float(f64),
    /// `2026-11-26 08:30:00.000000`
    Moment(String),
    Text(Cow<'a, str>),
    /// A value of a JSON document, or a row.
    Json(Cow<'a, str>),
    /// A column's value, which is neither NULL nor absent.
    Cell(&'a Column, Cell<'a>),
}

impl<'a> Value<'a> {
    /// Returns the value for comparisons. `None` for NULL.
    #[inline]
    pub(super) fn into_scalar(self) -> Result<Option<Scalar<'a>>, String> {
        Ok(Some(match self {
            Self::Null => return Ok(None),
            Self::Bool(bool) => Scalar::Bool(bool),
            Self::Number(number) => Scalar::Decimal(number.text().into()),
            Self::Float(number) => Scalar::Float(number),
            Self::Moment(text) => Class::Moment.parse(&text).unwrap_or(Scalar::Moment(text.into())),
            Self::Text(text) => Scalar::Text(text),
            Self::Json(json) => return Ok(json_scalar(json)),
            Self::Cell(column, cell) => {
                let bytes = cell.value().ok_or_else(|| only_changes(column))?;
                return Scalar::of(column, bytes)
                    .map(Some)
                    .ok_or_else(|| format!("column `{}` cannot be read", column.name));
            }
        }))
    }

    /// Returns a JSON text. `None` for NULL.
    ///
    /// # Errors
    /// If the value is not JSON.
    pub fn into_json(self) -> Result<Option<Cow<'a, str>>, String> {
        match self {
            Self::Null => Ok(None),
            Self::Json(json) => Ok(Some(json)),
            Self::Cell(column, cell) => {
                let bytes = cell.value().ok_or_else(|| only_changes(column))?;
                let text = std::str::from_utf8(bytes).ok().filter(|_| column.kind == Kind::Json);
                text.map(|text| Some(Cow::Borrowed(text)))
                    .ok_or_else(|| format!("column `{}` is not JSON", column.name))
            }
            _ => Err("a value that is not JSON".to_owned()),
        }
    }

    /// Returns the value as text. `None` for NULL.
    pub fn into_text(self) -> Result<Option<Cow<'a, str>>, String> {
        Ok(Some(match self {
            Self::Null => return Ok(None),
            Self::Text(text) => text,
            Self::Moment(text) => text.into(),
            Self::Cell(column, Cell::Value(bytes)) if column.kind.is_text() => {
                std::str::from_utf8(bytes).map_err(|error| error.to_string())?.into()
            }
            Self::Json(Cow::Borrowed(json)) => unquoted_text(json),
            other => {
                let mut out = Vec::new();
                other.push_text(&mut out)?;
                String::from_utf8(out).map_err(|error| error.to_string())?.into()
            }
        }))
    }

    /// Appends the value as text: nothing for NULL.
    pub fn push_text(&self, out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Self::Null => {}
            Self::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
            Self::Number(number) => number.push(out),
            Self::Float(number) => out.extend_from_slice(float_text(*number)?.as_bytes()),
            Self::Moment(text) => out.extend_from_slice(text.as_bytes()),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
            Self::Json(json) => out.extend_from_slice(unquoted_text(json).as_bytes()),
            Self::Cell(column, cell @ Cell::Value(_)) => push_cell_text(column, *cell, out),
            Self::Cell(column, _) => return Err(only_changes(column)),
        }
        Ok(())
    }
}

pub(super) fn float_text(number: f64) -> Result<String, String> {
    if number.is_finite() {
        Ok(serde_json::Number::from_f64(number).map_or_else(String::new, |number| number.to_string()))
    } else {
        Err("a result that is too large for a float".to_owned())
    }
}

pub(super) fn owned_text<'a>(bytes: Vec<u8>) -> Result<Value<'a>, String> {
    String::from_utf8(bytes).map(|text| Value::Text(text.into())).map_err(|error| error.to_string())
}

fn only_changes(column: &Column) -> String {
    format!("of column `{}` only the changes are known (PARTIAL_JSON)", column.name)
}

/// Returns a value of a JSON document as text: a string without its quotes.
pub(super) fn unquoted_text(json: &str) -> Cow<'_, str> {
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(text) if !text.contains('\\') => text.into(),
        Some(_) => serde_json::from_str::<String>(json).map_or(json.into(), Cow::Owned),
        None => json.into(),
    }
}

fn json_scalar(json: Cow<'_, str>) -> Option<Scalar<'_>> {
    Some(match json.as_bytes() {
        b"null" => return None,
        b"true" => Scalar::Bool(true),
        b"false" => Scalar::Bool(false),
        [b'"', ..] => Scalar::Text(match json {
            Cow::Borrowed(json) => unquoted_text(json),
            Cow::Owned(json) => unquoted_text(&json).into_owned().into(),
        }),
        [b'-' | b'0'..=b'9', ..] if json.contains(['e', 'E']) => Scalar::Float(json.parse().ok()?),
        [b'-' | b'0'..=b'9', ..] => Scalar::Decimal(json),
        _ => Scalar::Text(json),
    })
}
