//! The tokens of SQL text, as the server that logged it reads them.
//!
//! Where a token ends depends on the session that sent the statement: on `ANSI_QUOTES` and `NO_BACKSLASH_ESCAPES` of
//! its `sql_mode`, and on its client's character set, since in some sets the second byte of a character may be a
//! backslash, a backtick or a letter. The query event has both.
//! <https://dev.mysql.com/doc/refman/9.7/en/string-literals.html>, <https://dev.mysql.com/doc/refman/9.7/en/comments.html>

use super::charset::Charset;

/// The settings of a session that decide how its text is read.
#[derive(Debug, Clone)]
pub(super) struct Dialect {
    /// Whether double quotes enclose identifiers, not strings.
    pub ansi_quotes: bool,
    /// Whether a backslash within a string is an ordinary character.
    pub plain_backslashes: bool,
    /// The character set of the text.
    pub charset: Charset,
}

/// The dialect of text that the server generates: names are UTF-8, in either kind of quotes.
pub(super) static SERVER_DIALECT: Dialect =
    Dialect { ansi_quotes: true, plain_backslashes: true, charset: Charset::Utf8 };

impl Dialect {
    /// Returns the length of the first character of `bytes` if its further bytes may look like ASCII; 1 in character
    /// sets where they can't, and for an invalid character.
    fn character_len(&self, bytes: &[u8]) -> usize {
        let Charset::MultiByte(set) = &self.charset else { return 1 };
        match (set.name, bytes) {
            ("big5", [0xa1..=0xf9, 0x40..=0x7e | 0xa1..=0xfe, ..])
            | ("gbk" | "gb18030", [0x81..=0xfe, 0x40..=0x7e | 0x80..=0xfe, ..])
            | ("sjis" | "cp932", [0x81..=0x9f | 0xe0..=0xfc, 0x40..=0x7e | 0x80..=0xfc, ..])
            | ("euckr", [0x81..=0xfe, 0x41..=0x5a | 0x61..=0x7a | 0x81..=0xfe, ..]) => 2,
            ("gb18030", [0x81..=0xfe, 0x30..=0x39, 0x81..=0xfe, 0x30..=0x39, ..]) => 4,
            _ => 1,
        }
    }
}

/// A token. Comments and white space are not tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword, a name without quotes, or a number.
    Word(&'a [u8]),
    /// A quoted name: the quotation mark, and the text between the marks, in which the mark itself is doubled.
    Quoted(u8, &'a [u8]),
    /// A string.
    Text,
    /// Another character.
    Symbol(u8),
}

impl Token<'_> {
    /// Whether the token is `keyword`; upper and lower case are the same.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Returns the token as a name in UTF-8; `None` if it can't be a name, or is invalid in the text's character set.
    pub fn name(&self, dialect: &Dialect) -> Option<String> {
        let mut name = Vec::new();
        match *self {
            Self::Word(word) if word.iter().all(u8::is_ascii_digit) => return None,
            Self::Word(word) => dialect.charset.decode(word, &mut name).ok()?,
            Self::Quoted(_, quoted) => dialect.charset.decode(quoted, &mut name).ok()?,
            Self::Text | Self::Symbol(_) => return None,
        }
        let name = String::from_utf8(name).ok()?;
        match *self {
            Self::Quoted(mark, _) => {
                let mark = char::from(mark);
                Some(name.replace(&format!("{mark}{mark}"), &mark.to_string()))
            }
            _ => Some(name),
        }
    }
}

/// An iterator over the tokens of a statement.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'a> {
    rest: &'a [u8],
    dialect: &'a Dialect,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a [u8], dialect: &'a Dialect) -> Self {
        Self { rest: text, dialect }
    }

    /// Returns the remaining text, without the comments and white space before it.
    pub fn rest(&self) -> &'a [u8] {
        without_comments(self.rest)
    }

    /// Whether the next token directly follows the last one, as the parenthesis of a function follows its name.
    pub fn is_adjacent(&self) -> bool {
        self.rest.first().is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != b'/')
    }

    /// Returns the next word in upper case; empty if the next token isn't a word.
    pub fn keyword(&mut self) -> String {
        match self.next() {
            Some(Token::Word(word)) => String::from_utf8_lossy(word).to_ascii_uppercase(),
            _ => String::new(),
        }
    }

    /// Returns the length of the word at the beginning of `bytes`.
    fn word_len(&self, bytes: &[u8]) -> usize {
        let mut len = 0;
        while let Some(&byte) = bytes.get(len) {
            if !byte.is_ascii_alphanumeric() && !matches!(byte, b'_' | b'$' | 0x80..) {
                break;
            }
            len += self.dialect.character_len(&bytes[len..]);
        }
        len
    }

    /// Returns the quoted text at the beginning of `bytes`, and its length with the marks. Text without a closing mark
    /// extends to the end.
    fn quoted(&self, bytes: &'a [u8], has_escapes: bool) -> (&'a [u8], usize) {
        let mark = bytes[0];
        let mut at = 1;
        while let Some(&byte) = bytes.get(at) {
            if byte == b'\\' && has_escapes {
                at += 2;
            } else if byte != mark {
                at += self.dialect.character_len(&bytes[at..]);
            } else if bytes.get(at + 1) == Some(&mark) {
                at += 2;
            } else {
                return (&bytes[1..at], at + 1);
            }
        }
        (&bytes[1..], bytes.len())
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = without_comments(self.rest);
        let (token, len) = match *bytes.first()? {
            mark @ (b'\'' | b'"') if mark == b'\'' || !self.dialect.ansi_quotes => {
                let (_, len) = self.quoted(bytes, !self.dialect.plain_backslashes);
                (Token::Text, len)
            }
            mark @ (b'`' | b'"') => {
                let (name, len) = self.quoted(bytes, false);
                (Token::Quoted(mark, name), len)
            }
            byte => match self.word_len(bytes) {
                0 => (Token::Symbol(byte), 1),
                len => (Token::Word(&bytes[..len]), len),
            },
        };
        self.rest = &bytes[len..];
        Some(token)
    }
}

