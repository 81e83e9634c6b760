//! What was measured, for people who read docs.

use anyhow::Context;
use rowmill_tests::top;

const FILE: &str = "docs/speed.md";
const BEGIN: &str = "<!-- tests/bench writes what follows -->\n";
const END: &str = "<!-- up to here -->\n";

/// Lines, which are printed as they come.
#[derive(Debug, Default)]
pub struct Report(String);

impl Report {
    pub fn line(&mut self, line: &str) {
        println!("{line}");
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Puts all of it into the docs.
    pub fn write(&self) -> anyhow::Result<()> {
        let path = top().join(FILE);
        let text = std::fs::read_to_string(&path)?;
        let (before, rest) = text.split_once(BEGIN).context(FILE)?;
        let (_, after) = rest.split_once(END).context(FILE)?;
        std::fs::write(path, [before, BEGIN, "\n", self.0.trim_end(), "\n\n", END, after].concat())?;
        Ok(())
    }
}
