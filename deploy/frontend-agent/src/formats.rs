//! What servers want in the place of two PEM files.

use crate::verify::Pair;
use openssl::{base64::encode_block, pkcs12::Pkcs12, pkey::PKey, stack::Stack, x509::X509};
use serde_json::json;
use shared::{config::Secret, domain::Slot};
use std::io;
use zeroize::Zeroizing;

/// A file that is made of each pair. All of them hold the private key.
#[derive(Clone, Debug)]
pub(crate) enum Format {
    /// Key, leaf and chain: HAProxy, hitch, lighttpd. HAProxy finds the kinds of keys by the endings.
    Combined,
    /// A keystore with this password: Java, Windows.
    Pkcs12(Secret),
    /// A Secret of the type kubernetes.io/tls, for `kubectl apply -f`.
    KubernetesSecret,
}

impl Format {
    pub(crate) fn file_name(&self, slot: Slot) -> String {
        match self {
            Self::Combined => format!("combined.pem.{slot}"),
            Self::Pkcs12(_) => format!("{slot}.p12"),
            Self::KubernetesSecret => format!("{slot}-secret.json"),
        }
    }

    /// # Errors
    /// What OpenSSL can't make.
    pub(crate) fn render(&self, pair: &Pair, names: &[String]) -> io::Result<Zeroizing<Vec<u8>>> {
        Ok(match self {
            Self::Combined => {
                let mut content =
                    Zeroizing::new(Vec::with_capacity(pair.privkey.len() + pair.fullchain.len()));
                content.extend_from_slice(&pair.privkey);
                content.extend_from_slice(&pair.fullchain);
                content
            }
            Self::Pkcs12(password) => pkcs12(pair, names, password.reveal())?,
            Self::KubernetesSecret => {
                let name = format!("signpost-{}-{}", &pair.leaf.fingerprint_sha256[..16], pair.slot);
                let key = Zeroizing::new(encode_block(&pair.privkey));
                let secret = json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "type": "kubernetes.io/tls",
                    "metadata": {
                        "name": name,
                        "annotations": { "signpost/names": names.join(" "), "signpost/not-after": pair.leaf.not_after },
                    },
                    "data": { "tls.crt": encode_block(&pair.fullchain), "tls.key": *key },
                });
                Zeroizing::new(serde_json::to_vec(&secret)?)
            }
        })
    }
}

fn pkcs12(pair: &Pair, names: &[String], password: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let chain = X509::stack_from_pem(&pair.fullchain)?;
    let mut above = Stack::new()?;
    for certificate in chain.iter().skip(1) {
        above.push(certificate.clone())?;
    }
    let (Some(leaf), key) = (chain.first(), PKey::private_key_from_pem(&pair.privkey)?) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a pair without a certificate"));
    };
    let mut builder = Pkcs12::builder();
    builder.name(names.first().map_or("signpost", String::as_str)).pkey(&key).cert(leaf).ca(above);
    Ok(Zeroizing::new(builder.build2(password)?.to_der()?))
}
