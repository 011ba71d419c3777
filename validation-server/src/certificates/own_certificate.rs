//! The server's own certificate: from files, read again when they change, or from the internal CA, renewed in time.

use super::tls::{Pair, PairError, ServerTls};
use crate::run::Failure;
use jiff::Timestamp;
use openssl::x509::X509Ref;
use shared::{
    config,
    domain::{DnsName, Leaf},
    error::chain,
    tls::{AuthorityError, InternalCa},
};
use std::{
    io,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// How often files and the validity are looked at. SIGHUP does it at once.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pause after a certificate could not be made.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Where the certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OwnCertificate {
    Files {
        certificate: PathBuf,
        key: PathBuf,
    },
    /// Made by the internal CA for these names and addresses.
    Internal {
        hosts: Vec<String>,
    },
}

/// The certificate can't be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnCertificateError {
    #[error("{path} can't be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{certificate} and {key} can't be shown", certificate = .0.display(), key = .1.display())]
    Files(PathBuf, PathBuf, #[source] PairError),
    #[error("certificates.names: {0:?} is neither a hostname nor an address")]
    Name(String),
    #[error("the internal CA's certificate can't be shown")]
    Internal(#[source] PairError),
    #[error("the internal CA can't make a certificate")]
    Authority(#[from] AuthorityError),
}

/// Says that a file is another one than before.
type Stamp = (Option<SystemTime>, u64, u64);

impl OwnCertificate {
    /// # Errors
    /// [`OwnCertificateError::Name`].
    pub(crate) fn new(section: &config::Certificates) -> Result<Self, OwnCertificateError> {
        if let (Some(certificate), Some(key)) = (&section.tls_certificate_file, &section.tls_key_file) {
            return Ok(Self::Files { certificate: certificate.clone(), key: key.clone() });
        }
        let named = section.names.iter().map(|name| host(name)).collect::<Result<Vec<_>, _>>()?;
        let hosts = if named.is_empty() { hosts_of_listeners(section) } else { named };
        Ok(Self::Internal { hosts })
    }

    /// Whether it could be shown, as far as that can be known without the store.
    ///
    /// # Errors
    /// [`OwnCertificateError`].
    pub(crate) fn check(&self) -> Result<(), OwnCertificateError> {
        match self {
            Self::Files { certificate, key } => read(certificate, key).map(drop),
            Self::Internal { .. } => Ok(()),
        }
    }

    /// Shows what needs no store. Clients with a certificate are refused until [`OwnCertificate::keep`].
    ///
    /// # Errors
    /// [`OwnCertificateError`].
    pub(crate) fn begin(&self, tls: &ServerTls) -> Result<(), OwnCertificateError> {
        match self {
            Self::Files { certificate, key } => show_files(tls, certificate, key, None),
            Self::Internal { .. } => Ok(()),
        }
    }

    /// Keeps a valid certificate in `tls`, for as long as the program runs. What can't be replaced stays.
    ///
    /// # Errors
    /// The first certificate can't be made.
    pub(crate) async fn keep(&self, tls: &ServerTls, authority: &InternalCa) -> Result<(), Failure> {
        let mut hangup =
            signal(SignalKind::hangup()).map_err(|e| Failure::failed("signals can't be received", e))?;
        let mut shown = self.show(tls, authority).map_err(|e| Failure::configuration(&e))?;
        loop {
            let told = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            if !told && !self.is_outdated(&shown) {
                continue;
            }
            match self.show(tls, authority) {
                Ok(now) => {
                    shown = now;
                    tracing::info!("the server's certificate was replaced");
                }
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "the server's certificate can't be replaced, the old one stays"
                    );
                    // Said once; looked at again when something changes.
                    shown = shown.after_failure(self);
                }
            }
        }
    }

    fn show(&self, tls: &ServerTls, authority: &InternalCa) -> Result<Shown, OwnCertificateError> {
        match self {
            Self::Files { certificate, key } => {
                // Taken before: what changes while it is read is read again.
                let stamps = (stamp(certificate), stamp(key));
                show_files(tls, certificate, key, Some(authority.certificate()))?;
                Ok(Shown::Files(stamps))
            }
            Self::Internal { hosts } => {
                let made = authority.issue_server(hosts)?;
                let pair = Pair::from_pem(made.certificate_pem.as_bytes(), &made.key_pem)
                    .map_err(OwnCertificateError::Internal)?;
                tls.replace(&pair, Some(authority.certificate())).map_err(OwnCertificateError::Internal)?;
                Ok(Shown::Internal { validity: Validity::of(pair.leaf()) })
            }
        }
    }

    fn is_outdated(&self, shown: &Shown) -> bool {
        match (self, shown) {
            (Self::Files { certificate, key }, Shown::Files(stamps)) => {
                *stamps != (stamp(certificate), stamp(key))
            }
            (_, Shown::Internal { validity }) => validity.is_outdated(Timestamp::now()),
            (Self::Internal { .. }, Shown::Files(_)) => true,
        }
    }
}

