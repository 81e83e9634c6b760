//! Exact decimal numbers.

use std::cmp::Ordering;

use rowmill_core::envelope::push_int;

/// Digits that a number may have, so that it fits 128 bits.
const DIGITS_MAX: usize = 38;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transform) enum Operator {
    Add,
    Subtract,
    Multiply,
}

/// An exact number: `digits` divided by 10 to the power of `scale`.
#[derive(Debug, Clone, Copy)]
pub(in crate::transform) struct Number {
    digits: i128,
    scale: u32,
}

impl From<i64> for Number {
    fn from(integer: i64) -> Self {
        Self { digits: integer.into(), scale: 0 }
    }
}

impl From<u64> for Number {
    fn from(integer: u64) -> Self {
        Self { digits: integer.into(), scale: 0 }
    }
}

impl Number {
    /// Parses a decimal such as `-12.50`. `None` if it is not one, or has more digits than fit.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut number = 0i128;
        // Eighteen digits fit 64 bits, which are much faster.
        for part in [whole, fraction] {
            for digits in part.as_bytes().chunks(18) {
                let mut value = 0u64;
                for digit in digits {
                    value = value * 10 + u64::from(Some(digit.wrapping_sub(b'0')).filter(|&digit| digit < 10)?);
                }
                number = match number {
                    0 => value.into(),
                    _ => number.checked_mul(10i128.pow(digits.len() as u32))?.checked_add(value.into())?,
                };
            }
        }
        Some(Self { digits: if is_negative { -number } else { number }, scale: fraction.len() as u32 })
    }

    /// Returns the exact result, with the scale of MySQL's.
    ///
    /// # Errors
    /// If it has more digits than fit.
    pub fn calculate(self, operator: Operator, other: Self) -> Result<Self, String> {
        let result = match operator {
            Operator::Multiply => {
                let digits = self.digits.checked_mul(other.digits);
                digits.map(|digits| Self { digits, scale: self.scale + other.scale })
            }
            Operator::Add | Operator::Subtract => {
                let scale = self.scale.max(other.scale);
                self.at_scale(scale).zip(other.at_scale(scale)).and_then(|(a, b)| {
                    let digits = if operator == Operator::Add { a.checked_add(b) } else { a.checked_sub(b) };
                    digits.map(|digits| Self { digits, scale })
                })
            }
        };
        result.ok_or_else(|| format!("a result of more than {DIGITS_MAX} digits"))
    }

    pub fn negative(self) -> Self {
        Self { digits: -self.digits, ..self }
    }

    /// Rounds to `scale` decimal places, half away from zero, as MySQL does. A smaller scale stays as it is.
    pub fn round(self, scale: u32) -> Self {
        let Some(dropped) = self.scale.checked_sub(scale).filter(|&dropped| dropped > 0) else { return self };
        // A power that does not fit is larger than all digits.
        let Some(unit) = 10i128.checked_pow(dropped) else { return Self { digits: 0, scale } };
        let (whole, rest) = (self.digits / unit, self.digits % unit);
        let is_up = rest.unsigned_abs() >= unit.unsigned_abs().div_ceil(2);
        Self { digits: if is_up { whole + self.digits.signum() } else { whole }, scale }
    }

    pub fn is_integer(self) -> bool {
        self.scale == 0
    }

    fn at_scale(self, scale: u32) -> Option<i128> {
        10i128.checked_pow(scale - self.scale).and_then(|unit| self.digits.checked_mul(unit))
    }

    /// Appends the number with all digits of its scale.
    pub fn push(self, out: &mut Vec<u8>) {
        let mut buffer = Vec::with_capacity(40);
        let size = self.digits.unsigned_abs();
        match u64::try_from(size) {
            Ok(small) => push_int(small, &mut buffer),
            Err(_) => push_int(size, &mut buffer),
        }
        let digits = &buffer[..];
        if self.digits < 0 {
            out.push(b'-');
        }
        let scale = self.scale as usize;
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
        out.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
        if scale > 0 {
            out.push(b'.');
            out.resize(out.len() + (scale - fraction.len()), b'0');
            out.extend_from_slice(fraction);
        }
    }

    pub fn text(self) -> String {
        let mut out = Vec::new();
        self.push(&mut out);
        String::from_utf8(out).unwrap_or_default()
    }
}

/// Compares decimals of any length by their digits.
pub(super) fn compare_decimals(a: &str, b: &str) -> Ordering {
    fn parts(text: &str) -> (bool, &str, &str) {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        (negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction)
    }
    let ((a_negative, a_whole, a_fraction), (b_negative, b_whole, b_fraction)) = (parts(a), parts(b));
    let size = || {
        let wholes = a_whole.len().cmp(&b_whole.len()).then_with(|| a_whole.cmp(b_whole));
        wholes.then_with(|| a_fraction.cmp(b_fraction))
    };
    match (a_negative, b_negative) {
        (false, true) => Ordering::Greater,
        (true, false) => Ordering::Less,
        (false, false) => size(),
        (true, true) => size().reverse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_exact() {
        let number = |text: &str| Number::parse(text).expect("a number");
        let of = |a, operator, b| number(a).calculate(operator, number(b)).map(Number::text);
        assert_eq!(of("19.99", Operator::Multiply, "3"), Ok("59.97".to_owned()));
        assert_eq!(of("214748364678525163.51", Operator::Multiply, "1.00"), Ok("214748364678525163.5100".to_owned()));
        assert_eq!(of("0.1", Operator::Add, "0.20"), Ok("0.30".to_owned()));
        assert_eq!(of("1", Operator::Subtract, "1.05"), Ok("-0.05".to_owned()));
        let long = "9".repeat(DIGITS_MAX);
        assert!(of(&long, Operator::Multiply, "10").is_err_and(|error| error.contains("38 digits")));
        for (text, scale, rounded) in [
            ("2.5", 0, "3"),
            ("-2.5", 0, "-3"),
            ("2.449", 1, "2.4"),
            ("-0.004", 2, "0.00"),
            ("0.995", 2, "1.00"),
            ("7", 2, "7"),
            ("0.00000000000000000000000000000000000009", 0, "0"),
            ("12345678901234567890.12345678901234567", 17, "12345678901234567890.12345678901234567"),
            ("-1000000000000000000000.5", 1, "-1000000000000000000000.5"),
            ("000000000000000000000000000000000000000001.10", 1, "1.1"),
        ] {
            assert_eq!(number(text).round(scale).text(), rounded, "{text}");
        }
        for text in ["", "-", ".", "1.2.3", "x", "1e3"] {
            assert!(Number::parse(text).is_none(), "{text}");
        }
    }
}
