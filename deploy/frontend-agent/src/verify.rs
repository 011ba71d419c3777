//! Verifies a certificate and its key before a web server gets to see them.
//!
//! One bad pair makes nginx refuse a whole reload and ends a running Apache, so nothing that came over the network is
//! published unverified, whoever sent it.

use crate::{chains::Chains, index::LiveSlot};
use jiff::{SignedDuration, Timestamp};
use openssl::{
    pkey::{Id, PKey, PKeyRef, Private},
    x509::{X509, X509Ref},
};
use shared::domain::{CertificateError, Leaf, Slot, UsageError, check_usage};
use zeroize::Zeroizing;

/// A clock that is behind the CA's by less than this does no harm.
pub(crate) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// A verified pair, ready to be published.
pub(crate) struct Pair {
    pub(crate) slot: Slot,
    pub(crate) fullchain: Vec<u8>,
    pub(crate) privkey: Zeroizing<Vec<u8>>,
    pub(crate) leaf: Leaf,
}

/// What a pair must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) slot: Slot,
    /// Of the leaf, hex; as the listing has it.
    pub(crate) fingerprint_sha256: &'a str,
    /// Every one of them must be covered.
    pub(crate) names: &'a [String],
    /// The certificate that is live now, where it is still good: a new one is not older.
    pub(crate) live: Option<&'a LiveSlot>,
    /// Words that no issuer in the chain may have in its name: a certificate of a staging CA is for nobody.
    pub(crate) refused_issuers: &'a [String],
    pub(crate) now: Timestamp,
}

/// Why a pair is not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    #[error("the {0} file is no clean PEM: only {1} blocks were expected")]
    Shape(&'static str, &'static str),
    #[error("the certificate can't be read")]
    Unreadable(#[from] CertificateError),
    #[error("the private key can't be read")]
    KeyUnreadable,
    #[error("OpenSSL failed")]
    OpenSsl(#[from] openssl::error::ErrorStack),
    #[error("the fingerprint {got} is not {expected}, which the listing announced")]
    Fingerprint { expected: String, got: String },
    #[error("the key is no {0} key")]
    Slot(Slot),
    #[error("clients would refuse it from a web server")]
    Usage(#[from] UsageError),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("the chain is broken at certificate {0}: it is not signed by the next one")]
    Chain(usize),
    #[error("certificate {place} of the chain is valid from {from} to {until} only")]
    ChainDates { place: usize, from: Timestamp, until: Timestamp },
    #[error(
        "it was issued by {0:?}, a CA for tests: nothing of it is published as long as agent.refused_issuers has {1:?}. Where tests are wanted, \
         set agent.refused_issuers = [] on this machine"
    )]
    Issuer(String, String),
    #[error("the certificate does not cover {0}")]
    Name(String),
    #[error("the certificate becomes valid only at {0}")]
    NotYetValid(Timestamp),
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
    #[error("the certificate of {got} is older than the live one of {live}")]
    Older { live: Timestamp, got: Timestamp },
}

/// Checks everything that can be checked without asking anybody.
///
/// # Errors
/// [`VerifyError`] with the first thing that is wrong.
pub(crate) fn verify(
    fullchain: Vec<u8>,
    privkey: Zeroizing<Vec<u8>>,
    expected: &Expected<'_>,
    chains: &Chains,
) -> Result<Pair, VerifyError> {
    if !has_only_blocks(&fullchain, &["CERTIFICATE"], usize::MAX) {
        return Err(VerifyError::Shape("certificate", "CERTIFICATE"));
    }
    if !has_only_blocks(&privkey, &["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"], 1) {
        return Err(VerifyError::Shape("key", "PRIVATE KEY"));
    }
    let (own, above) = fullchain.split_at(end_of_first(&fullchain));
    let x509 = X509::from_pem(own)?;
    let key = PKey::private_key_from_pem(&privkey).map_err(|_| VerifyError::KeyUnreadable)?;
    let leaf = Leaf::of(&x509)?;
    if !leaf.fingerprint_sha256.eq_ignore_ascii_case(expected.fingerprint_sha256) {
        let expected = expected.fingerprint_sha256.to_owned();
        return Err(VerifyError::Fingerprint { expected, got: leaf.fingerprint_sha256 });
    }
    check_key(&x509, &key, expected.slot)?;
    check_usage(&x509)?;
    chains.above(above)?.check(&x509, expected.refused_issuers, expected.now)?;
    if let Some(name) = expected.names.iter().find(|name| !is_covered(name, &leaf.names)) {
        return Err(VerifyError::Name(name.clone()));
    }
    check_dates(&leaf, expected)?;
    Ok(Pair { slot: expected.slot, fullchain, privkey, leaf })
}

