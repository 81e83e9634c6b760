//! Values that can be compared.

use std::borrow::Cow;
use std::cmp::Ordering;

use rowmill_core::batch::{Cell, Column, Kind};

use super::number::compare_decimals;

/// A value that can be compared with others of its class.
#[derive(Debug, Clone)]
pub(super) enum Scalar<'a> {
    Integer(i128),
    Decimal(Cow<'a, str>),
    Float(f64),
    /// The time of a `TIME` column, in microseconds.
    Time(i64),
    /// A date, or a date and a time, without trailing zeros of its fraction.
    Moment(Cow<'a, str>),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Bool(bool),
}

/// What values can be compared with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Integers, decimals and floats.
    Number,
    Time,
    Date,
    /// Date and time.
    Moment,
    Text,
    Bytes,
    Bool,
    /// A value in a JSON document: its class is known when it is read.
    Json,
    /// `NULL`, which is of each class.
    Null,
}

impl Class {
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Int | Kind::Uint | Kind::Year | Kind::Bit | Kind::Decimal | Kind::Float => Self::Number,
            Kind::Time => Self::Time,
            Kind::Date => Self::Date,
            Kind::Datetime | Kind::Timestamp => Self::Moment,
            Kind::Text | Kind::Json | Kind::Enum | Kind::Set => Self::Text,
            Kind::Bytes | Kind::Geometry | Kind::Vector => Self::Bytes,
        }
    }

    /// The class in an error.
    pub fn name(self) -> &'static str {
        match self {
            Self::Number => "a number",
            Self::Time => "a time",
            Self::Date => "a date",
            Self::Moment => "a date with time",
            Self::Text => "a text",
            Self::Bytes => "bytes",
            Self::Bool => "a truth value",
            Self::Json => "a JSON value",
            Self::Null => "NULL",
        }
    }

    /// Whether values of the classes can be compared. Dates are compared with dates with time as their midnight.
    pub fn is_comparable(self, other: Self) -> bool {
        let is_moment = |class| matches!(class, Self::Date | Self::Moment);
        let is_any = |class| matches!(class, Self::Json | Self::Null);
        self == other || is_any(self) || is_any(other) || is_moment(self) && is_moment(other)
    }

    /// Parses a literal in quotes as a value of this class.
    pub fn parse(self, text: &str) -> Option<Scalar<'static>> {
        match self {
            Self::Number => number(text).map(|text| Scalar::Decimal(text.to_owned().into())),
            Self::Time => time(text).map(Scalar::Time),
            Self::Date | Self::Moment => {
                super::date::Moment::parse(text)?;
                Some(Scalar::Moment(without_zeros(&text.replace('T', " ")).to_owned().into()))
            }
            Self::Bytes => {
                base64_simd::STANDARD.decode_to_vec(text.as_bytes()).ok().map(|bytes| Scalar::Bytes(bytes.into()))
            }
            Self::Text | Self::Json | Self::Null => Some(Scalar::Text(text.to_owned().into())),
            Self::Bool => None,
        }
    }
}

/// Returns the text if it is a number with an optional sign and decimal point.
fn number(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().filter(|&byte| byte == b'.').count() <= 1
        && digits.bytes().any(|byte| byte.is_ascii_digit());
    is_number.then_some(text)
}

/// Returns a moment without the zeros that end its fraction, and without a time that is midnight: equal moments are equal
/// texts, and the texts are in the order of the moments.
fn without_zeros(text: &str) -> &str {
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    text.strip_suffix(" 00:00:00").unwrap_or(text)
}

impl<'a> Scalar<'a> {
    /// Reads a column's value.
    #[inline]
    pub fn of(column: &Column, bytes: &'a [u8]) -> Option<Self> {
        let cell = Cell::Value(bytes);
        Some(match column.kind {
            Kind::Int => Self::Integer(cell.int()?.into()),
            Kind::Uint | Kind::Year | Kind::Bit => Self::Integer(cell.uint()?.into()),
            Kind::Float => Self::Float(cell.float()?),
            Kind::Decimal => Self::Decimal(cell.text()?.into()),
            Kind::Time => Self::Time(time(cell.text()?)?),
            Kind::Date | Kind::Datetime | Kind::Timestamp => Self::Moment(without_zeros(cell.text()?).into()),
            Kind::Text | Kind::Json | Kind::Enum | Kind::Set => Self::Text(cell.text()?.into()),
            Kind::Bytes | Kind::Geometry | Kind::Vector => Self::Bytes(bytes.into()),
        })
    }

