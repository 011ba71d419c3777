//! Strict PEM (RFC 7468): certificates and nothing else (RFC 8555 section 11.4).

use base64::{Engine, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What is wrong with a text that should be certificates in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PemFlaw {
    /// A marker of something else, or one that does not fit.
    Foreign,
    NotText,
    Encoding,
    Unfinished,
}

/// The DER of every certificate, in order. Lines between the blocks are tolerated as comments, as long as nothing in
/// them looks like a block: a private key that a server tries to smuggle in is refused.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, PemFlaw> {
    let text = std::str::from_utf8(pem).map_err(|_| PemFlaw::NotText)?;
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    // A lone carriage return would hide a line from this loop, but not from others that read the file.
    for line in text.split(['\n', '\r']).map(|line| line.trim_end_matches([' ', '\t'])) {
        block = match block {
            None if line == BEGIN => Some(String::new()),
            Some(base64) if line == END => {
                found.push(STANDARD.decode(base64).map_err(|_| PemFlaw::Encoding)?);
                None
            }
            _ if line.contains("-----") => return Err(PemFlaw::Foreign),
            None => None,
            Some(base64) => Some(base64 + line),
        };
    }
    if block.is_some() { Err(PemFlaw::Unfinished) } else { Ok(found) }
}

/// One certificate, as every program reads it: 64 columns, ending in a newline.
pub(super) fn encode(der: &[u8], pem: &mut String) {
    let base64 = STANDARD.encode(der);
    pem.push_str(BEGIN);
    for (place, c) in base64.chars().enumerate() {
        if place % 64 == 0 {
            pem.push('\n');
        }
        pem.push(c);
    }
    pem.push('\n');
    pem.push_str(END);
    pem.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(der: &[u8]) -> String {
        let mut pem = String::new();
        encode(der, &mut pem);
        pem
    }

    #[test]
    fn comments_and_line_ends_are_tolerated() {
        let pem = format!(
            "# leaf\n\n{}\n \t\nsubject=CN = x\n{}",
            block(b"one"),
            block(b"two").replace('\n', "\r\n")
        );
        assert_eq!(certificates(pem.as_bytes()), Ok(vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(certificates(b""), Ok(Vec::new()));
    }

    #[test]
    fn anything_else_is_refused() {
        let good = block(b"one");
        for (text, flaw) in [
            (good.replace("CERTIFICATE", "PRIVATE KEY"), PemFlaw::Foreign),
            (
                format!("{good}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
                PemFlaw::Foreign,
            ),
            (format!("{good}# -----BEGIN RSA PRIVATE KEY-----"), PemFlaw::Foreign),
            (format!("x\r-----BEGIN PRIVATE KEY-----\r{good}"), PemFlaw::Foreign),
            (good.replace("CERTIFICATE", "TRUSTED CERTIFICATE"), PemFlaw::Foreign),
            (format!(" {good}"), PemFlaw::Foreign),
            (good.replace("END", "BEGIN"), PemFlaw::Foreign),
            (good.replace("\n-----END CERTIFICATE-----", ""), PemFlaw::Unfinished),
            (good.replace("b25l", "b25l!"), PemFlaw::Encoding),
        ] {
            assert_eq!(certificates(text.as_bytes()), Err(flaw), "{text}");
        }
        assert_eq!(certificates(b"\xff"), Err(PemFlaw::NotText));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let pem = block(&der);
            prop_assert!(pem.lines().all(|line| line.len() <= 64));
            prop_assert_eq!(certificates(pem.as_bytes()), Ok(vec![der]));
        }

        #[test]
        fn reading_never_panics(pem in "(-----BEGIN CERTIFICATE-----\n|-----END CERTIFICATE-----\n|AAAA\n|\\PC{0,10}|\r){0,8}") {
            let _ = certificates(pem.as_bytes());
        }
    }
}
