//! Tags of sites: what frontends, brakes and lists name them by.

/// A text that no site's tag can be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} can't be a tag: use 1 to 63 letters, digits, -, _ and .")]
pub struct InvalidTag(String);

/// A tag as it was typed.
///
/// # Errors
/// [`InvalidTag`]: it would never match anything.
pub fn parse_tag(text: &str) -> Result<String, InvalidTag> {
    if is_word(text) { Ok(text.to_owned()) } else { Err(InvalidTag(text.to_owned())) }
}

/// Whether a text can be a tag, a tenant's or an account's name.
pub fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_match_is_no_tag() {
        for good in ["eu", "EU-west_1.a", "7"] {
            assert_eq!(parse_tag(good).as_deref(), Ok(good));
        }
        for bad in ["", "EU WEST", "a\0", "\u{1b}[2J", "상점", "a,b", " eu", &"a".repeat(64)] {
            assert!(parse_tag(bad).is_err(), "{bad:?}");
        }
        assert!(!parse_tag("\u{1b}[2J").unwrap_err().to_string().contains('\u{1b}'));
    }
}
