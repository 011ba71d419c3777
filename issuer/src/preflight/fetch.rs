//! One request of a validator: a new connection, one GET, the first bytes of the answer, closed.
//!
//! Written on the bare socket, since what an HTTP library does for its user (pooling, retries, other protocols) is what the CA's
//! validator does not.

use super::{
    redirect::{Host, Scheme, Target},
    response::{Response, ResponseError, ResponseReader},
};
use openssl::ssl::{HandshakeError, SslConnector, SslMethod, SslVerifyMode, SslVersion};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout_at,
};

/// Not the CA's own name: a firewall that lets only the CA's pass would fool the self-check, one that stops the word
/// "compatible" stops both.
pub const USER_AGENT: &str = "Mozilla/5.0 (compatible; signpost self-check)";

/// Why a request brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection. The only kind for which a CA falls back from IPv6 to IPv4.
    #[error("{0}")]
    Dial(DialFailure),
    #[error("timeout after connect (the server may be slow or overloaded)")]
    Timeout,
    #[error("connection reset by peer")]
    Reset,
    #[error("{0}")]
    Response(#[from] ResponseError),
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("error reading the answer: {0}")]
    Io(String),
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    #[error("timeout during connect (likely firewall problem)")]
    Timeout,
    #[error("connection refused")]
    Refused,
    #[error("network unreachable")]
    Unreachable,
    #[error("connection reset by peer")]
    Reset,
    #[error("{0}")]
    Other(String),
}

/// Asks `address` for `target`. `dial_timeout` bounds the connection and, on `https`, the handshake;
/// `deadline` everything.
///
/// # Errors
/// [`FetchError`]; what is an answer is never one, whatever its status.
pub async fn fetch(
    target: &Target,
    address: SocketAddr,
    referer: Option<&str>,
    dial_timeout: Duration,
    deadline: Instant,
) -> Result<Response, FetchError> {
    let request = request_text(target, referer);
    match target.scheme {
        Scheme::Http => fetch_plain(&request, address, dial_timeout, deadline).await,
        Scheme::Https => {
            let server_name = target.host.clone();
            tokio::task::spawn_blocking(move || {
                fetch_tls(&request, &server_name, address, dial_timeout, deadline)
            })
            .await
            .map_err(|error| FetchError::Io(error.to_string()))?
        }
    }
}

