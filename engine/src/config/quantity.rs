//! Numbers with units.

use std::time::Duration;

use serde::Deserialize;

/// A number, or text of a number and a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Quantity {
    /// A number without a unit.
    Number(u64),
    /// A number and a unit, such as `64MiB`.
    Text(String),
}

impl Quantity {
    /// Returns the bytes of a number, or of text such as `64MiB`. `None`: 0, or not a size.
    pub fn bytes(&self) -> Option<usize> {
        self.in_units(&[("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)])
    }

    /// Returns the duration of text such as `250ms` or `8s`. `None`: 0, or not a duration.
    pub fn duration(&self) -> Option<Duration> {
        let milliseconds = self.in_units(&[("ms", 1), ("s", 1000), ("m", 60_000)])?;
        Some(Duration::from_millis(milliseconds as u64))
    }

    /// Returns the number in the smallest unit, if it is more than 0.
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
