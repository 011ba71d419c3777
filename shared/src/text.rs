//! Text from outside: what a CA, a web server, a client or an operator wrote may be told on a terminal and in a log, and must not
//! be obeyed there.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::{borrow::Cow, fmt::Write as _};

/// The text with every character escaped, as JSON does it, that a terminal could obey or that hides what is there. Line breaks and
/// tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

/// The same on one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// A moment as people see it: `2026-11-30 13:21 UTC`.
pub fn moment(at: Timestamp) -> String {
    at.strftime("%F %H:%M UTC").to_string()
}

/// The text with every moment that stands there as programs write it (RFC 3339, UTC) in the form for people.
pub fn with_moments(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_digit) {
        let digits = &rest[at..];
        let begins = rest[..at].chars().next_back().or(out.chars().next_back());
        let whole =
            !begins.is_some_and(|before| before.is_alphanumeric() || matches!(before, '-' | '.' | ':'));
        let length = if whole { length_of_moment(digits) } else { 0 };
        match digits[..length].parse::<Timestamp>() {
            Ok(found) => {
                out.push_str(&rest[..at]);
                out.push_str(&moment(found));
                rest = &digits[length..];
            }
            Err(_) => {
                let end = digits.find(|character| !is_digit(character)).unwrap_or(digits.len());
                out.push_str(&rest[..at + end]);
                rest = &digits[end..];
            }
        }
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// A moment as programs write it, in whole seconds; `None` where the text is none.
pub fn in_whole_seconds(text: &str) -> Option<String> {
    if length_of_moment(text) != text.len() {
        return None;
    }
    let at: Timestamp = text.parse().ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// What is given to programs: moments are RFC 3339 in whole seconds.
///
/// # Panics
/// What is given is no plain data.
pub fn to_document(result: &impl Serialize) -> Value {
    let mut document = serde_json::to_value(result).expect("results are plain data");
    cut_seconds(&mut document);
    document
}

fn cut_seconds(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some(whole) = in_whole_seconds(text) {
                *text = whole;
            }
        }
        Value::Array(members) => members.iter_mut().for_each(cut_seconds),
        Value::Object(members) => members.values_mut().for_each(cut_seconds),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// How many bytes at the beginning have the form of a moment; 0: they have not.
fn length_of_moment(text: &str) -> usize {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let bytes = text.as_bytes();
    let fits = |(form, byte): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { form == byte };
    if bytes.len() <= FORM.len() || !FORM.iter().zip(bytes).all(fits) {
        return 0;
    }
    let mut end = FORM.len();
    if bytes[end] == b'.' {
        end += 1 + bytes[end + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    }
    if bytes.get(end) == Some(&b'Z') { end + 1 } else { 0 }
}

fn is_digit(character: char) -> bool {
    character.is_ascii_digit()
}

/// Whether a text may be kept as a remark: short, and nothing in it that would have to be escaped.
pub fn is_remark(text: &str) -> bool {
    text.chars().count() <= MOST_OF_REMARK && !text.chars().any(is_obeyed)
}

/// The most characters of a remark.
pub const MOST_OF_REMARK: usize = 500;

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| is_obeyed(character) && !stays(character);
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            // Into a string nothing fails.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// Controls (C0, DEL, C1), line and paragraph separators, and marks that turn the direction of writing.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        assert_eq!(
            printable("a \u{1b}[31mred\u{9b}2J\u{7f}\0\r\nb\t상점"),
            "a \\u001b[31mred\\u009b2J\\u007f\\u0000\\u000d\nb\t상점"
        );
        assert_eq!(one_line("a\nb\u{202e}c\u{2066}"), "a\\u000ab\\u202ec\\u2066");
        assert!(matches!(printable("plain\ntext"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string(&["\u{9b}\u{1b}\u{2028}"]).unwrap();
        let back: Vec<String> = serde_json::from_str(&printable(&text)).unwrap();
        assert_eq!(back, ["\u{9b}\u{1b}\u{2028}"]);
        assert!(!printable(&text).chars().any(|character| character.is_control()));
    }

    #[test]
    fn people_see_moments_in_one_form() {
        assert_eq!(
            with_moments("last at 2026-11-30T13:21:07.123456789Z (3 in a row), until 2026-12-01T00:00:00Z."),
            "last at 2026-11-30 13:21 UTC (3 in a row), until 2026-12-01 00:00 UTC."
        );
        for same in [
            "192.0.2.7 and 상점 7",
            "",
            "2026-11-30T13:21:07",
            "2026-13-30T13:21:07Z",
            "x2026-11-30T13:21:07Z",
            "2026-11-30",
        ] {
            assert_eq!(with_moments(same), same);
        }
    }

    #[test]
    fn programs_see_whole_seconds() {
        assert_eq!(in_whole_seconds("2026-11-30T13:21:07.999Z").as_deref(), Some("2026-11-30T13:21:07Z"));
        assert_eq!(in_whole_seconds("2026-11-30T13:21:07Z").as_deref(), Some("2026-11-30T13:21:07Z"));
        assert_eq!(in_whole_seconds("2026-11-30T13:21:07Z and more"), None);
        assert_eq!(in_whole_seconds("a.example"), None);
    }

    #[test]
    fn remarks_are_short_and_plain() {
        assert!(is_remark("") && is_remark("until Monday: see #12") && is_remark(&"상".repeat(500)));
        assert!(!is_remark("a\nb") && !is_remark("\u{1b}[2J") && !is_remark(&"a".repeat(501)));
    }
}