/// Returns the text after leading white space and comments. The content of `/*! ... */` is part of the statement: a
/// server that doesn't execute it removes the exclamation mark before it logs the statement.
fn without_comments(text: &[u8]) -> &[u8] {
    let mut rest = text.trim_ascii_start();
    loop {
        let executed = rest.strip_prefix(b"/*!").or_else(|| rest.strip_prefix(b"/*M!"));
        rest = if let Some(after) = executed {
            let digits = after.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
            &after[if digits >= 5 { digits } else { 0 }..]
        } else if rest.starts_with(b"/*") {
            after(&rest[2..], b"*/")
        } else if let Some(after) = rest.strip_prefix(b"*/") {
            after // the end of an executed comment
        } else if rest.starts_with(b"#") || is_line_comment(rest) {
            after(rest, b"\n")
        } else {
            return rest;
        };
        rest = rest.trim_ascii_start();
    }
}

/// Whether the text begins with a line comment: two hyphens before white space or a control character.
fn is_line_comment(text: &[u8]) -> bool {
    match text {
        b"--" => true,
        [b'-', b'-', next, ..] => next.is_ascii_whitespace() || next.is_ascii_control(),
        _ => false,
    }
}

/// Returns the text after the first `end`; empty if there is none.
fn after<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    let at = text.windows(end.len()).position(|bytes| bytes == end);
    at.map_or(&[], |at| &text[at + end.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(charset: &str) -> Dialect {
        Dialect { ansi_quotes: false, plain_backslashes: false, charset: Charset::by_name(charset) }
    }

    fn shown(text: &[u8], dialect: &Dialect) -> String {
        let show = |token| match token {
            Token::Word(word) => String::from_utf8_lossy(word).into_owned(),
            Token::Quoted(..) => "`".to_owned(),
            Token::Text => "'".to_owned(),
            Token::Symbol(byte) => char::from(byte).to_string(),
        };
        Tokens::new(text, dialect).map(show).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_are_none_unless_they_are_executed() {
        for (text, expected) in [
            (&b"/* app */ a -- b\n# c\nd"[..], "a d"),
            (b"a --\tb\nc --d", "a c - - d"),
            (b"a --", "a"),
            (b"/*!50003 a */ b /*M!100501 c*/ /*! 12 d */", "a b c 12 d"),
            (b"alter/**/table", "alter table"),
            (b"/* unfinished", ""),
            (b"a /*+ hint */ `/*` '--' \"#\"", "a ` ' '"),
        ] {
            assert_eq!(shown(text, &dialect("utf8mb4")), expected, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn quotes_end_where_the_session_says() {
        let plain = dialect("utf8mb4");
        assert_eq!(shown(br"'a\' b' c", &plain), "' c");
        assert_eq!(shown(br#""a'" 'it''s' `b\` c"#, &plain), "' ' ` c");
        let no_escapes = Dialect { plain_backslashes: true, ..dialect("utf8mb4") };
        assert_eq!(shown(br"'a\', b 'c'", &no_escapes), "' , b '");
        let ansi = Dialect { ansi_quotes: true, ..dialect("utf8mb4") };
        assert_eq!(shown(br#""a\" b "c""d""#, &ansi), "` b `");
    }

    #[test]
    fn characters_of_several_bytes_are_taken_whole() {
        // The second bytes are a backslash and a backtick.
        for (charset, text) in [
            ("cp932", &b"'\x95\x5c' a `\x83\x60` b"[..]),
            ("sjis", b"'\x95\x5c' a `\x83\x60` b"),
            ("gbk", b"'\x81\x5c' a `\x81\x60` b"),
            ("gb18030", b"'\x81\x5c\x81\x30\x81\x30' a `\x81\x60` b"),
            ("big5", b"'\xa4\x5c' a `\xa1\x60` b"),
        ] {
            assert_eq!(shown(text, &dialect(charset)), "' a ` b", "{charset}");
        }
        // An invalid character counts as two.
        assert_eq!(shown(b"'\x81' a", &dialect("cp932")), "' a");
        // In other sets the second byte is a backslash.
        assert_eq!(shown(b"'\xc3\x5c' a ' b", &dialect("latin1")), "' b");
    }

    #[test]
    fn names_are_decoded() {
        let name = |text: &[u8], dialect: &Dialect| Tokens::new(text, dialect).next()?.name(dialect);
        assert_eq!(name(b"`a``b\"`", &dialect("utf8mb4")).as_deref(), Some("a`b\""));
        assert_eq!(name(b"\"a\"\"b\"", &SERVER_DIALECT).as_deref(), Some("a\"b"));
        assert_eq!(name(b"`\x95\x5c`", &dialect("cp932")).as_deref(), Some("表"));
        assert_eq!(name(b"caf\xe9", &dialect("latin1")).as_deref(), Some("café"));
        assert_eq!(name(b"`\xff`", &dialect("utf8mb4")), None);
        assert_eq!(name(b"12", &dialect("utf8mb4")), None);
        assert_eq!(name(b"'a'", &dialect("utf8mb4")), None);
    }
}