    /// Compares two values. `None` if they cannot be compared.
    #[inline]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Integer(a), Self::Integer(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.as_bytes().cmp(b.as_bytes())),
            (Self::Decimal(a), Self::Decimal(b)) => Some(compare_decimals(a, b)),
            (Self::Integer(a), Self::Decimal(b)) => Some(compare_decimals(&a.to_string(), b)),
            (Self::Decimal(a), Self::Integer(b)) => Some(compare_decimals(a, &b.to_string())),
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
            (Self::Float(a), Self::Integer(_) | Self::Decimal(_)) => a.partial_cmp(&other.float()?),
            (Self::Integer(_) | Self::Decimal(_), Self::Float(b)) => self.float()?.partial_cmp(b),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Moment(a), Self::Moment(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Reads a number without quotes: a float if it has an exponent.
    pub fn number(text: &str) -> Scalar<'static> {
        match text.parse() {
            Ok(number) if text.contains(['e', 'E']) => Scalar::Float(number),
            _ => Scalar::Decimal(text.to_owned().into()),
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Decimal(text) => text.parse().ok(),
            Self::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// The value as a literal of a column: integers as such, and the number that is stored of a `FLOAT`.
    pub fn for_column(self, column: &Column) -> Self {
        match (&self, column.kind) {
            (Self::Decimal(text), Kind::Float) if column.mysql_type == "float" => {
                text.parse::<f32>().map_or(self.clone(), |number| Self::Float(number.into()))
            }
            (Self::Decimal(text), Kind::Float) => text.parse().map_or(self.clone(), Self::Float),
            (Self::Decimal(text), Kind::Int | Kind::Uint | Kind::Year | Kind::Bit) => {
                text.parse().map_or(self.clone(), Self::Integer)
            }
            _ => self,
        }
    }

    /// The value's class in an error.
    pub fn class(&self) -> Class {
        match self {
            Self::Integer(_) | Self::Decimal(_) | Self::Float(_) => Class::Number,
            Self::Time(_) => Class::Time,
            Self::Moment(_) => Class::Moment,
            Self::Text(_) => Class::Text,
            Self::Bytes(_) => Class::Bytes,
            Self::Bool(_) => Class::Bool,
        }
    }
}

/// Parses a time, such as `-838:59:59.5`, to microseconds.
pub(super) fn time(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (clock, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mut parts = clock.split(':').map(str::parse::<u32>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let fraction: u32 = if fraction.is_empty() { 0 } else { format!("{fraction:0<6}").get(..6)?.parse().ok()? };
    let seconds = (i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds); // of 32-bit numbers: it fits
    let size = seconds.checked_mul(1_000_000)?.checked_add(i64::from(fraction))?;
    Some(if negative { -size } else { size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_as_what_they_are() {
        let compare = |class: Class, a: &str, b: &str| class.parse(a).expect(a).compare(&class.parse(b).expect(b));
        let less = |class, a: &str, b: &str| compare(class, a, b) == Some(Ordering::Less);
        assert!(less(Class::Number, "-10", "9") && less(Class::Number, "9", "18446744073709551615"));
        assert!(less(Class::Number, "-10.5", "-9.75") && less(Class::Number, "9.75", "10"));
        assert!(less(Class::Time, "-01:00:00", "00:00:00.5") && less(Class::Time, "99:00:00", "838:59:59"));
        assert!(less(Class::Text, "10", "9") && less(Class::Moment, "2026-02-01", "2026-02-01 00:00:00.5"));
        let equal = |class, a: &str, b: &str| compare(class, a, b) == Some(Ordering::Equal);
        assert!(equal(Class::Number, "1.50", "01.5") && equal(Class::Number, "-0.0", "0"));
        assert!(equal(Class::Moment, "2026-02-01", "2026-02-01T00:00:00.000"));
        assert!(equal(Class::Moment, "2026-02-10 10:00:00.500", "2026-02-10 10:00:00.5"));
        for (class, text) in
            [(Class::Number, "1.2.3"), (Class::Time, "noon"), (Class::Bytes, "?"), (Class::Date, "soon")]
        {
            assert!(class.parse(text).is_none(), "{text}");
        }
        // A plugin may pass any text.
        assert!(time("4294967295:4294967295:4294967295").is_none());
        assert!(time("2000000000:00:00").is_some());
        assert!(time("9223372036854775807:00:00").is_none());
    }
}
