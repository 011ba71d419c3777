//! What a certificate may be used for (RFC 5280 section 4.2): whether clients take it from a web server.

use openssl::x509::X509Ref;

/// Extensions that clients of a web server know, by the octets of their identifiers: those of RFC 5280, TLS features (RFC 7633) and the
/// timestamps of logs (RFC 6962). What makes a certificate a mere draft of one for the logs is not among them.
const KNOWN: [&[u8]; 17] = [
    &[0x55, 0x1d, 9],
    &[0x55, 0x1d, 14],
    KEY_USAGE,
    &[0x55, 0x1d, 16],
    &[0x55, 0x1d, 17],
    &[0x55, 0x1d, 18],
    BASIC_CONSTRAINTS,
    &[0x55, 0x1d, 30],
    &[0x55, 0x1d, 31],
    &[0x55, 0x1d, 32],
    &[0x55, 0x1d, 35],
    EXTENDED_KEY_USAGE,
    &[0x55, 0x1d, 46],
    &[0x2b, 6, 1, 5, 5, 7, 1, 1],
    &[0x2b, 6, 1, 5, 5, 7, 1, 11],
    &[0x2b, 6, 1, 5, 5, 7, 1, 24],
    &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 4, 2],
];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// `id-kp-serverAuth` and `anyExtendedKeyUsage`.
const FOR_SERVERS: [&[u8]; 2] = [&[0x2b, 6, 1, 5, 5, 7, 3, 1], &[0x55, 0x1d, 37, 0]];

/// Why clients refuse a certificate whoever issued it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    #[error("it is not for web servers: its extended key usage lacks serverAuth")]
    NotForServers,
    #[error("its key may neither sign nor encrypt a handshake: see its key usage")]
    KeyUsage,
    #[error("it is a CA's own (CA:TRUE), and no server's")]
    OfCa,
    #[error("it has the critical extension {0}, which clients do not know")]
    UnknownExtension(String),
    #[error("its extensions can't be read")]
    Unreadable,
}

/// Whether clients take a leaf from a web server, as far as it says what it is for.
///
/// # Errors
/// [`UsageError`], the first thing that speaks against it.
pub fn check_usage(leaf: &X509Ref) -> Result<(), UsageError> {
    let der = leaf.to_der().map_err(|_| UsageError::Unreadable)?;
    let extensions = extensions(&der).ok_or(UsageError::Unreadable)?;
    for extension in &extensions {
        let value = extension.value;
        let content = || read(value).map(|(_, content, _)| content).ok_or(UsageError::Unreadable);
        match extension.id {
            EXTENDED_KEY_USAGE
                if !elements(content()?).iter().any(|(_, purpose)| FOR_SERVERS.contains(purpose)) =>
            {
                return Err(UsageError::NotForServers);
            }
            // The first octet counts unused bits; digitalSignature is the first bit, keyEncipherment the third, keyAgreement the fifth.
            KEY_USAGE if content()?.get(1).is_none_or(|bits| bits & 0b1010_1000 == 0) => {
                return Err(UsageError::KeyUsage);
            }
            BASIC_CONSTRAINTS
                if elements(content()?).first().is_some_and(|(tag, flag)| *tag == 1 && *flag != [0]) =>
            {
                return Err(UsageError::OfCa);
            }
            other if extension.is_critical && !KNOWN.contains(&other) => {
                return Err(UsageError::UnknownExtension(dotted(other)));
            }
            _ => {}
        }
    }
    Ok(())
}

struct Extension<'a> {
    id: &'a [u8],
    is_critical: bool,
    value: &'a [u8],
}

/// The extensions of a certificate; `None` where it is not DER.
fn extensions(der: &[u8]) -> Option<Vec<Extension<'_>>> {
    let (_, certificate, _) = read(der)?;
    let (_, to_be_signed, _) = read(certificate)?;
    let Some((_, explicit)) = elements(to_be_signed).into_iter().find(|(tag, _)| *tag == 0xa3) else {
        return Some(Vec::new());
    };
    let (_, list, _) = read(explicit)?;
    elements(list)
        .into_iter()
        .map(|(_, extension)| {
            let parts = elements(extension);
            let of = |wanted: u8| parts.iter().find(|(tag, _)| *tag == wanted).map(|(_, content)| *content);
            let is_critical = of(1).is_some_and(|flag| flag != [0]);
            Some(Extension { id: of(6)?, is_critical, value: of(4)? })
        })
        .collect()
}

