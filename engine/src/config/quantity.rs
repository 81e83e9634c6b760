//! Numbers with units, in configuration files.

use std::time::Duration;

use serde::Deserialize;

/// A number, or text with a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    /// A number without a unit.
    Number(u64),
    /// A number and a unit.
    Text(String),
}

impl Quantity {
    /// Bytes, more than none: a number, or a text as `64MiB`.
    pub fn bytes(&self) -> Option<usize> {
        self.in_units(&[("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
    }

    /// A time, longer than none: a text as `250ms` or `8s`.
    pub fn duration(&self) -> Option<Duration> {
        let milliseconds = self.in_units(&[("ms", 1), ("s", 1000), ("m", 60_000)])?;
        Some(Duration::from_millis(milliseconds as u64))
    }

    /// The number of the smallest unit; more than none.
    fn in_units(&self, units: &[(&str, u64)]) -> Option<usize> {
        let (number, unit) = match self {
            Self::Number(number) => (*number, ""),
            Self::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                (text[..end].parse().ok()?, text[end..].trim())
            }
        };
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        usize::try_from(number.checked_mul(*factor)?).ok().filter(|&number| number > 0)
    }
}
