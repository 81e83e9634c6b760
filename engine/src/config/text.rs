//! Text values, in which `${VAR}` stands for an environment variable.

use serde::{Deserialize, Deserializer, de::Error};

/// Text with its variables filled in.
pub(super) struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        interpolate(&text, |name| std::env::var(name).ok()).map(Self).map_err(D::Error::custom)
    }
}

fn interpolate(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').ok_or("a `${` without a closing `}`")?;
        out.push_str(before);
        out.push_str(&variable(name).ok_or_else(|| format!("the environment variable `{name}` is not set"))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_filled_in() {
        let variable = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(interpolate("x${A}y${A}", variable), Ok("x1y1".to_owned()));
        assert_eq!(interpolate("no $ variable", variable), Ok("no $ variable".to_owned()));
        assert!(interpolate("${B}", variable).is_err());
        assert!(interpolate("${A", variable).is_err());
    }
}
