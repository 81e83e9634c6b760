//! The report of the measurements, in Markdown.

use anyhow::Context;
use rowmill_tests::top;

const FILE: &str = "docs/speed.md";

/// The lines of one section, which are also printed as they come.
#[derive(Debug)]
pub struct Report {
    section: String,
    text: String,
}

impl Report {
    pub fn new(section: &str) -> Self {
        Self { section: section.to_owned(), text: String::new() }
    }

    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Replaces the section in the docs.
    pub fn write(&self) -> anyhow::Result<()> {
        let path = top().join(FILE);
        let docs = std::fs::read_to_string(&path)?;
        let (begin, end) =
            (format!("<!-- tests/bench {} -->\n", self.section), format!("<!-- end of {} -->\n", self.section));
        let (before, rest) = docs.split_once(&begin).with_context(|| format!("{FILE} has no {begin}"))?;
        let (_, after) = rest.split_once(&end).with_context(|| format!("{FILE} has no {end}"))?;
        std::fs::write(path, [before, &begin, "\n", self.text.trim_end(), "\n\n", &end, after].concat())?;
        Ok(())
    }
}
