//! Who asks: a frontend, by the token of the request or the client certificate of the connection. Looked up in the
//! store for each request and kept nowhere, so that a revocation counts from the next one on.

use super::refusal::Refusal;
use actix_web::{
    HttpRequest,
    dev::Extensions,
    http::header::{AUTHORIZATION, HeaderMap},
};
use jiff::Timestamp;
use openssl::{base64::decode_block, ssl::SslRef};
use shared::{
    digest::sha256_hex,
    domain::{Frontend, FrontendName},
    store::Store,
};
use std::fmt;
use zeroize::Zeroizing;

/// The public key of the client certificate that a connection showed: SHA-256 of its DER form, hex.
#[derive(Clone, Debug)]
struct ClientKey(String);

/// Notes the client's key when a connection is made. A certificate that our CA didn't sign never comes this far.
pub(crate) fn on_connect(tls: &SslRef, extensions: &mut Extensions) {
    let Some(certificate) = tls.peer_certificate() else { return };
    if let Ok(spki) = certificate.public_key().and_then(|key| key.public_key_to_der()) {
        extensions.insert(ClientKey(sha256_hex(&spki)));
    }
}

/// What a request shows of who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// SHA-256 of a bearer token, hex.
    Token(String),
    /// SHA-256 of the public key of a client certificate, hex.
    Key(String),
}

/// Who a request claims to come from. A token counts before a client certificate.
///
/// # Errors
/// [`Refusal::Unauthorized`] for nobody.
pub(crate) fn of(request: &HttpRequest) -> Result<Identity, Refusal> {
    match token_of(request.headers())? {
        Some(token) => Ok(Identity::Token(sha256_hex(&token))),
        None => match request.conn_data::<ClientKey>() {
            Some(ClientKey(identity)) => Ok(Identity::Key(identity.clone())),
            None => Err(Refusal::Unauthorized),
        },
    }
}

impl Identity {
    /// The frontend that has it now.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] for an unknown or a revoked one, [`Refusal::Store`] when it can't be looked up.
    pub(crate) async fn frontend(&self, store: &Store) -> Result<Frontend, Refusal> {
        let (Self::Token(digest) | Self::Key(digest)) = self;
        let frontend = store.frontend_of(digest).await?.ok_or(Refusal::Unauthorized)?;
        // A token can't stand for a key, nor the reverse.
        let is_its = match self {
            Self::Token(digest) => frontend.is_token(digest, Timestamp::now()),
            Self::Key(digest) => frontend.is_key(digest),
        };
        if is_its { Ok(frontend) } else { Err(Refusal::Unauthorized) }
    }

    /// The frontend that it may be, or may have been: good for asking for a client certificate, and for nothing else.
    ///
    /// # Errors
    /// As [`Identity::frontend`].
    pub(crate) async fn enrolled_name(&self, store: &Store) -> Result<FrontendName, Refusal> {
        let (Self::Token(digest) | Self::Key(digest)) = self;
        let frontend = store.frontend_of(digest).await?.ok_or(Refusal::Unauthorized)?;
        Ok(frontend.name)
    }
}

/// As it stands in the audit.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(digest) => write!(f, "token:{digest}"),
            Self::Key(digest) => write!(f, "key:{digest}"),
        }
    }
}

/// RFC 6750 section 2.1; or RFC 7617 for what knows nothing but the user and password of a URL: the token is the password. A
/// header of any other form is an identity that is wrong, not one that is missing.
fn token_of(headers: &HeaderMap) -> Result<Option<Zeroizing<Vec<u8>>>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::Unauthorized);
    }
    let (scheme, given) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refusal::Unauthorized)?;
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        Zeroizing::new(given.trim().as_bytes().to_vec())
    } else if scheme.eq_ignore_ascii_case("basic") {
        let login = decode_block(given.trim()).map(Zeroizing::new).map_err(|_| Refusal::Unauthorized)?;
        let colon = login.iter().position(|byte| *byte == b':').ok_or(Refusal::Unauthorized)?;
        Zeroizing::new(login[colon + 1..].to_vec())
    } else {
        return Err(Refusal::Unauthorized);
    };
    let usable = !token.is_empty() && token.iter().all(u8::is_ascii_graphic);
    if usable { Ok(Some(token)) } else { Err(Refusal::Unauthorized) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_token_is_one() {
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| headers.append(AUTHORIZATION, value.parse().unwrap()));
            token_of(&headers)
                .map(|token| token.map(|token| String::from_utf8(token.to_vec()).unwrap()))
                .map_err(|refusal| refusal.to_string())
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&["Bearer abc"]), Ok(Some("abc".into())));
        assert_eq!(with(&["bearer  abc "]), Ok(Some("abc".into())));
        assert_eq!(with(&["Basic ZWRnZTphYmM="]), Ok(Some("abc".into())));
        for wrong in [
            &["Basic abc"][..],
            &["Basic ZWRnZQ=="],
            &["Basic ZWRnZTo="],
            &["Digest abc"],
            &["Bearer"],
            &["Bearer "],
            &[""],
            &["Bearer a b"],
            &["Bearer a", "Bearer a"],
        ] {
            assert!(with(wrong).is_err(), "{wrong:?}");
        }
    }
}
