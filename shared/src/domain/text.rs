//! Texts of others, cut to a length that nothing is filled with.

/// Characters of a sentence that is kept: of a failure, of an event.
pub const LONGEST_SENTENCE: usize = 2_000;

/// At most so many characters of a text; what was cut off is marked.
pub fn bounded(text: &str, most_chars: usize) -> String {
    match text.char_indices().nth(most_chars) {
        None => text.to_owned(),
        Some(_) => {
            let kept: String = text.chars().take(most_chars.saturating_sub(1)).collect();
            kept + "…"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_so_many_characters_are_kept() {
        assert_eq!(bounded("한국어", 3), "한국어");
        assert_eq!(bounded("한국어!", 3), "한국…");
        assert_eq!(bounded("", 0), "");
        assert_eq!(bounded(&"x".repeat(900_000), LONGEST_SENTENCE).chars().count(), LONGEST_SENTENCE);
    }
}
