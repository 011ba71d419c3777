//! The `Link` header (RFC 8288): alternate chains, terms of service, help pages.

/// One link: where to, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// As it was written; may be relative.
    pub target: String,
    /// In lower case; one link may have several relations.
    pub relations: Vec<String>,
}

impl Link {
    /// Every link of one header value. A server may send several headers and several links in each. What is
    /// malformed is skipped, up to the next comma.
    pub fn parse(value: &str) -> Vec<Self> {
        split_outside(value, ',').into_iter().filter_map(parse_one).collect()
    }

    pub fn is(&self, relation: &str) -> bool {
        self.relations.iter().any(|known| known == relation)
    }
}

fn parse_one(text: &str) -> Option<Link> {
    let (target, parameters) = text.trim().strip_prefix('<')?.split_once('>')?;
    // Only the first "rel" counts (RFC 8288 section 3.3).
    let relations = split_outside(parameters, ';').into_iter().find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("rel").then(|| unquote(value.trim()))
    })?;
    let relations = relations.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
    Some(Link { target: target.trim().to_owned(), relations })
}

/// Splits at a separator that stands neither in quotes nor in `<...>`.
fn split_outside(text: &str, separator: char) -> Vec<&str> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped, mut in_target) = (false, false, false);
    for (place, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !in_target => quoted = !quoted,
            '<' if !quoted => in_target = true,
            '>' if !quoted => in_target = false,
            c if c == separator && !quoted && !in_target => {
                pieces.push(&text[start..place]);
                start = place + c.len_utf8();
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            text.push(c);
            escaped = false;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(target: &str, relations: &[&str]) -> Link {
        Link { target: target.to_owned(), relations: relations.iter().map(|r| (*r).to_owned()).collect() }
    }

    #[test]
    fn links_are_read_as_servers_write_them() {
        let table: &[(&str, Vec<Link>)] = &[
            (
                "<https://example.com/acme/directory>;rel=\"index\"",
                vec![link("https://example.com/acme/directory", &["index"])],
            ),
            ("<https://a/1>; rel=alternate", vec![link("https://a/1", &["alternate"])]),
            ("  <https://a/1> ;  REL = \"Alternate\" ", vec![link("https://a/1", &["alternate"])]),
            ("<https://a/1>;rel=\"up alternate\"", vec![link("https://a/1", &["up", "alternate"])]),
            (
                "<https://a/1>;rel=\"alternate\", <https://a/2>;rel=\"alternate\"",
                vec![link("https://a/1", &["alternate"]), link("https://a/2", &["alternate"])],
            ),
            ("<https://a/1,2;3>;rel=index", vec![link("https://a/1,2;3", &["index"])]),
            ("<https://a/1>;title=\"a, b; rel=no \\\" >\";rel=help", vec![link("https://a/1", &["help"])]),
            ("</cert/1>;rel=alternate", vec![link("/cert/1", &["alternate"])]),
            ("<https://a/1>;rel=first;rel=second", vec![link("https://a/1", &["first"])]),
            ("<>;rel=index", vec![link("", &["index"])]),
            ("https://a/1;rel=index", vec![]),
            ("<https://a/1", vec![]),
            ("<https://a/1>", vec![]),
            ("junk, <https://a/2>;rel=index,", vec![link("https://a/2", &["index"])]),
            ("", vec![]),
        ];
        for (written, expected) in table {
            assert_eq!(&Link::parse(written), expected, "{written}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "[<>;=,\"\\\\ relalternate/:é\\PC]{0,80}") {
            for found in Link::parse(&text) {
                prop_assert!(!found.target.contains('>'));
            }
        }
    }
}
