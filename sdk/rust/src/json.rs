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
    let is_special = |c: char| c < ' ' || matches!(c, '"' | '\\' | '\u{fffe}' | '\u{ffff}');
    while let Some(at) = rest.find(is_special) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let c = special.chars().next().unwrap_or_default();
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            _ => write!(out, "\\u{:04x}", u32::from(c)).expect("writing to memory doesn't fail"),
        }
        rest = &special[c.len_utf8()..];
    }
    out.push_str(rest);
    out.push('"');
}
