//! Reading a leaf: serial, dates, names and key, as they stand in its DER (RFC 5280 section 4.1).
//!
//! Not with OpenSSL, which decodes the key of each certificate that it parses: that costs ten times what is wanted here, and the
//! daemon reads a leaf whenever it looks at a site. Whether a leaf is worth anything was checked with OpenSSL when it came.

use super::{CertificateError, Leaf};
use crate::digest::{hex, sha256_hex};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use std::net::{Ipv4Addr, Ipv6Addr};

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const T61_STRING: u8 = 0x14;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1E;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALTERNATIVE_NAME: [u8; 3] = [0x55, 0x1D, 0x11];

impl Leaf {
    /// # Errors
    /// [`CertificateError`] when a field can't be read.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        read(der).ok_or(CertificateError::Malformed)
    }
}

fn read(der: &[u8]) -> Option<Leaf> {
    let mut fields = Elements(Elements(Elements(der).content(SEQUENCE)?).content(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    let serial = fields.content(INTEGER)?;
    fields.content(SEQUENCE)?;
    let issuer = fields.content(SEQUENCE)?;
    let mut validity = Elements(fields.content(SEQUENCE)?);
    let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
    fields.content(SEQUENCE)?;
    let key = fields.next().filter(|key| key.tag == SEQUENCE)?;
    let extensions = fields.find(|field| field.tag == EXTENSIONS);
    let names = match extensions {
        Some(extensions) => names(Elements(extensions.content).content(SEQUENCE)?)?,
        None => Vec::new(),
    };
    Some(Leaf {
        serial: serial_hex(serial),
        fingerprint_sha256: sha256_hex(der),
        spki_sha256: sha256_hex(key.whole),
        not_before,
        not_after,
        issuer: issuer_text(issuer)?,
        names,
    })
}

/// Without needless zero octets, with the one that DER may need.
fn serial_hex(content: &[u8]) -> String {
    let zeros = content.iter().take_while(|octet| **octet == 0).count();
    let digits = hex(&content[zeros..]);
    match content.get(zeros) {
        Some(first) if first & 0x80 == 0 => digits,
        _ => format!("00{digits}"),
    }
}

/// `YYMMDDhhmmssZ`, `YYYYMMDDhhmmssZ`: RFC 5280 section 4.1.2.5 allows no others.
fn time(element: Element<'_>) -> Option<Timestamp> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest): (i16, &str) = match (element.tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i16 = text[..2].parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |place: usize| rest[2 * place..2 * place + 2].parse::<i8>().ok();
    let moment = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(moment).ok()
}

/// The values of its attributes.
fn issuer_text(sets: &[u8]) -> Option<String> {
    let mut values = Vec::new();
    let mut sets = Elements(sets);
    while !sets.0.is_empty() {
        let mut attributes = Elements(sets.content(SET)?);
        while !attributes.0.is_empty() {
            let mut attribute = Elements(attributes.content(SEQUENCE)?);
            attribute.content(OBJECT_ID)?;
            values.push(text(attribute.next()?));
        }
    }
    Some(values.join(", "))
}

fn text(element: Element<'_>) -> String {
    match element.tag {
        T61_STRING => element.content.iter().map(|octet| char::from(*octet)).collect(),
        BMP_STRING => {
            let units = element.content.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        _ => String::from_utf8_lossy(element.content).into_owned(),
    }
}

/// Hostnames and addresses of the subjectAltName extension; none where it isn't there.
fn names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut extensions = Elements(extensions);
    while !extensions.0.is_empty() {
        let mut extension = Elements(extensions.content(SEQUENCE)?);
        if extension.content(OBJECT_ID)? != SUBJECT_ALTERNATIVE_NAME {
            continue;
        }
        let value = extension.find(|part| part.tag == OCTET_STRING)?.content;
        let mut found = Vec::new();
        let mut general = Elements(Elements(value).content(SEQUENCE)?);
        while !general.0.is_empty() {
            let name = general.next()?;
            match name.tag {
                DNS_NAME => found.extend(std::str::from_utf8(name.content).ok().map(str::to_owned)),
                IP_ADDRESS => found.extend(address(name.content)),
                _ => {}
            }
        }
        return Some(found);
    }
    Some(Vec::new())
}

fn address(octets: &[u8]) -> Option<String> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|octets| Ipv4Addr::from(octets).to_string()),
        16 => <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).to_string()),
        _ => None,
    }
}

