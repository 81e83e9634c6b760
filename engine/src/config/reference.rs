//! Checks the reference page, `docs/configuration.md`, against the types that read a configuration.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// Returns the keys that a type accepts, as its error about an unknown key lists them.
fn keys_of_type<T: DeserializeOwned>() -> BTreeSet<String> {
    const UNKNOWN: &str = "no_such_key";
    let error = toml::from_str::<T>(&format!("{UNKNOWN} = 1")).err().expect("unknown keys are refused").to_string();
    let (_, expected) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the keys in the first column of a section's table.
fn keys_of_section(heading: &str) -> BTreeSet<String> {
    let (_, section) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no section {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let key = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    section.lines().filter_map(key).collect()
}

/// Asserts that a section of the page lists the keys of a type, each of them and no other.
pub(crate) fn assert_section<T: DeserializeOwned>(heading: &str) {
    assert_eq!(keys_of_section(heading), keys_of_type::<T>(), "docs/configuration.md, section {heading}");
}
