//! Signed messages (RFC 8945). The library signs only with a crypto stack of its own; here it is OpenSSL's HMAC over the
//! library's wire form.

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::{
    rr::{Name, RData},
    serialize::binary::{BinDecodable, BinDecoder},
};
use openssl::{
    hash::MessageDigest,
    memcmp,
    pkey::{PKey, Private},
    sign::Signer,
};
use shared::config::TsigAlgorithm;
use std::fmt;

/// How far the clocks may be apart, seconds.
const FUDGE: u16 = 300;
const HEADER_BYTES: usize = 12;
const CLASS_ANY: u16 = 255;
const TYPE_TSIG: u16 = 250;

/// A shared secret.
pub(super) struct Key {
    /// Wire form, lower case.
    name: Vec<u8>,
    algorithm: TsigAlgorithm,
    secret: PKey<Private>,
}

/// The answer is not from who has the secret, or it refuses the signature.
#[derive(Debug, thiserror::Error)]
pub(super) enum SignatureError {
    #[error("it does not know the TSIG key, or the secret is another one ({0})")]
    Refused(String),
    #[error("its answer is not signed")]
    Missing,
    #[error("its answer is signed with another secret")]
    Wrong,
    #[error("its clock differs from ours by more than {FUDGE} s")]
    Clock,
    #[error("its answer is malformed")]
    Malformed,
    #[error("the signature can't be made: {0}")]
    OpenSsl(#[from] openssl::error::ErrorStack),
}

impl Key {
    pub(super) fn new(name: &Name, algorithm: TsigAlgorithm, secret: &[u8]) -> Result<Self, SignatureError> {
        Ok(Self { name: wire(name), algorithm, secret: PKey::hmac(secret)? })
    }

    /// The message with its signature behind it, and the signature alone.
    pub(super) fn sign(
        &self,
        message: &[u8],
        unix_seconds: u64,
    ) -> Result<(Vec<u8>, Vec<u8>), SignatureError> {
        let id = [message[0], message[1]];
        let mac = self.mac(&[message, &self.variables(unix_seconds, FUDGE, 0, &[])])?;
        let mut data = self.algorithm_name();
        data.extend_from_slice(&unix_seconds.to_be_bytes()[2..]);
        data.extend_from_slice(&FUDGE.to_be_bytes());
        data.extend_from_slice(&length(&mac));
        data.extend_from_slice(&mac);
        data.extend_from_slice(&id);
        // No error, no other data.
        data.extend_from_slice(&[0; 4]);
        let mut signed = message.to_vec();
        signed.extend_from_slice(&self.name);
        signed.extend_from_slice(&TYPE_TSIG.to_be_bytes());
        signed.extend_from_slice(&CLASS_ANY.to_be_bytes());
        signed.extend_from_slice(&[0; 4]);
        signed.extend_from_slice(&length(&data));
        signed.extend_from_slice(&data);
        add_to_additionals(&mut signed, 1);
        Ok((signed, mac))
    }

    /// Whether an answer to the message with this signature is from who has the secret.
    pub(super) fn verify(&self, answer: &[u8], request_mac: &[u8], now: u64) -> Result<(), SignatureError> {
        let message = Message::from_vec(answer).map_err(|_| SignatureError::Malformed)?;
        // The library keeps the signature apart only where it can check it.
        let Some(RData::TSIG(tsig)) = message.additionals.last().map(|record| &record.data) else {
            return Err(SignatureError::Missing);
        };
        if let Some(error) = &tsig.error {
            return Err(SignatureError::Refused(format!("{error:?}")));
        }
        let start = last_record(answer).ok_or(SignatureError::Malformed)?;
        let mut unsigned = answer[..start].to_vec();
        unsigned[..2].copy_from_slice(&tsig.oid.to_be_bytes());
        add_to_additionals(&mut unsigned, u16::MAX);
        let variables = self.variables(tsig.time, tsig.fudge, 0, &tsig.other);
        let expected = self.mac(&[&length(request_mac), request_mac, &unsigned, &variables])?;
        if tsig.mac.len() != expected.len() || !memcmp::eq(&tsig.mac, &expected) {
            return Err(SignatureError::Wrong);
        }
        if tsig.time.abs_diff(now) > u64::from(FUDGE) { Err(SignatureError::Clock) } else { Ok(()) }
    }

    /// What is signed besides the message (RFC 8945 section 4.3.3).
    fn variables(&self, time: u64, fudge: u16, error: u16, other: &[u8]) -> Vec<u8> {
        let mut variables = self.name.clone();
        variables.extend_from_slice(&CLASS_ANY.to_be_bytes());
        variables.extend_from_slice(&[0; 4]);
        variables.extend_from_slice(&self.algorithm_name());
        variables.extend_from_slice(&time.to_be_bytes()[2..]);
        variables.extend_from_slice(&fudge.to_be_bytes());
        variables.extend_from_slice(&error.to_be_bytes());
        variables.extend_from_slice(&length(other));
        variables.extend_from_slice(other);
        variables
    }

