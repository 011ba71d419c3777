//! What is wrong with the receivers of the configuration.

use std::{io, path::PathBuf};

/// A receiver that can't be set up: nothing is told until it is put right.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("notify.{key}: {path} can't be read")]
    Unreadable {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("notify.{key}: {path} is empty")]
    Empty { key: &'static str, path: PathBuf },
    #[error("notify.{key}: {path} has no certificate in PEM")]
    Roots {
        key: &'static str,
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the webhook's client can't be made")]
    Client(#[source] reqwest::Error),
    #[error("notify.smtp_url: no mail server can be read from it")]
    SmtpUrl,
    #[error("the mail server's TLS can't be set up")]
    MailTls(#[source] lettre::transport::smtp::Error),
    #[error("notify.{key}: {address:?} is no mail address")]
    Address {
        key: &'static str,
        address: String,
        #[source]
        source: lettre::address::AddressError,
    },
    #[error("notify.{key}: {address:?}: the part before the @ must be ASCII")]
    LocalPart { key: &'static str, address: String },
    #[error("notify.hook: {path} can't be run")]
    Hook {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl SetupError {
    /// The key whose value can't be used, where it is told.
    pub(super) fn key(&self) -> Option<&'static str> {
        match self {
            Self::Unreadable { key, .. }
            | Self::Empty { key, .. }
            | Self::Roots { key, .. }
            | Self::Address { key, .. }
            | Self::LocalPart { key, .. } => Some(key),
            Self::Client(_) | Self::SmtpUrl | Self::MailTls(_) | Self::Hook { .. } => None,
        }
    }
}

/// The content of a file that `key` names, without white space around it.
pub(super) fn read_secret(key: &'static str, path: &std::path::Path) -> Result<String, SetupError> {
    let text = std::fs::read_to_string(path).map_err(|source| SetupError::Unreadable {
        key,
        path: path.into(),
        source,
    })?;
    match text.trim() {
        "" => Err(SetupError::Empty { key, path: path.into() }),
        secret => Ok(secret.to_owned()),
    }
}
