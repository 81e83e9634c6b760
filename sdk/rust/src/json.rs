//! JSON that SQS takes, for bodies that are built by hand. `serde_json` works as well.

use std::fmt::Write;

/// Appends a number; `null` without one.
pub fn push_number(out: &mut String, number: Option<impl std::fmt::Display>) {
    match number {
        Some(number) => write!(out, "{number}").expect("writing to memory doesn't fail"),
        None => out.push_str("null"),
    }
}

/// Appends a string with its quotes; `null` without one. What SQS refuses (controls, U+FFFE, U+FFFF) is escaped.
pub fn push_text(out: &mut String, text: Option<&str>) {
    let Some(text) = text else {
        out.push_str("null");
        return;
    };
    out.push('"');
    let mut rest = text;
    // 0xef begins U+FFFE and U+FFFF, among others.
    let is_special = |byte: u8| byte < b' ' || matches!(byte, b'"' | b'\\' | 0xef);
    let mut from = 0;
    while let Some(next) = rest.as_bytes()[from..].iter().position(|&byte| is_special(byte)) {
        let at = from + next;
        let c = rest[at..].chars().next().unwrap_or_default();
        if c > '\\' && !matches!(c, '\u{fffe}' | '\u{ffff}') {
            from = at + c.len_utf8();
            continue;
        }
        out.push_str(&rest[..at]);
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            _ => write!(out, "\\u{:04x}", u32::from(c)).expect("writing to memory doesn't fail"),
        }
        rest = &rest[at + c.len_utf8()..];
        from = 0;
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sqs_refuses_is_escaped() {
        let mut out = String::new();
        push_text(&mut out, Some("a\"\\\u{1}\n\u{fffd}\u{fffe}\u{ffff}é\u{e000}"));
        push_text(&mut out, None);
        push_number(&mut out, Some(-1));
        assert_eq!(out, "\"a\\\"\\\\\\u0001\\u000a\u{fffd}\\ufffe\\uffffé\u{e000}\"null-1");
    }
}