/// DER elements, one after the other (X.690 section 8.1), with tags and lengths as certificates have them.
struct Elements<'a>(&'a [u8]);

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Elements<'a> {
    /// The content of the next one, if it is of this kind.
    fn content(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|element| element.tag == tag).map(|element| element.content)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let tag = *self.0.first()?;
        let (header, length) = match *self.0.get(1)? {
            short @ 0..=0x7F => (2, usize::from(short)),
            long => {
                let digits = usize::from(long & 0x7F);
                let length = self.0.get(2..2 + digits).filter(|_| (1..=3).contains(&digits))?;
                (2 + digits, length.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)))
            }
        };
        let (whole, rest) = self.0.split_at_checked(header + length)?;
        self.0 = rest;
        Some(Element { tag, content: &whole[header..], whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::{
        asn1::{Asn1Integer, Asn1Time},
        bn::BigNum,
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        pkey::{PKey, Private},
        rsa::Rsa,
        x509::{X509, X509NameBuilder, extension::BasicConstraints, extension::SubjectAlternativeName},
    };
    use proptest::prelude::*;

    fn ecdsa_key() -> PKey<Private> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    fn certificate(key: &PKey<Private>, serial: &[u8], days: u32, names: &[&str]) -> X509 {
        let mut issuer = X509NameBuilder::new().unwrap();
        issuer.append_entry_by_text("C", "DE").unwrap();
        issuer.append_entry_by_text("O", "Bäckerei & Söhne").unwrap();
        issuer.append_entry_by_text("CN", "E7").unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder
            .set_serial_number(&Asn1Integer::from_bn(&BigNum::from_slice(serial).unwrap()).unwrap())
            .unwrap();
        builder.set_issuer_name(&issuer.build()).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_764_000_001).unwrap()).unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(1_764_000_001 + i64::from(days) * 86_400).unwrap())
            .unwrap();
        builder.set_pubkey(key).unwrap();
        builder.append_extension(BasicConstraints::new().critical().build().unwrap()).unwrap();
        if !names.is_empty() {
            let mut alternative = SubjectAlternativeName::new();
            for name in names {
                if name.parse::<std::net::IpAddr>().is_ok() {
                    alternative.ip(name)
                } else {
                    alternative.dns(name)
                };
            }
            let extension = alternative.critical().build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(extension).unwrap();
        }
        builder.sign(key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn a_leaf_says_what_openssl_says() {
        let many: Vec<String> = (0..100).map(|number| format!("n{number}.shop.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (key, serial, days, names) in [
            (ecdsa_key(), vec![0x7F; 18], 90, vec!["a.example", "b.example"]),
            (
                PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
                vec![0x80, 0],
                6,
                vec!["192.0.2.1", "2001:db8::1"],
            ),
            (ecdsa_key(), vec![1], 365 * 40, Vec::new()),
            (ecdsa_key(), vec![0], 1, many),
        ] {
            let x509 = certificate(&key, &serial, days, &names);
            let leaf = Leaf::of(&x509).unwrap();
            assert_eq!(leaf.names, names);
            assert_eq!(leaf.spki_sha256, sha256_hex(&key.public_key_to_der().unwrap()));
            assert_eq!(leaf.fingerprint_sha256, hex(&x509.digest(MessageDigest::sha256()).unwrap()));
            assert_eq!(leaf.issuer, "DE, Bäckerei & Söhne, E7");
            assert_eq!(leaf.not_before.as_second(), 1_764_000_001);
            assert_eq!(leaf.not_after.as_second(), 1_764_000_001 + i64::from(days) * 86_400);
            let digits = x509.serial_number().to_bn().unwrap().to_hex_str().unwrap().to_lowercase();
            assert_eq!(leaf.serial.trim_start_matches('0'), digits.trim_start_matches('0'));
        }
    }

    #[test]
    fn a_serial_has_the_zero_that_der_needs_and_no_other() {
        for (content, expected) in
            [(vec![0x7F, 1], "7f01"), (vec![0, 0x80], "0080"), (vec![0], "00"), (vec![], "00")]
        {
            assert_eq!(serial_hex(&content), expected);
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_no_certificate_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            place in 0usize..400,
            octet in any::<u8>(),
        ) {
            prop_assert!(Leaf::parse(&bytes).is_err());
            let mut damaged = certificate(&ecdsa_key(), &[7; 16], 90, &["a.example"]).to_der().unwrap();
            let place = place % damaged.len();
            damaged[place] = octet;
            let _ = Leaf::parse(&damaged);
            damaged.truncate(place);
            prop_assert!(Leaf::parse(&damaged).is_err());
        }
    }
}
