//! The tokens of SQL text, as the server that logged it reads them.
//!
//! Where a token ends depends on the session that sent the statement: on `ANSI_QUOTES` and
//! `NO_BACKSLASH_ESCAPES` of its `sql_mode`, and on its client's character set: in some of them the second byte
//! of a character may be a backslash, a backtick or a letter. The query event has both.
//! <https://dev.mysql.com/doc/refman/9.7/en/string-literals.html>, <https://dev.mysql.com/doc/refman/9.7/en/comments.html>

use super::charset::Charset;

/// What of a session decides how its text is read.
#[derive(Debug, Clone)]
pub(super) struct Dialect {
    /// Double quotes enclose identifiers, not strings.
    pub ansi_quotes: bool,
    /// A backslash within a string is a character like any other.
    pub plain_backslashes: bool,
    /// The character set of the text.
    pub charset: Charset,
}

/// Of text that the server writes itself: names are in its own character set, UTF-8, and quoted either way.
pub(super) static OF_SERVER: Dialect = Dialect { ansi_quotes: true, plain_backslashes: true, charset: Charset::Utf8 };

impl Dialect {
    /// The length of the character that `bytes` begins with, as far as its further bytes can look like ASCII;
    /// 1 in sets where they can't, or where the character isn't one of the set.
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

/// A token. Comments and white space are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A keyword, a name without quotes, or a number.
    Word(&'a [u8]),
    /// A name in quotes: what stands between them, where the mark itself is written twice.
    Quoted(u8, &'a [u8]),
    /// A string.
    Text,
    /// Another character.
    Symbol(u8),
}

impl Token<'_> {
    /// Whether it is this keyword, given in upper case.
    pub fn is(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// The name that it may be, as UTF-8; `None` if it is none, or not valid in the text's character set.
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

/// The tokens of a statement, one after another.
#[derive(Debug, Clone)]
pub(super) struct Tokens<'a> {
    rest: &'a [u8],
    dialect: &'a Dialect,
}

impl<'a> Tokens<'a> {
    pub fn new(text: &'a [u8], dialect: &'a Dialect) -> Self {
        Self { rest: text, dialect }
    }

    /// The text that is left, without the comments and white space before it.
    pub fn rest(&self) -> &'a [u8] {
        without_comments(self.rest)
    }

    /// Whether nothing stands between the last token and the next: a function's name and its parenthesis.
    pub fn is_adjacent(&self) -> bool {
        self.rest.first().is_some_and(|byte| !byte.is_ascii_whitespace() && *byte != b'/')
    }

    /// The next word in upper case; empty where the next token isn't one.
    pub fn keyword(&mut self) -> String {
        match self.next() {
            Some(Token::Word(word)) => String::from_utf8_lossy(word).to_ascii_uppercase(),
            _ => String::new(),
        }
    }

    /// The length of the word that `bytes` begins with.
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

    /// What stands in quotes at the beginning of `bytes`, and the length with the marks. Without an end it is all.
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

/// The text behind the white space and comments that it begins with. What stands in `/*! ... */` is executed: where a
/// server doesn't execute it, it removes the exclamation mark before it logs the statement.
fn without_comments(text: &[u8]) -> &[u8] {
    let mut rest = text.trim_ascii_start();
    loop {
        let executed = rest.strip_prefix(b"/*!").or_else(|| rest.strip_prefix(b"/*M!"));
        rest = if let Some(behind) = executed {
            let digits = behind.iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
            &behind[if digits >= 5 { digits } else { 0 }..]
        } else if rest.starts_with(b"/*") {
            behind(&rest[2..], b"*/")
        } else if let Some(behind) = rest.strip_prefix(b"*/") {
            behind // the end of an executed one
        } else if rest.starts_with(b"#") || is_line_comment(rest) {
            behind(rest, b"\n")
        } else {
            return rest;
        };
        rest = rest.trim_ascii_start();
    }
}

/// Two hyphens begin a comment where white space or a control character follows.
fn is_line_comment(text: &[u8]) -> bool {
    match text {
        b"--" => true,
        [b'-', b'-', next, ..] => next.is_ascii_whitespace() || next.is_ascii_control(),
        _ => false,
    }
}

/// What follows the first `end`; nothing where there is none.
fn behind<'a>(text: &'a [u8], end: &[u8]) -> &'a [u8] {
    let at = text.windows(end.len()).position(|bytes| bytes == end);
    at.map_or(&[], |at| &text[at + end.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(charset: &str) -> Dialect {
        Dialect { ansi_quotes: false, plain_backslashes: false, charset: Charset::of_name(charset) }
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
        // One that isn't a character is two.
        assert_eq!(shown(b"'\x81' a", &dialect("cp932")), "' a");
        // In the other sets it's a backslash and a backtick.
        assert_eq!(shown(b"'\xc3\x5c' a ' b", &dialect("latin1")), "' b");
    }

    #[test]
    fn names_are_decoded() {
        let name = |text: &[u8], dialect: &Dialect| Tokens::new(text, dialect).next()?.name(dialect);
        assert_eq!(name(b"`a``b\"`", &dialect("utf8mb4")).as_deref(), Some("a`b\""));
        assert_eq!(name(b"\"a\"\"b\"", &OF_SERVER).as_deref(), Some("a\"b"));
        assert_eq!(name(b"`\x95\x5c`", &dialect("cp932")).as_deref(), Some("表"));
        assert_eq!(name(b"caf\xe9", &dialect("latin1")).as_deref(), Some("café"));
        assert_eq!(name(b"`\xff`", &dialect("utf8mb4")), None);
        assert_eq!(name(b"12", &dialect("utf8mb4")), None);
        assert_eq!(name(b"'a'", &dialect("utf8mb4")), None);
    }
}
