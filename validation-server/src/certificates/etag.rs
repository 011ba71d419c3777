//! Entity tags (RFC 9110 section 8.8.3), and whether a client has what it asks for already (section 13.1.2).

use actix_web::http::header::{HeaderMap, IF_NONE_MATCH};
use openssl::sha::sha256;
use shared::{digest::hex, domain::CertificateId};

/// A strong tag, with its quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ETag(String);

impl ETag {
    /// Of a document, from its content.
    pub(crate) fn of_content(content: &[u8]) -> Self {
        let digest = hex(&sha256(content)[..16]);
        Self(format!("\"{digest}\""))
    }

    /// Of a file of a certificate, known before the file is made: none of them ever changes.
    pub(crate) fn of_file(certificate: &CertificateId, file: &str) -> Self {
        Self(format!("\"{certificate}-{file}\""))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `If-None-Match` names this tag: the answer is 304.
    pub(crate) fn is_known_to(&self, headers: &HeaderMap) -> bool {
        headers.get_all(IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|list| self.is_in(list))
    }

    /// Compares weakly (RFC 9110 section 8.8.3.2). A tag may have a comma in it, so the quotes are what counts.
    fn is_in(&self, list: &str) -> bool {
        if list.trim() == "*" {
            return true;
        }
        let mut rest = list;
        while let Some(open) = rest.find('"') {
            let Some(length) = rest[open + 1..].find('"') else { return false };
            let end = open + length + 2;
            if rest[open..end] == self.0 {
                return true;
            }
            rest = &rest[end..];
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_compared_weakly() {
        let tag = ETag("\"abc\"".into());
        for known in [
            "\"abc\"",
            "W/\"abc\"",
            "\"x\", \"abc\"",
            "\"x\",W/\"abc\" , \"y\"",
            "*",
            " * ",
            "\"a,b\", \"abc\"",
        ] {
            assert!(tag.is_in(known), "{known}");
        }
        for unknown in ["", "abc", "\"ab\"", "\"abcd\"", "\"abc", "\"x,\"abc", "\"*\"", "\"ABC\"", "W/\"x\""]
        {
            assert!(!tag.is_in(unknown), "{unknown}");
        }
    }

    #[test]
    fn several_header_lines_are_one_list() {
        let mut headers = HeaderMap::new();
        let tag = ETag::of_content(b"x");
        assert!(!tag.is_known_to(&headers));
        headers.append(IF_NONE_MATCH, "\"other\"".parse().unwrap());
        assert!(!tag.is_known_to(&headers));
        headers.append(IF_NONE_MATCH, tag.as_str().parse().unwrap());
        assert!(tag.is_known_to(&headers));
    }

    #[test]
    fn tags_differ_by_content_certificate_and_file() {
        let id = CertificateId::of(b"leaf");
        assert_ne!(ETag::of_content(b"a"), ETag::of_content(b"b"));
        assert_ne!(ETag::of_file(&id, "cert"), ETag::of_file(&id, "chain"));
        assert_ne!(ETag::of_file(&id, "cert"), ETag::of_file(&CertificateId::of(b"other"), "cert"));
    }
}
