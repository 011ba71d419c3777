//! The signature of a webhook: who has the secret can tell that a message is ours, and from when.

use openssl::{error::ErrorStack, hash::MessageDigest, pkey::PKey, sign::Signer};
use shared::digest::hex;

/// The value of `Signpost-Signature`: `t=UNIX,v1=HEX`, an HMAC-SHA256 of `UNIX.BODY`.
///
/// # Errors
/// OpenSSL's.
pub fn sign(secret: &[u8], unix_seconds: i64, body: &[u8]) -> Result<String, ErrorStack> {
    let key = PKey::hmac(secret)?;
    let mut signer = Signer::new(MessageDigest::sha256(), &key)?;
    signer.update(format!("{unix_seconds}.").as_bytes())?;
    signer.update(body)?;
    Ok(format!("t={unix_seconds},v1={}", hex(&signer.sign_to_vec()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '1764000000.{"id":"x"}' | openssl dgst -sha256 -hmac secret`
    #[test]
    fn the_signature_is_what_the_openssl_program_makes() {
        let signature = sign(b"secret", 1_764_000_000, br#"{"id":"x"}"#).unwrap();
        let expected = "158aa7c8e3e3eb215612c318e68e422fb4f6587ac1656f892d70fb2b4d760644";
        assert_eq!(signature, format!("t=1764000000,v1={expected}"));
    }
}