/// What is shown, and what would make it outdated.
enum Shown {
    Files((Option<Stamp>, Option<Stamp>)),
    Internal { validity: Validity },
}

enum Validity {
    Known {
        from: Timestamp,
        to: Timestamp,
    },
    /// Another one is made at that moment.
    Unknown {
        again: Timestamp,
    },
}

impl Shown {
    fn after_failure(self, own: &OwnCertificate) -> Self {
        match own {
            OwnCertificate::Files { certificate, key } => Self::Files((stamp(certificate), stamp(key))),
            OwnCertificate::Internal { .. } => {
                Self::Internal { validity: Validity::Unknown { again: Timestamp::now() + TRY_AGAIN } }
            }
        }
    }
}

fn show_files(
    tls: &ServerTls,
    certificate: &Path,
    key: &Path,
    client_ca: Option<&X509Ref>,
) -> Result<(), OwnCertificateError> {
    let pair = read(certificate, key)?;
    tls.replace(&pair, client_ca).map_err(|e| OwnCertificateError::Files(certificate.into(), key.into(), e))
}

fn read(certificate: &Path, key: &Path) -> Result<Pair, OwnCertificateError> {
    let content = |path: &Path| {
        std::fs::read(path)
            .map(Zeroizing::new)
            .map_err(|source| OwnCertificateError::Unreadable { path: path.into(), source })
    };
    Pair::from_pem(&content(certificate)?, &content(key)?)
        .map_err(|e| OwnCertificateError::Files(certificate.into(), key.into(), e))
}

/// `None` for a file that isn't there at the moment.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

impl Validity {
    fn of(leaf: &X509Ref) -> Self {
        match Leaf::of(leaf) {
            Ok(leaf) => Self::Known { from: leaf.not_before, to: leaf.not_after },
            Err(_) => Self::Unknown { again: Timestamp::now() },
        }
    }

    /// Also where its time has not come yet: a clock was wrong when it was made.
    fn is_outdated(&self, now: Timestamp) -> bool {
        match self {
            Self::Known { from, to } => shared::tls::is_outdated(*from, *to, now),
            Self::Unknown { again } => now >= *again,
        }
    }
}

/// A hostname in A-labels or an address. A single label will do: this is the provider's own network.
fn host(name: &str) -> Result<String, OwnCertificateError> {
    let wrong = || OwnCertificateError::Name(name.to_owned());
    if name.parse::<IpAddr>().is_ok() {
        return Ok(name.to_owned());
    }
    let single_label = !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !name.starts_with('-');
    if single_label {
        return Ok(name.to_ascii_lowercase());
    }
    DnsName::parse(name).map(|name| name.as_str().to_owned()).map_err(|_| wrong())
}

fn hosts_of_listeners(section: &config::Certificates) -> Vec<String> {
    let mut hosts = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    for address in &section.listen {
        let ip = address.ip();
        if !ip.is_unspecified() && !hosts.contains(&ip.to_string()) {
            hosts.push(ip.to_string());
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str], listen: &str) -> Result<OwnCertificate, OwnCertificateError> {
        OwnCertificate::new(&config::Certificates {
            listen: vec![listen.parse().unwrap()],
            names: names.iter().map(ToString::to_string).collect(),
            ..config::Certificates::default()
        })
    }

    #[test]
    fn the_names_of_the_internal_certificate() {
        let hosts = |own: OwnCertificate| match own {
            OwnCertificate::Internal { hosts } => hosts,
            OwnCertificate::Files { .. } => unreachable!("no files were named"),
        };
        assert_eq!(
            hosts(of(&["Certs.hoster.example", "localhost", "::1"], "[::]:1").unwrap()),
            ["certs.hoster.example", "localhost", "::1"]
        );
        assert_eq!(hosts(of(&[], "[::]:1").unwrap()), ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(hosts(of(&[], "192.0.2.1:1").unwrap()), ["localhost", "127.0.0.1", "::1", "192.0.2.1"]);
        for wrong in ["", "a b", "a,DNS:evil.example.com", "a_b.example.com", "-x"] {
            assert!(of(&[wrong], "[::]:1").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn files_that_cannot_be_shown_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let own = OwnCertificate::Files { certificate: path("c"), key: path("k") };
        assert!(matches!(own.check(), Err(OwnCertificateError::Unreadable { .. })));
        std::fs::write(path("c"), "nothing").unwrap();
        std::fs::write(path("k"), "secretsecret").unwrap();
        let error = chain(&own.check().unwrap_err());
        assert!(error.contains("can't be shown") && !error.contains("secretsecret"), "{error}");
    }
}