fn check_key(x509: &X509Ref, key: &PKeyRef<Private>, slot: Slot) -> Result<(), VerifyError> {
    let id = match slot {
        Slot::Ecdsa => Id::EC,
        Slot::Rsa => Id::RSA,
    };
    if key.id() != id {
        return Err(VerifyError::Slot(slot));
    }
    if !x509.public_key()?.public_eq(key) {
        return Err(VerifyError::KeyMismatch);
    }
    Ok(())
}

fn check_dates(leaf: &Leaf, expected: &Expected<'_>) -> Result<(), VerifyError> {
    if leaf.not_before > expected.now.saturating_add(CLOCK_TOLERANCE).expect("a duration in hours and less") {
        return Err(VerifyError::NotYetValid(leaf.not_before));
    }
    if leaf.not_after <= expected.now {
        return Err(VerifyError::Expired(leaf.not_after));
    }
    // By the beginning, not by the end: a move to a shorter lifetime is no step back.
    let Some(live) = expected.live else { return Ok(()) };
    let begins = leaf.not_before.as_second();
    let is_older = begins < live.not_before
        || (begins == live.not_before && leaf.not_after.as_second() < live.not_after);
    if is_older {
        let live = Timestamp::from_second(live.not_before).unwrap_or(Timestamp::MAX);
        return Err(VerifyError::Older { live, got: leaf.not_before });
    }
    Ok(())
}

/// Exactly, or by a wildcard in place of the leftmost label (RFC 6125 section 6.4.3).
fn is_covered(name: &str, sans: &[String]) -> bool {
    sans.iter().any(|san| {
        san.eq_ignore_ascii_case(name)
            || san.strip_prefix("*.").is_some_and(|parent| {
                !name.starts_with("*.")
                    && name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent))
            })
    })
}

/// Where the first block of PEM text that has only blocks ends.
fn end_of_first(pem: &[u8]) -> usize {
    const END: &[u8] = b"-----END CERTIFICATE-----";
    pem.windows(END.len()).position(|window| window == END).map_or(pem.len(), |at| at + END.len())
}