fn request_text(target: &Target, referer: Option<&str>) -> String {
    let referer = referer.map(|url| format!("Referer: {url}\r\n")).unwrap_or_default();
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nAccept: */*\r\n{referer}Accept-Encoding: gzip\r\n\
         Connection: close\r\n\r\n",
        target.path_and_query,
        target.authority(),
    )
}

async fn fetch_plain(
    request: &str,
    address: SocketAddr,
    dial_timeout: Duration,
    deadline: Instant,
) -> Result<Response, FetchError> {
    let dialed = deadline.min(Instant::now() + dial_timeout);
    let mut stream = match timeout_at(dialed.into(), TcpStream::connect(address)).await {
        Err(_) => return Err(FetchError::Dial(DialFailure::Timeout)),
        Ok(connected) => connected.map_err(|error| FetchError::Dial(DialFailure::from(error)))?,
    };
    let exchange = async {
        stream.write_all(request.as_bytes()).await.map_err(read_failure)?;
        let mut reader = ResponseReader::default();
        let mut buffer = [0; 4096];
        loop {
            let count = stream.read(&mut buffer).await.map_err(read_failure)?;
            if count == 0 {
                return Ok(reader.finish()?);
            }
            if let Some(response) = reader.push(&buffer[..count])? {
                return Ok(response);
            }
        }
    };
    timeout_at(deadline.into(), exchange).await.map_err(|_| FetchError::Timeout)?
}

/// The `https` hop: any certificate will do (the name has none yet), TLS 1.2 at least, HTTP/1.1 only.
fn fetch_tls(
    request: &str,
    server_name: &Host,
    address: SocketAddr,
    dial_timeout: Duration,
    deadline: Instant,
) -> Result<Response, FetchError> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    if remaining.is_zero() {
        return Err(FetchError::Timeout);
    }
    let stream = std::net::TcpStream::connect_timeout(&address, dial_timeout.min(remaining))
        .map_err(|error| FetchError::Dial(DialFailure::from(error)))?;
    let stream = Deadlined { stream, deadline: deadline.min(Instant::now() + dial_timeout) };
    let mut tls = handshake(server_name, stream)?;
    tls.get_mut().deadline = deadline;
    tls.write_all(request.as_bytes()).map_err(read_failure)?;
    let mut reader = ResponseReader::default();
    let mut buffer = [0; 4096];
    loop {
        match tls.read(&mut buffer) {
            Ok(0) => return Ok(reader.finish()?),
            Ok(count) => {
                if let Some(response) = reader.push(&buffer[..count])? {
                    return Ok(response);
                }
            }
            // Closed without close_notify: as common as closing with it.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(reader.finish()?),
            Err(error) => return Err(read_failure(error)),
        }
    }
}

fn handshake(
    server_name: &Host,
    stream: Deadlined,
) -> Result<openssl::ssl::SslStream<Deadlined>, FetchError> {
    let unusable = |error: openssl::error::ErrorStack| FetchError::Tls(error.to_string());
    let mut connector = SslConnector::builder(SslMethod::tls_client()).map_err(unusable)?;
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(unusable)?;
    // A certificate that nobody verifies may have a key of any size.
    connector.set_security_level(0);
    let mut configuration = connector.build().configure().map_err(unusable)?.verify_hostname(false);
    let name = match server_name {
        Host::Name(name) => name.as_str(),
        Host::Address(_) => {
            configuration.set_use_server_name_indication(false);
            ""
        }
    };
    configuration.connect(name, stream).map_err(|error| match error {
        HandshakeError::SetupFailure(stack) => unusable(stack),
        HandshakeError::Failure(broken) | HandshakeError::WouldBlock(broken) => {
            match broken.error().io_error().map(io::Error::kind) {
                Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => FetchError::Timeout,
                Some(ErrorKind::ConnectionReset) => FetchError::Reset,
                _ => FetchError::Tls(broken.error().to_string()),
            }
        }
    })
}

/// A socket whose every read and write ends at one moment, however slowly the bytes drip.
#[derive(Debug)]
struct Deadlined {
    stream: std::net::TcpStream,
    deadline: Instant,
}

impl Deadlined {
    fn remaining(&self) -> io::Result<Option<Duration>> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        if remaining.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(Some(remaining)) }
    }
}

impl Read for Deadlined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.remaining()?)?;
        self.stream.read(buffer).map_err(as_timeout)
    }
}

impl Write for Deadlined {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.remaining()?)?;
        self.stream.write(bytes).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A socket's own timeout reads as "would block", which OpenSSL would take for an invitation to try again.
fn as_timeout(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

fn read_failure(error: io::Error) -> FetchError {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => FetchError::Timeout,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => FetchError::Reset,
        _ => FetchError::Io(error.to_string()),
    }
}

impl From<io::Error> for DialFailure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::AddrNotAvailable => {
                Self::Unreachable
            }
            ErrorKind::ConnectionReset => Self::Reset,
            _ => Self::Other(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Rules;
    use openssl::{
        asn1::Asn1Time,
        ec::{EcGroup, EcKey},
        hash::MessageDigest,
        nid::Nid,
        pkey::PKey,
        ssl::{SslAcceptor, SslMethod},
        x509::X509,
    };
    use std::{net::TcpListener, thread};

    /// Accepts one connection, reads one request, writes `answer`, and hands the request back.
    fn serve_once(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = read_request(&mut stream);
            stream.write_all(answer).unwrap();
            request
        });
        (address, server)
    }

    fn read_request(stream: &mut impl Read) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        String::from_utf8(request).unwrap()
    }

    fn target(address: SocketAddr) -> Target {
        Target::first(
            "shop.test",
            "/.well-known/acme-challenge/t",
            &Rules::for_port(address.port(), |_| false),
        )
    }

    async fn ask(target: &Target, address: SocketAddr, seconds: u64) -> Result<Response, FetchError> {
        fetch(
            target,
            address,
            Some("http://a.test/"),
            Duration::from_secs(5),
            Instant::now() + Duration::from_secs(seconds),
        )
        .await
    }

    #[tokio::test]
    async fn the_request_is_the_validators() {
        let (address, server) = serve_once(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody");
        let response = ask(&target(address), address, 5).await.unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, b"body".as_slice()));
        assert_eq!(
            server.join().unwrap(),
            format!(
                "GET /.well-known/acme-challenge/t HTTP/1.1\r\nHost: shop.test:{}\r\nUser-Agent: {USER_AGENT}\r\n\
                 Accept: */*\r\nReferer: http://a.test/\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
                address.port()
            )
        );
    }

    #[tokio::test]
    async fn failures_tell_the_connection_from_the_answer() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(&target(closed), closed, 5).await, Err(FetchError::Dial(DialFailure::Refused)));

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        assert_eq!(ask(&target(address), address, 1).await, Err(FetchError::Timeout));

        let (address, server) = serve_once(b"220 mail.test ESMTP\r\n");
        assert_eq!(
            ask(&target(address), address, 5).await,
            Err(FetchError::Response(ResponseError::NotHttp))
        );
        server.join().unwrap();
    }

    #[tokio::test]
    async fn an_https_hop_takes_any_certificate_and_names_the_host() {
        let key = PKey::from_ec_key(
            EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap(),
        )
        .unwrap();
        let mut certificate = X509::builder().unwrap();
        certificate.set_not_before(&Asn1Time::from_unix(0).unwrap()).unwrap();
        certificate.set_not_after(&Asn1Time::from_unix(86_400).unwrap()).unwrap();
        certificate.set_pubkey(&key).unwrap();
        certificate.sign(&key, MessageDigest::sha256()).unwrap();
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
        acceptor.set_private_key(&key).unwrap();
        acceptor.set_certificate(&certificate.build()).unwrap();
        let acceptor = acceptor.build();

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let mut tls = acceptor.accept(listener.accept().unwrap().0).unwrap();
            read_request(&mut tls);
            tls.write_all(b"HTTP/1.1 200 OK\r\n\r\nover tls").unwrap();
            tls.shutdown().ok();
            tls.ssl().servername(openssl::ssl::NameType::HOST_NAME).map(str::to_owned)
        });
        let target = Target { scheme: Scheme::Https, ..target(address) };
        let response = ask(&target, address, 5).await.unwrap();
        assert_eq!(response.body, b"over tls");
        assert_eq!(server.join().unwrap().as_deref(), Some("shop.test"));
    }

    #[tokio::test]
    async fn plain_http_on_an_https_port_and_a_silent_one_are_reported() {
        let (address, server) = serve_once_without_reading(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let https = Target { scheme: Scheme::Https, ..target(address) };
        assert!(matches!(ask(&https, address, 5).await, Err(FetchError::Tls(_))));
        server.join().unwrap();

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let https = Target { scheme: Scheme::Https, ..target(address) };
        assert_eq!(ask(&https, address, 1).await, Err(FetchError::Timeout));
    }

    fn serve_once_without_reading(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(answer).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).ok();
        });
        (address, server)
    }
}