    fn mac(&self, parts: &[&[u8]]) -> Result<Vec<u8>, SignatureError> {
        let digest = match self.algorithm {
            TsigAlgorithm::HmacSha256 => MessageDigest::sha256(),
            TsigAlgorithm::HmacSha512 => MessageDigest::sha512(),
        };
        let mut signer = Signer::new(digest, &self.secret)?;
        for part in parts {
            signer.update(part)?;
        }
        Ok(signer.sign_to_vec()?)
    }

    fn algorithm_name(&self) -> Vec<u8> {
        let label: &[u8] = match self.algorithm {
            TsigAlgorithm::HmacSha256 => b"hmac-sha256",
            TsigAlgorithm::HmacSha512 => b"hmac-sha512",
        };
        [&[label.len() as u8], label, &[0]].concat()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes()
}

/// Lower case, without compression.
fn wire(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.iter() {
        bytes.push(label.len() as u8);
        bytes.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    bytes.push(0);
    bytes
}

/// The number of additional records in the header; adding `u16::MAX` takes one away.
fn add_to_additionals(message: &mut [u8], more: u16) {
    let count = u16::from_be_bytes([message[10], message[11]]).wrapping_add(more);
    message[10..HEADER_BYTES].copy_from_slice(&count.to_be_bytes());
}

/// Where the last record begins.
fn last_record(message: &[u8]) -> Option<usize> {
    let count = |at: usize| Some(usize::from(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])));
    let (questions, records) = (count(4)?, count(6)? + count(8)? + count(10)?);
    let mut decoder = BinDecoder::new(message);
    decoder.read_slice(HEADER_BYTES).ok()?;
    for _ in 0..questions {
        Name::read(&mut decoder).ok()?;
        decoder.read_slice(4).ok()?;
    }
    for _ in 1..records {
        Name::read(&mut decoder).ok()?;
        decoder.read_slice(8).ok()?;
        let data = decoder.read_u16().ok()?.unverified();
        decoder.read_slice(usize::from(data)).ok()?;
    }
    (records > 0).then(|| decoder.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;
    /// An answer to an update: no error, nothing in it.
    const ANSWER: [u8; HEADER_BYTES] = [0x12, 0x34, 0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    fn key(secret: &[u8], algorithm: TsigAlgorithm) -> Key {
        Key::new(&Name::from_ascii("signpost.example.").unwrap(), algorithm, secret).unwrap()
    }

    /// As a server signs it that was asked with this signature.
    fn answered(key: &Key, request_mac: &[u8], message: &[u8], time: u64) -> Vec<u8> {
        let (mut signed, mac) = key.sign(message, time).unwrap();
        let right = key
            .mac(&[&length(request_mac), request_mac, message, &key.variables(time, FUDGE, 0, &[])])
            .unwrap();
        // Behind it stand the id, no error, and no other data.
        let end = signed.len() - 6;
        signed[end - mac.len()..end].copy_from_slice(&right);
        signed
    }

    #[test]
    fn an_answer_counts_only_from_who_has_the_secret() {
        for algorithm in [TsigAlgorithm::HmacSha256, TsigAlgorithm::HmacSha512] {
            let (ours, theirs) = (key(b"between us", algorithm), key(b"somebody else's", algorithm));
            let (_, request) = ours.sign(&ANSWER, NOW).unwrap();
            let good = answered(&ours, &request, &ANSWER, NOW);
            ours.verify(&good, &request, NOW).unwrap();
            assert!(matches!(ours.verify(&ANSWER, &request, NOW), Err(SignatureError::Missing)));
            let foreign = answered(&theirs, &request, &ANSWER, NOW);
            assert!(matches!(ours.verify(&foreign, &request, NOW), Err(SignatureError::Wrong)));
            // The answer to another question, and one that was changed on its way.
            let (_, other) = ours.sign(&ANSWER, NOW + 1).unwrap();
            assert!(matches!(ours.verify(&good, &other, NOW), Err(SignatureError::Wrong)));
            let mut changed = good.clone();
            changed[3] = 5;
            assert!(matches!(ours.verify(&changed, &request, NOW), Err(SignatureError::Wrong)));
            let late = answered(&ours, &request, &ANSWER, NOW - u64::from(FUDGE) - 1);
            assert!(matches!(ours.verify(&late, &request, NOW), Err(SignatureError::Clock)));
            for cut in 0..good.len() {
                assert!(ours.verify(&good[..cut], &request, NOW).is_err(), "{cut}");
            }
        }
    }
}
