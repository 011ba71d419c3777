//! Dates in the server's objects (RFC 3339, with or without fractions of a second).

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// A date, or nothing where there is none or where it can't be read: no `expires` is worth losing an order for.
pub(super) fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.as_ref().and_then(|value| value.as_str()).and_then(parse))
}

/// An RFC 3339 date. Fractions down to nanoseconds are kept.
pub(super) fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_and_offsets_are_read() {
        for text in ["2016-01-20T14:09:07.99Z", "2016-01-20T14:09:07.990Z", "2016-01-20T15:09:07.99+01:00"] {
            assert_eq!(parse(text).unwrap().as_millisecond(), 1_453_298_947_990, "{text}");
        }
        assert_eq!(parse("next tuesday"), None);
        assert_eq!(parse(""), None);
    }
}
