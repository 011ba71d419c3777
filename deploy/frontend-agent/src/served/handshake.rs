//! One handshake with the web server, as a client would make it: for a name, and for a kind of key.

use openssl::{
    hash::MessageDigest,
    ssl::{HandshakeError, SslConnector, SslMethod, SslVerifyMode},
};
use shared::domain::Slot;
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

/// What a client is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// SHA-256 of the certificate.
    Certificate([u8; 32]),
    /// No certificate for this name, or none with this kind of key.
    Nothing,
}

/// Asks for a certificate. `slot`: where there are two kinds of keys, the one that the client can use.
///
/// # Errors
/// [`io::Error`] where nobody listens, or no TLS is spoken.
pub(super) fn shown(address: SocketAddr, name: &str, slot: Option<Slot>) -> io::Result<Shown> {
    let mut connector = SslConnector::builder(SslMethod::tls_client())?;
    connector.set_verify(SslVerifyMode::NONE);
    match slot {
        Some(Slot::Ecdsa) => connector.set_sigalgs_list("ECDSA+SHA256:ECDSA+SHA384")?,
        Some(Slot::Rsa) => connector.set_sigalgs_list("RSA-PSS+SHA256:RSA+SHA256")?,
        None => {}
    }
    let is_address = name.parse::<IpAddr>().is_ok();
    let tls = connector.build().configure()?.verify_hostname(false).use_server_name_indication(!is_address);
    // Whatever name a wildcard stands for is shown the same.
    let name = name.replacen('*', "signpost-probe", 1);
    let tcp = TcpStream::connect_timeout(&address, CONNECT)?;
    tcp.set_read_timeout(Some(ANSWER))?;
    tcp.set_write_timeout(Some(ANSWER))?;
    match tls.connect(&name, tcp) {
        Ok(stream) => {
            let certificate = stream.ssl().peer_certificate();
            let digest = certificate.map(|leaf| leaf.digest(MessageDigest::sha256())).transpose()?;
            let digest = digest.and_then(|digest| <[u8; 32]>::try_from(&*digest).ok());
            Ok(digest.map_or(Shown::Nothing, Shown::Certificate))
        }
        // It has sent an alert: it speaks TLS, and has nothing to show.
        Err(HandshakeError::Failure(stream)) if stream.error().ssl_error().is_some_and(is_alert) => {
            Ok(Shown::Nothing)
        }
        Err(HandshakeError::Failure(stream)) => Err(io::Error::other(stream.error().to_string())),
        Err(HandshakeError::WouldBlock(_)) => Err(io::ErrorKind::TimedOut.into()),
        Err(HandshakeError::SetupFailure(error)) => Err(error.into()),
    }
}

/// OpenSSL's reasons for alerts that were received lie from 1000 on.
fn is_alert(errors: &openssl::error::ErrorStack) -> bool {
    errors.errors().iter().any(|error| error.reason_code() >= 1000)
}
