//! Which token a path asks for. A function of the path alone: what is no well-formed token ends here.

use shared::domain::Token;

/// Where the CA looks (RFC 8555 section 8.3).
const WELL_KNOWN: &str = "/.well-known/acme-challenge/";

/// The paths that tokens are answered under.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    second_prefix: Option<Box<str>>,
}

impl Paths {
    pub(crate) fn new(second_prefix: Option<&str>) -> Self {
        Self { second_prefix: second_prefix.map(Into::into) }
    }

    /// # Errors
    /// What is wrong with a second prefix.
    pub(crate) fn check_prefix(prefix: &str) -> Result<(), String> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.');
        if prefix.starts_with('/') && prefix.ends_with('/') && prefix.bytes().all(allowed) {
            Ok(())
        } else {
            Err(format!(
                "{prefix:?} must begin and end with / and have only letters, digits, -, _ and . between"
            ))
        }
    }

    /// The token that `path` (as it came, nothing decoded, without the query) asks for; `None` for everything else.
    pub(crate) fn token_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        let under = |prefix: &str| path.strip_prefix(prefix).filter(|rest| Token::is_well_formed(rest));
        under(WELL_KNOWN).or_else(|| under(self.second_prefix.as_deref()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

    #[test]
    fn only_the_exact_path_of_a_well_formed_token_is_one() {
        let one = Paths::new(None);
        assert_eq!(one.token_in(&format!("/.well-known/acme-challenge/{TOKEN}")), Some(TOKEN));
        let refused = [
            "".to_owned(),
            "/".to_owned(),
            "*".to_owned(),
            "/.well-known/acme-challenge".to_owned(),
            "/.well-known/acme-challenge/".to_owned(),
            "/.well-known/acme-challenge/short".to_owned(),
            format!("/{TOKEN}"),
            format!("/.well-known/acme-challenge/{TOKEN}/"),
            format!("/.well-known/acme-challenge//{TOKEN}"),
            format!("//.well-known/acme-challenge/{TOKEN}"),
            format!("/.well-known/acme-challenge/../acme-challenge/{TOKEN}"),
            format!("/.well-known/acme-challenge/{TOKEN}%00"),
            format!("/.well-known/acme-challenge/%65{}", &TOKEN[1..]),
            format!("/.well-known/acme-challenge/{TOKEN}\r\nset-cookie:x"),
            format!("/.well-known/acme-challenge/{TOKEN}é"),
            format!("/.well-known/acme-challenge/{}", "a".repeat(129)),
            format!("/.WELL-KNOWN/acme-challenge/{TOKEN}"),
        ];
        for path in refused {
            assert_eq!(one.token_in(&path), None, "{path:?}");
        }
    }

    #[test]
    fn a_second_prefix_adds_paths_and_takes_none_away() {
        let root = Paths::new(Some("/"));
        assert_eq!(root.token_in(&format!("/{TOKEN}")), Some(TOKEN));
        assert_eq!(root.token_in(&format!("/.well-known/acme-challenge/{TOKEN}")), Some(TOKEN));
        assert_eq!(root.token_in(&format!("/x/{TOKEN}")), None);
        for (prefix, good) in
            [("/", true), ("/a/b/", true), ("", false), ("a/", false), ("/a", false), ("/ü/", false)]
        {
            assert_eq!(Paths::check_prefix(prefix).is_ok(), good, "{prefix:?}");
        }
    }

    proptest! {
        /// The store is asked for what this function returns and for nothing else.
        #[test]
        fn no_hostile_path_becomes_a_lookup(rest in any::<String>(), prefix in prop::sample::select(vec!["", "/", WELL_KNOWN])) {
            let path = format!("{prefix}{rest}");
            if let Some(token) = Paths::new(Some("/")).token_in(&path) {
                prop_assert!(Token::parse(token).is_ok());
                prop_assert!([WELL_KNOWN, "/"].iter().any(|prefix| path == [prefix, token].concat()));
            }
        }

        #[test]
        fn every_well_formed_token_is_found(token in "[A-Za-z0-9_-]{16,128}") {
            let path = format!("{WELL_KNOWN}{token}");
            prop_assert_eq!(Paths::new(None).token_in(&path), Some(token.as_str()));
        }
    }
}