/// Whether the text is one to `most` PEM blocks of the given kinds, and nothing besides.
fn has_only_blocks(pem: &[u8], kinds: &[&str], most: usize) -> bool {
    let Ok(text) = std::str::from_utf8(pem) else { return false };
    let mut blocks = 0;
    let mut open: Option<&str> = None;
    for line in text.lines().map(str::trim_end) {
        let begin = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        let end = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----"));
        match (open, begin, end) {
            (None, Some(kind), None) if kinds.contains(&kind) => open = Some(kind),
            (Some(kind), None, Some(ended)) if kind == ended => {
                open = None;
                blocks += 1;
            }
            (Some(_), None, None)
                if line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b)) => {}
            (None, None, None) if line.is_empty() => {}
            _ => return false,
        }
    }
    open.is_none() && (1..=most).contains(&blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_pki::{TestPki, days};
    use openssl::{
        asn1::{Asn1Object, Asn1OctetString},
        x509::{
            X509Extension,
            extension::{BasicConstraints, ExtendedKeyUsage},
        },
    };

    fn expected<'a>(pair: &'a crate::test_pki::Issued, names: &'a [String]) -> Expected<'a> {
        Expected {
            slot: pair.slot,
            fingerprint_sha256: &pair.fingerprint,
            names,
            live: None,
            refused_issuers: &[],
            now: Timestamp::now(),
        }
    }

    #[test]
    fn a_good_pair_of_each_kind_passes() {
        let (pki, chains) = (TestPki::new(), Chains::default());
        for slot in Slot::ALL {
            let issued = pki.issue(&["a.example", "*.b.example"], slot, days(-1), days(90));
            let names = ["a.example", "*.b.example", "x.b.example"].map(str::to_owned);
            let pair =
                verify(issued.fullchain.clone(), issued.privkey.clone(), &expected(&issued, &names), &chains)
                    .unwrap();
            assert_eq!((pair.slot, pair.leaf.names.len()), (slot, 2));
        }
    }

    #[test]
    fn what_no_client_takes_from_a_web_server_is_refused() {
        let (pki, names) = (TestPki::new(), ["a.example".to_owned()]);
        let unknown = X509Extension::new_from_der(
            &Asn1Object::from_str("1.2.3.4").unwrap(),
            true,
            &Asn1OctetString::new_from_bytes(&[5, 0]).unwrap(),
        );
        for (extension, why) in [
            (ExtendedKeyUsage::new().client_auth().build(), Some("servers")),
            (BasicConstraints::new().critical().ca().build(), Some("CA:TRUE")),
            (unknown, Some("1.2.3.4")),
            (ExtendedKeyUsage::new().server_auth().client_auth().build(), None),
        ] {
            let issued =
                pki.issue_with(&["a.example"], Slot::Ecdsa, days(-1), days(9), &[extension.unwrap()]);
            let expected = expected(&issued, &names);
            let verified =
                verify(issued.fullchain.clone(), issued.privkey.clone(), &expected, &Chains::default());
            let refused = verified.err().map(|error| shared::error::chain(&error));
            match why {
                None => assert_eq!(refused, None),
                Some(why) => assert!(refused.as_ref().is_some_and(|said| said.contains(why)), "{refused:?}"),
            }
        }
    }

    /// A chain that was read once is judged anew each day.
    #[test]
    fn a_chain_ends_with_the_first_of_its_certificates() {
        let (pki, chains) = (TestPki::new(), Chains::default());
        let names = ["a.example".to_owned()];
        let issued = pki.issue(&["a.example"], Slot::Ecdsa, days(-1), days(400));
        let at = |now| {
            let expected = Expected { now, ..expected(&issued, &names) };
            verify(issued.fullchain.clone(), issued.privkey.clone(), &expected, &chains)
        };
        at(days(0)).unwrap();
        let refused = at(days(366)).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.starts_with("certificate 2 of the chain is valid from"), "{refused}");
    }

    #[test]
    fn everything_else_is_refused_by_name() {
        let pki = TestPki::new();
        let names = ["a.example".to_owned()];
        let good = pki.issue(&["a.example"], Slot::Ecdsa, days(-1), days(90));
        let other = pki.issue(&["a.example"], Slot::Ecdsa, days(-1), days(90));
        let stranger = TestPki::new().issue(&["a.example"], Slot::Ecdsa, days(-1), days(90));
        let expired = pki.issue(&["a.example"], Slot::Ecdsa, days(-90), days(-1));
        let future = pki.issue(&["a.example"], Slot::Ecdsa, days(1), days(90));
        let chains = Chains::default();
        verify(good.fullchain.clone(), good.privkey.clone(), &expected(&good, &names), &chains).unwrap();
        let refuse = |fullchain: &[u8], key: &[u8], expected: Expected<'_>| {
            let result = verify(fullchain.to_vec(), Zeroizing::new(key.to_vec()), &expected, &chains);
            result.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let with = |what: &str| what.to_owned();
        let at = expected(&good, &names);
        let refused_issuers = ["staging".to_owned(), "test".to_owned()];
        let foreign_names = ["c.a.example".to_owned()];
        let leaf_end = good.fullchain.len() - pki.ca_pem().len();
        let broken_chain = [&good.fullchain[..leaf_end], &TestPki::new().ca_pem()[..]].concat();
        let broken_above = [&good.fullchain[..], &TestPki::new().ca_pem()[..]].concat();
        let younger = LiveSlot {
            fingerprint: [0; 32],
            not_before: days(0).as_second(),
            not_after: days(9).as_second(),
        };
        let both = [&good.fullchain[..], &good.privkey[..]].concat();
        let two_keys = [&good.privkey[..], &good.privkey[..]].concat();
        for (fullchain, key, expected, words) in [
            (
                &good.fullchain,
                &good.privkey[..],
                Expected { fingerprint_sha256: &other.fingerprint, ..at },
                "listing announced",
            ),
            (&good.fullchain, &other.privkey[..], at, "does not belong"),
            (&good.fullchain, &stranger.privkey[..], at, "does not belong"),
            (&good.fullchain, &good.privkey[..], Expected { slot: Slot::Rsa, ..at }, "no rsa key"),
            (
                &good.fullchain,
                &good.privkey[..],
                Expected { names: &foreign_names, ..at },
                "cover c.a.example",
            ),
            (
                &good.fullchain,
                &good.privkey[..],
                Expected { live: Some(&younger), ..at },
                "older than the live",
            ),
            (
                &expired.fullchain,
                &expired.privkey[..],
                Expected { fingerprint_sha256: &expired.fingerprint, ..at },
                "expired",
            ),
            (
                &future.fullchain,
                &future.privkey[..],
                Expected { fingerprint_sha256: &future.fingerprint, ..at },
                "only at",
            ),
            (
                &good.fullchain,
                &good.privkey[..],
                Expected { refused_issuers: &refused_issuers, ..at },
                "issued by \"Test CA\"",
            ),
            (&broken_chain, &good.privkey[..], at, "broken at certificate 1"),
            (&broken_above, &good.privkey[..], at, "broken at certificate 2"),
            (&both, &good.privkey[..], at, "no clean PEM"),
            (&good.fullchain, &two_keys[..], at, "no clean PEM"),
            (&good.fullchain[..good.fullchain.len() - 40].to_vec(), &good.privkey[..], at, "no clean PEM"),
            (&Vec::new(), &good.privkey[..], at, "no clean PEM"),
            (&b"<html>".to_vec(), &good.privkey[..], at, "no clean PEM"),
        ] {
            let refused = refuse(fullchain, key, expected);
            assert!(refused.contains(&with(words)), "{words:?} expected, got {refused:?}");
            assert!(!refused.contains("PRIVATE KEY-----"));
        }
    }
}
