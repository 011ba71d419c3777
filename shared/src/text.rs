//! Text from outside: what a CA, a web server, a client or an operator wrote may be told on a terminal and in a log, and must not
//! be obeyed there.

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
    fn remarks_are_short_and_plain() {
        assert!(is_remark("") && is_remark("until Monday: see #12") && is_remark(&"상".repeat(500)));
        assert!(!is_remark("a\nb") && !is_remark("\u{1b}[2J") && !is_remark(&"a".repeat(501)));
    }
}