/// The elements that stand one after the other, each with its tag.
fn elements(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((tag, content, rest)) = read(input) {
        found.push((tag, content));
        input = rest;
    }
    found
}

/// The first element: its tag, its content, and what follows.
fn read(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, first], rest) = input.split_first_chunk::<2>()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if octets.is_empty() || octets.len() > 4 {
            return None;
        }
        (octets.iter().fold(0, |length, octet| (length << 8) | usize::from(*octet)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// As people write it: `1.3.6.1.5.5.7.3.2`.
fn dotted(id: &[u8]) -> String {
    let mut numbers = Vec::new();
    let mut number = 0_u64;
    for octet in id {
        number = (number << 7) | u64::from(octet & 0x7f);
        if octet & 0x80 == 0 {
            numbers.push(number);
            number = 0;
        }
    }
    if let Some(first) = numbers.first().copied() {
        let top = (first / 40).min(2);
        numbers.splice(0..1, [top, first - 40 * top]);
    }
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{
        asn1::{Asn1Object, Asn1OctetString},
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        pkey::PKey,
        x509::{
            X509, X509Extension,
            extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
        },
    };

    fn with(extensions: &[X509Extension]) -> X509 {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_pubkey(&key).unwrap();
        for extension in extensions {
            builder.append_extension2(extension).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    fn other(id: &str, is_critical: bool) -> X509Extension {
        let id = Asn1Object::from_str(id).unwrap();
        X509Extension::new_from_der(&id, is_critical, &Asn1OctetString::new_from_bytes(&[5, 0]).unwrap())
            .unwrap()
    }

    #[test]
    fn clients_take_what_is_for_servers_and_nothing_else() {
        let server = || ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap();
        for (what, extensions, expected) in [
            ("nothing said", vec![], Ok(())),
            ("for servers", vec![server(), BasicConstraints::new().critical().build().unwrap()], Ok(())),
            ("signs", vec![KeyUsage::new().critical().digital_signature().build().unwrap()], Ok(())),
            ("encrypts", vec![KeyUsage::new().key_encipherment().build().unwrap()], Ok(())),
            ("any", vec![ExtendedKeyUsage::new().other("2.5.29.37.0").build().unwrap()], Ok(())),
            ("new, and not critical", vec![other("1.3.6.1.4.1.55555.7", false)], Ok(())),
            (
                "for clients",
                vec![ExtendedKeyUsage::new().client_auth().build().unwrap()],
                Err(UsageError::NotForServers),
            ),
            (
                "signs certificates",
                vec![KeyUsage::new().key_cert_sign().crl_sign().build().unwrap()],
                Err(UsageError::KeyUsage),
            ),
            ("a CA's", vec![server(), BasicConstraints::new().ca().build().unwrap()], Err(UsageError::OfCa)),
            (
                "new, and critical",
                vec![other("1.3.6.1.4.1.55555.7", true)],
                Err(UsageError::UnknownExtension("1.3.6.1.4.1.55555.7".to_owned())),
            ),
            (
                "a draft for the logs",
                vec![other("1.3.6.1.4.1.11129.2.4.3", true)],
                Err(UsageError::UnknownExtension("1.3.6.1.4.1.11129.2.4.3".to_owned())),
            ),
        ] {
            assert_eq!(check_usage(&with(&extensions)), expected, "{what}");
        }
    }

    #[test]
    fn nothing_panics_at_odd_der() {
        let der = with(&[BasicConstraints::new().build().unwrap()]).to_der().unwrap();
        for end in 0..der.len() {
            extensions(&der[..end]);
        }
        assert!(read(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).is_none() && read(&[0x30, 0x80]).is_none());
    }
}
