//! Patterns of `LIKE`.

/// A pattern of `LIKE`: `%` is any text, `_` any character, and a backslash takes the next character as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<PatternPart>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatternPart {
    AnyText,
    AnyChar,
    Char(char),
}

impl Pattern {
    pub fn new(text: &str) -> Self {
        let mut chars = text.chars();
        let mut parts = Vec::new();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' if parts.last() == Some(&PatternPart::AnyText) => continue,
                '%' => PatternPart::AnyText,
                '_' => PatternPart::AnyChar,
                '\\' => PatternPart::Char(chars.next().unwrap_or('\\')),
                c => PatternPart::Char(c),
            });
        }
        Self(parts)
    }

    pub fn matches(&self, text: &str) -> bool {
        let parts = &self.0;
        let (mut part, mut rest) = (0, text.chars());
        // Where to go on if what follows the last `%` does not match.
        let mut again: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            match parts.get(part) {
                Some(PatternPart::AnyText) if part + 1 == parts.len() => return true,
                Some(PatternPart::AnyText) => {
                    part += 1;
                    again = Some((part, rest.clone()));
                    continue;
                }
                None if rest.as_str().is_empty() => return true,
                Some(wanted) => match rest.next() {
                    Some(c) if *wanted == PatternPart::AnyChar || *wanted == PatternPart::Char(c) => {
                        part += 1;
                        continue;
                    }
                    Some(_) => {}
                    None => return false,
                },
                None => {}
            }
            let Some((from, after)) = &mut again else { return false };
            if after.next().is_none() {
                return false;
            }
            (part, rest) = (*from, after.clone());
        }
    }
}
