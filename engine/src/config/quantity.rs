//! Sizes and durations.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// A longer duration is a mistake, and would overflow a clock.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// A number, or text of a number and a unit.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a number from 0 on, or a text with a unit, such as \"64MiB\" or \"8s\"")]
pub(crate) enum Quantity {
    /// A number without a unit.
    Number(u64),
    /// A number and a unit, such as `64MiB`.
    Text(String),
}

impl Quantity {
    /// Returns the bytes of a number, or of text such as `64MiB`. `None`: 0, or not a size.
    pub fn bytes(&self) -> Option<usize> {
        let bytes = match self {
            Self::Number(bytes) => *bytes,
            Self::Text(text) => text.parse::<ByteSize>().ok()?.as_u64(),
        };
        usize::try_from(bytes).ok().filter(|&bytes| bytes > 0)
    }

    /// Returns the duration of text such as `250ms` or `8s`. `None`: 0, more than a year, or not a
    /// duration.
    pub fn duration(&self) -> Option<Duration> {
        let Self::Text(text) = self else { return None };
        humantime::parse_duration(text).ok().filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        let text = |text: &str| Quantity::Text(text.to_owned());
        assert_eq!(text("64MiB").bytes(), Some(64 << 20));
        assert_eq!(text("64 KiB").bytes(), Some(64 << 10));
        assert_eq!(text("1000").bytes(), Some(1000));
        assert_eq!(text("1MB").bytes(), Some(1_000_000));
        assert_eq!(Quantity::Number(7).bytes(), Some(7));
        for wrong in ["", "0", "MiB", "1 parsec", "-1"] {
            assert_eq!(text(wrong).bytes(), None, "{wrong}");
        }
        assert_eq!(text("250ms").duration(), Some(Duration::from_millis(250)));
        assert_eq!(text("1m 30s").duration(), Some(Duration::from_secs(90)));
        for wrong in ["", "0s", "5", "5 parsecs", "-1s", "1000years"] {
            assert_eq!(text(wrong).duration(), None, "{wrong}");
        }
        assert_eq!(Quantity::Number(5).duration(), None);
    }

    #[test]
    fn other_values_are_refused_in_plain_words() {
        #[derive(Debug, Deserialize)]
        struct File {
            #[allow(dead_code)]
            size: Quantity,
        }
        for value in ["-1", "1.5", "true", "[1]"] {
            let error = toml::from_str::<File>(&format!("size = {value}")).expect_err(value).to_string();
            assert!(error.contains("a text with a unit") && !error.contains("Quantity"), "{error}");
        }
    }
}
