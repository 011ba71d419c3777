//! The places where TXT records can be written. Each is asked to make a record and to remove it again; either may be asked
//! twice, and other records of the same name are left alone.

use super::{acme_dns::AcmeDns, exec::Exec, rfc2136::Rfc2136, webhook::Webhook};
use hickory_resolver::proto::rr::Name;
use reqwest::{Certificate, Client, RequestBuilder, header, redirect::Policy};
use shared::{
    config::{Dns, DnsProvider},
    domain::{DnsName, Txt},
};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

const USER_AGENT: &str = concat!("signpost/", env!("CARGO_PKG_VERSION"));
/// So many digits of a name's digest tell it from every other.
const TARGET_DIGITS: usize = 20;
/// Characters of a refusal that are shown.
const MOST_SHOWN: usize = 200;
/// For one request.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// One section of the configuration, ready to be used.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) config: Dns,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rfc2136(Rfc2136),
    AcmeDns(AcmeDns),
    Webhook(Webhook),
    Exec(Exec),
}

/// What is done with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Add,
    Remove,
}

/// A section can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("dns.{name}: {path} can't be read")]
    Unreadable {
        name: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("dns.{name}: {what}")]
    Unusable { name: String, what: String },
}

/// A record can't be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("{0}")]
    Refused(String),
    #[error("it can't be reached: {0}")]
    Unreachable(String),
    #[error("it does not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

impl Provider {
    pub(super) fn of(name: &str, config: &Dns) -> Result<Self, SetupError> {
        let kind = match config.provider {
            Some(DnsProvider::Rfc2136) => Kind::Rfc2136(Rfc2136::of(name, config)?),
            Some(DnsProvider::AcmeDns) => Kind::AcmeDns(AcmeDns::of(name, config)?),
            Some(DnsProvider::Webhook) => Kind::Webhook(Webhook::of(name, config)?),
            Some(DnsProvider::Exec) => Kind::Exec(Exec::of(config)),
            None => return Err(unusable(name, "provider is missing")),
        };
        Ok(Self { name: name.to_owned(), config: config.clone(), kind })
    }

    /// How many labels of `record` one of its zones has; `None` where it has none of them, 0 where it takes every zone.
    pub(super) fn reach(&self, record: &str) -> Option<usize> {
        if self.config.zones.is_empty() {
            return Some(0);
        }
        let labels = |zone: &String| {
            let zone = zone.trim_matches('.').to_ascii_lowercase();
            let is_below =
                record.strip_suffix(&zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            is_below.then(|| zone.split('.').count())
        };
        self.config.zones.iter().filter_map(labels).max()
    }

    /// A target of its own for a customer's name.
    pub(super) fn target_of(&self, name: &DnsName) -> Option<String> {
        if let Kind::AcmeDns(acme_dns) = &self.kind {
            return acme_dns.target_of(name);
        }
        let zone = self.config.delegation_zone.as_deref()?.trim_matches('.').to_ascii_lowercase();
        let digest = shared::digest::sha256_hex(name.as_str().as_bytes());
        Some(format!("{}.{zone}", &digest[..TARGET_DIGITS]))
    }

    /// Whether records of a zone can be written there. `true` where that can't be told beforehand.
    pub(super) async fn serves(&self, zone: &Name) -> bool {
        match &self.kind {
            Kind::Rfc2136(rfc2136) => rfc2136.serves(zone, &self.config.zones).await,
            Kind::AcmeDns(_) | Kind::Webhook(_) | Kind::Exec(_) => true,
        }
    }

    /// Makes or removes a record; `zone` is the one that it lies in.
    pub(super) async fn act(&self, action: Action, txt: &Txt, zone: &Name) -> Result<(), ProviderError> {
        let work = async {
            match &self.kind {
                Kind::Rfc2136(rfc2136) => rfc2136.act(action, txt, zone, self.config.ttl_seconds()).await,
                Kind::AcmeDns(acme_dns) => acme_dns.act(action, txt).await,
                Kind::Webhook(webhook) => webhook.act(action, txt, self.config.ttl_seconds()).await,
                Kind::Exec(exec) => exec.act(action, txt, self.config.ttl_seconds()).await,
            }
        };
        tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(ProviderError::Silent))
    }
}

/// Whether a section can be used.
///
/// # Errors
/// [`SetupError`]: why not.
pub(crate) fn check(name: &str, config: &Dns) -> Result<(), SetupError> {
    Provider::of(name, config).map(drop)
}

pub(super) fn unusable(name: &str, what: impl Into<String>) -> SetupError {
    SetupError::Unusable { name: name.to_owned(), what: what.into() }
}

/// A file that the section names.
pub(super) fn read(name: &str, path: Option<&Path>) -> Result<zeroize::Zeroizing<String>, SetupError> {
    let path = path.ok_or_else(|| unusable(name, "a file is missing"))?;
    std::fs::read_to_string(path).map(zeroize::Zeroizing::new).map_err(|source| SetupError::Unreadable {
        name: name.to_owned(),
        path: path.to_owned(),
        source,
    })
}

/// For what is asked over HTTP.
pub(super) fn http(name: &str, config: &Dns) -> Result<Client, SetupError> {
    let mut builder = Client::builder().user_agent(USER_AGENT).redirect(Policy::none()).timeout(PATIENCE);
    if config.roots_file.is_some() {
        let pem = read(name, config.roots_file.as_deref())?;
        let roots =
            Certificate::from_pem_bundle(pem.as_bytes()).map_err(|e| unusable(name, e.to_string()))?;
        for root in roots {
            builder = builder.add_root_certificate(root);
        }
    }
    builder.build().map_err(|e| unusable(name, e.to_string()))
}

/// Sends JSON; what is not 2xx is a refusal, with the beginning of what was said.
pub(super) async fn post(request: RequestBuilder, json: String) -> Result<(), ProviderError> {
    let request = request.header(header::CONTENT_TYPE, "application/json").body(json);
    // The URL may hold what nobody else should see.
    let failed = |e: reqwest::Error| ProviderError::Unreachable(shared::error::chain(&e.without_url()));
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text: String = answer.text().await.unwrap_or_default().chars().take(MOST_SHOWN).collect();
    Err(ProviderError::Refused(format!("it answers with {status}: {text}")))
}
