//! Renewal information (RFC 9773): when the CA wants a certificate to be replaced.

use super::{
    answer::Answer,
    client::Client,
    moments::Moment,
    reading::{self, Wire},
    request_error::RequestError,
    timestamp,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use openssl::{error::ErrorStack, x509::X509Ref};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What is left of a window whose edges are both not believed.
const SHORTEST: SignedDuration = SignedDuration::from_hours(1);

/// Names a certificate towards its CA (RFC 9773 section 4.1): the key identifier of the issuer and the serial number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CertificateId(String);

/// A certificate that renewal information can't be asked for.
#[derive(Debug, thiserror::Error)]
pub enum CertificateIdError {
    #[error("the certificate does not name its issuer's key")]
    NoAuthorityKeyIdentifier,
    #[error("the certificate's serial number is negative")]
    NegativeSerial,
    #[error("the certificate's serial number can't be read")]
    OpenSsl(#[from] ErrorStack),
}

/// The window in which to renew (RFC 9773 section 4.2). Its end is after its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalInfo {
    pub start: Timestamp,
    pub end: Timestamp,
    /// For people: why the CA wants it, in an incident.
    pub explanation_url: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfoObject {
    suggested_window: SuggestedWindow,
    #[serde(default, rename = "explanationURL", deserialize_with = "reading::url")]
    explanation_url: Option<String>,
}

impl Wire for RenewalInfoObject {
    const MEMBERS: &'static [&'static str] = &["suggestedWindow"];
}

#[derive(Deserialize)]
struct SuggestedWindow {
    start: String,
    end: String,
}

impl CertificateId {
    /// # Errors
    /// [`CertificateIdError`] when the certificate has no authority key identifier, or an impossible serial number.
    pub fn of(certificate: &X509Ref) -> Result<Self, CertificateIdError> {
        let issuer = certificate.authority_key_id().ok_or(CertificateIdError::NoAuthorityKeyIdentifier)?;
        let serial = certificate.serial_number().to_bn()?;
        if serial.is_negative() {
            return Err(CertificateIdError::NegativeSerial);
        }
        Ok(Self::from_parts(issuer.as_slice(), serial.to_vec()))
    }

    /// `serial` is the number without leading zeros.
    fn from_parts(key_identifier: &[u8], mut serial: Vec<u8>) -> Self {
        // The contents octets of the DER INTEGER have a zero in front where the number would be taken for negative.
        if serial.first().is_none_or(|first| first & 0x80 != 0) {
            serial.insert(0, 0);
        }
        Self(format!("{}.{}", URL_SAFE_NO_PAD.encode(key_identifier), URL_SAFE_NO_PAD.encode(serial)))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Client {
    /// When to renew a certificate of this CA. Unsigned, and must not be asked for one that has expired or was replaced.
    /// `retry_after` of the answer is when to ask again.
    ///
    /// # Errors
    /// [`RequestError::NotOffered`] where the CA has no renewal information, [`RequestError::Malformed`] for an empty
    /// window or unreadable dates.
    pub async fn renewal_info(
        &self,
        certificate: &CertificateId,
    ) -> Result<Answer<RenewalInfo>, RequestError> {
        let directory = self.directory().await?;
        let base =
            directory.renewal_info.as_deref().ok_or(RequestError::NotOffered { entry: "renewalInfo" })?;
        let url = format!("{}/{certificate}", base.trim_end_matches('/'));
        let answer = self.fetch_object::<RenewalInfoObject>(&url).await?;
        let value =
            window(answer.value).map_err(|what| RequestError::Malformed { url, what: what.to_owned() })?;
        let (value, disbelieved) = value.believed(Timestamp::now());
        if let Some(said) = disbelieved {
            self.disbelieve(Moment::RenewalWindow, &said.to_string()).await;
        }
        Ok(Answer { value, retry_after: answer.retry_after })
    }
}

impl RenewalInfo {
    /// As far as it is believed, and the first moment that is not.
    fn believed(self, now: Timestamp) -> (Self, Option<Timestamp>) {
        let edges = [self.start, self.end].map(|edge| (edge, Moment::RenewalWindow.believe_at(edge, now)));
        let disbelieved = edges.iter().find(|(_, found)| found.is_replaced).map(|(said, _)| *said);
        let [start, end] = edges.map(|(_, found)| found.value);
        let least = start.saturating_add(SHORTEST).unwrap_or(Timestamp::MAX);
        (Self { start, end: if end > start { end } else { least }, ..self }, disbelieved)
    }
}

fn window(object: RenewalInfoObject) -> Result<RenewalInfo, &'static str> {
    let SuggestedWindow { start, end } = &object.suggested_window;
    let (Some(start), Some(end)) = (timestamp::parse(start), timestamp::parse(end)) else {
        return Err("a renewal window whose dates can't be read");
    };
    if end <= start {
        return Err("a renewal window that ends before it starts");
    }
    Ok(RenewalInfo { start, end, explanation_url: object.explanation_url })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::generate_certificate_key;
    use openssl::{
        asn1::{Asn1Object, Asn1OctetString},
        bn::BigNum,
        hash::MessageDigest,
        x509::{X509, X509Builder, X509Extension},
    };
    use shared::domain::KeyType;

    /// RFC 9773 section 4.1: key identifier 69:88:…:D4 and serial 00:87:65:43:21.
    const KEY_IDENTIFIER: [u8; 20] = [
        0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde,
        0x01, 0xc8, 0xd4,
    ];

    fn certificate(serial: u32, with_key_identifier: bool) -> X509 {
        let key = generate_certificate_key(KeyType::EcdsaP256).unwrap();
        let mut builder = X509Builder::new().unwrap();
        builder.set_serial_number(&BigNum::from_u32(serial).unwrap().to_asn1_integer().unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        if with_key_identifier {
            // SEQUENCE { [0] keyIdentifier }
            let der = [&[0x30, 22, 0x80, 20], KEY_IDENTIFIER.as_slice()].concat();
            let oid = Asn1Object::from_str("2.5.29.35").unwrap();
            let value = Asn1OctetString::new_from_bytes(&der).unwrap();
            builder.append_extension(X509Extension::new_from_der(&oid, false, &value).unwrap()).unwrap();
        }
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn the_identifier_of_rfc_9773_section_4_1() {
        let id = CertificateId::of(&certificate(0x87_65_43_21, true)).unwrap();
        assert_eq!(id.as_str(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE\"");
    }

    #[test]
    fn serials_without_the_top_bit_have_no_zero_in_front() {
        assert_eq!(CertificateId::from_parts(&[1], vec![0x7f]).as_str(), "AQ.fw");
        assert_eq!(CertificateId::from_parts(&[1], vec![0x80]).as_str(), "AQ.AIA");
        assert_eq!(CertificateId::from_parts(&[1], vec![]).as_str(), "AQ.AA");
        let anonymous = CertificateId::of(&certificate(1, false));
        assert!(matches!(anonymous, Err(CertificateIdError::NoAuthorityKeyIdentifier)));
    }

    #[test]
    fn the_window_of_rfc_9773_section_4_2_is_read() {
        let example = r#"{
            "suggestedWindow": {"start": "2025-01-02T04:00:00Z", "end": "2025-01-03T04:00:00.123Z"},
            "explanationURL": "https://acme.example.com/docs/ari"
        }"#;
        let info = window(serde_json::from_str(example).unwrap()).unwrap();
        assert_eq!(info.start.as_second(), 1_735_790_400);
        assert_eq!(info.end.as_millisecond(), 1_735_876_800_123);
        assert_eq!(info.explanation_url.as_deref(), Some("https://acme.example.com/docs/ari"));
    }

    #[test]
    fn a_window_out_of_this_world_is_brought_into_bounds() {
        let now: Timestamp = "2026-11-30T12:00:00Z".parse().unwrap();
        let of = |start: &str, end: &str| RenewalInfo {
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
            explanation_url: None,
        };
        let (found, disbelieved) = of("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z").believed(now);
        assert_eq!(disbelieved.unwrap().to_string(), "1970-01-01T00:00:00Z");
        assert!(found.start < found.end && found.end < now, "{found:?}");
        let (found, disbelieved) = of("2027-01-01T00:00:00Z", "9000-01-01T00:00:00Z").believed(now);
        assert_eq!(disbelieved.unwrap().to_string(), "9000-01-01T00:00:00Z");
        assert_eq!(found.start.to_string(), "2027-01-01T00:00:00Z");
        let sound = of("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z");
        assert_eq!(sound.clone().believed(now), (sound, None));
    }

    #[test]
    fn an_empty_window_is_invalid() {
        for (start, end) in [
            ("2025-01-02T04:00:00Z", "2025-01-02T04:00:00Z"),
            ("2025-01-02T04:00:00Z", "2025-01-01T04:00:00Z"),
            ("tomorrow", "2025-01-01T04:00:00Z"),
        ] {
            let object = RenewalInfoObject {
                suggested_window: SuggestedWindow { start: start.to_owned(), end: end.to_owned() },
                explanation_url: None,
            };
            assert!(window(object).is_err(), "{start} {end}");
        }
    }
}
