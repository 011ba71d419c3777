//! The sections of the file, one type each. A new key has a default that keeps an old file working.

use super::address_prefix::AddressPrefix;
use super::{
    dns::DnsPersistDraft,
    notify::{Interval, LeastSeverity},
};
use crate::domain::{Backoff, DnsName, EventKind, KeyType};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    path::PathBuf,
    time::Duration,
};

/// `[store]`: where everything is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://` or `redis+cluster://`; absent: the embedded store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A file with the password of the URL's user, so that it needn't stand in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM roots that the server's certificate is checked against, in place of the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_roots_file: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub key_encryption_key_file: PathBuf,
    /// Replicas that must have a write before the CA is told of it.
    pub confirm_replicas: u32,
    /// Memory bound of the embedded store, MiB.
    pub embedded_memory_mib: u64,
    /// Free disk space below which nothing new is ordered with the embedded store, MiB.
    pub embedded_min_free_mib: u64,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self {
            url: None,
            password_file: None,
            trusted_roots_file: None,
            state_dir: "/var/lib/signpost".into(),
            key_encryption_key_file: "/etc/signpost/kek".into(),
            confirm_replicas: 0,
            embedded_memory_mib: 4096,
            embedded_min_free_mib: 256,
        }
    }
}

/// `[ca.NAME]`: a certificate authority.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ca {
    /// The ACME directory; CAs that are shipped know theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// PEM roots for the CA's own HTTPS, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_roots_file: Option<PathBuf>,
    pub contact: Vec<String>,
    /// Whether you agree to the terms of service that the CA's directory names.
    pub agree_to_terms: bool,
    /// The CA that is used where none is named.
    pub default: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits_file: Option<PathBuf>,
    /// The issuer's common name at the top of the chain that is wanted, where the CA offers several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_chain: Option<String>,
    /// The profile that is asked for; absent: the CA chooses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whether it refuses names and addresses that are not public; absent: as the shipped profile says, and a CA of your own doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<bool>,
    /// Whether nothing is ordered where the CA no longer has that profile; else it chooses then.
    pub profile_required: bool,
    /// External account binding: the key id that the CA gave you, and a file with the MAC key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eab_hmac_file: Option<PathBuf>,
    /// How long after answering the last challenge the order is first asked for, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_poll_ms: Option<u64>,
    /// Which draft of dns-persist-01 the CA speaks; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_persist: Option<DnsPersistDraft>,
    /// Orders of one account that are worked on at once, by all nodes together; absent: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub orders_at_once: Option<NonZeroU32>,
    /// Names that one certificate takes; absent: what the CA takes, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names_per_certificate: Option<usize>,
}

/// `[issuer]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Issuer {
    pub listen: SocketAddr,
    /// Connections that one client address may have, of IPv6 one /64; never more than a quarter of all.
    pub max_connections_per_address: usize,
    /// Addresses and networks that may have any number, such as those of load balancers.
    pub unlimited_addresses: Vec<AddressPrefix>,
    /// Orders worked on at once.
    pub slots: usize,
    pub self_check: SelfCheck,
    /// Resolvers of the self-check; empty: the system's.
    pub resolvers: Vec<SocketAddr>,
    /// The port that the CA's validator asks on; other than 80 for tests only.
    pub http_port: u16,
    /// How long the right to work on a site lasts when its holder falls silent, seconds.
    pub lease_seconds: f64,
    /// Pauses after the 1st, 2nd, ... failure of a site in a row, seconds; the last one repeats.
    pub retry_seconds: Vec<f64>,
    /// Pauses between two looks at the DNS of a site whose names lead elsewhere, seconds; the last one repeats.
    pub parked_seconds: Vec<f64>,
    /// How long the certificates of a removed site are kept, in case it comes back, hours.
    pub grace_hours: f64,
    /// How long a daemon that is told to end finishes what it has begun, seconds.
    pub drain_seconds: f64,
    /// Renewed certificates are served first to the frontends that have this tag in their scope, and to all others later;
    /// absent: to all at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary_tag: Option<String>,
    /// How much earlier those frontends get them, minutes.
    pub canary_minutes: f64,
    /// The share of each of the CA's limits that the new orders of a file leave to renewals and to what somebody asks for by
    /// hand, 0.0 to 0.9.
    pub limit_reserve: f64,
    /// The address that requests to CAs come from, where the nodes have different ones: a CA counts by it.
    pub egress_address: String,
    /// A newer public suffix list than the shipped one; read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_suffix_file: Option<PathBuf>,
    /// Keys of new sites: one, or an ECDSA and an RSA type for both.
    pub key_types: Vec<KeyType>,
}

/// Who gets renewed certificates first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    pub tag: String,
    pub head_start: SignedDuration,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9080)),
            max_connections_per_address: 250,
            unlimited_addresses: Vec::new(),
            slots: 64,
            self_check: SelfCheck::Advisory,
            resolvers: Vec::new(),
            http_port: 80,
            lease_seconds: 30.0,
            retry_seconds: vec![60.0, 600.0, 6_000.0, 86_400.0],
            parked_seconds: vec![60.0, 300.0, 1_800.0, 21_600.0],
            grace_hours: 168.0,
            drain_seconds: 60.0,
            canary_tag: None,
            canary_minutes: 60.0,
            limit_reserve: 0.05,
            egress_address: "all".to_owned(),
            public_suffix_file: None,
            key_types: vec![KeyType::EcdsaP256],
        }
    }
}

impl Issuer {
    pub fn lease_length(&self) -> Duration {
        seconds(self.lease_seconds)
    }

    pub fn drain(&self) -> Duration {
        seconds(self.drain_seconds)
    }

    pub fn grace(&self) -> Duration {
        seconds(self.grace_hours * 3_600.0)
    }

    pub fn canary(&self) -> Option<Canary> {
        let head_start = SignedDuration::try_from(seconds(self.canary_minutes * 60.0)).ok()?;
        Some(Canary { tag: self.canary_tag.clone()?, head_start })
    }

    pub fn backoff(&self) -> Backoff {
        backoff(&self.retry_seconds)
    }

    pub fn parked_backoff(&self) -> Backoff {
        backoff(&self.parked_seconds)
    }
}

fn backoff(pauses: &[f64]) -> Backoff {
    match pauses.split_last() {
        Some((repeating, early)) => {
            Backoff::new(early.iter().map(|pause| seconds(*pause)), seconds(*repeating))
        }
        None => Backoff::default(),
    }
}

/// What is no duration counts as the longest or the shortest there is.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::from_secs(u32::MAX.into()))
}

/// What a failed self-check means for the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelfCheck {
    Off,
    /// It is shown, and the CA is asked all the same.
    Advisory,
    /// The CA is not asked: no quota is spent.
    Required,
}

/// `[challenge]`: the listener that the CA's validators reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Challenge {
    pub listen: Vec<SocketAddr>,
    /// A second path that tokens are answered under, for redirects written as `validation-server/TOKEN`: `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_prefix: Option<String>,
    /// How long an answer is kept in the process before the store is asked again, seconds.
    pub cache_seconds: u64,
    /// Threads that answer; 0: one for each processor.
    pub workers: usize,
    /// Connections that one client address may have, of IPv6 one /64; never more than a quarter of all.
    pub max_connections_per_address: usize,
    /// Addresses and networks that may have any number, such as those of load balancers.
    pub unlimited_addresses: Vec<AddressPrefix>,
}

impl Default for Challenge {
    fn default() -> Self {
        Self {
            listen: vec![any_address(80)],
            second_prefix: None,
            cache_seconds: 5,
            workers: 0,
            max_connections_per_address: 1_000,
            unlimited_addresses: Vec::new(),
        }
    }
}

/// `[certificates]`: the HTTPS listener that frontends pull from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Certificates {
    pub listen: Vec<SocketAddr>,
    /// Absent: made by the internal CA, for `names`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_certificate_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    pub names: Vec<String>,
    /// How long the client certificate of a frontend that enrols is valid, seconds. It renews itself after two thirds.
    pub client_certificate_seconds: u64,
    /// A configuration of Caddy, JSON, into which certificates are put for those who load theirs from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caddy_config_file: Option<PathBuf>,
    /// Threads that answer; 0: one for each processor.
    pub workers: usize,
    /// Connections that one client address may have, of IPv6 one /64; never more than a quarter of all.
    pub max_connections_per_address: usize,
    /// Addresses and networks that may have any number, such as those of load balancers.
    pub unlimited_addresses: Vec<AddressPrefix>,
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            listen: vec![any_address(8443)],
            tls_certificate_file: None,
            tls_key_file: None,
            names: Vec::new(),
            client_certificate_seconds: 90 * 24 * 3600,
            caddy_config_file: None,
            workers: 0,
            max_connections_per_address: 1_000,
            unlimited_addresses: Vec::new(),
        }
    }
}

/// `[audit]`: who was given which private keys, as each issuer keeps it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Absent: `audit` in `store.state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Segments of days that are longer ago are removed.
    pub keep_days: u32,
}

impl Default for Audit {
    fn default() -> Self {
        Self { directory: None, keep_days: 400 }
    }
}

/// `[frontends]`: where the names of customers should lead, and when somebody is told of a frontend.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Frontends {
    pub addresses: Vec<IpAddr>,
    /// Hosts that the CNAME records of customers name; what is below one belongs to it.
    pub cname_targets: Vec<DnsName>,
    /// How long one may lack changes or have problems, minutes.
    pub lag_minutes: f64,
    /// How long one may go without a report, minutes; agents report every ten.
    pub silent_minutes: f64,
}

impl Default for Frontends {
    fn default() -> Self {
        Self { addresses: Vec::new(), cname_targets: Vec::new(), lag_minutes: 10.0, silent_minutes: 30.0 }
    }
}

impl Frontends {
    /// See `lag_minutes`.
    pub fn lag(&self) -> SignedDuration {
        SignedDuration::try_from_secs_f64(self.lag_minutes * 60.0).unwrap_or(SignedDuration::MAX)
    }

    /// See `silent_minutes`.
    pub fn silence(&self) -> SignedDuration {
        SignedDuration::try_from_secs_f64(self.silent_minutes * 60.0).unwrap_or(SignedDuration::MAX)
    }
}

/// `[notify]`: who is told what happens.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<String>,
    /// The key of the signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_secret_file: Option<PathBuf>,
    /// PEM roots for the receiver's certificate, besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_roots_file: Option<PathBuf>,
    /// Empty: every kind.
    pub webhook_kinds: Vec<EventKind>,
    pub webhook_min_severity: LeastSeverity,
    /// `smtp://host:port` or `smtps://user@host:port`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_roots_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    pub to: Vec<String>,
    /// Pause between two mails; what is critical comes within a minute.
    pub digest: Interval,
    /// A program and its arguments: run for each event.
    pub hook: Vec<String>,
}

/// `[telemetry]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<TelemetryListen>,
    /// A level, or `target=level` pairs separated by commas.
    pub log: String,
    pub format: LogFormat,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// One address for whichever program reads the file, or one for each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TelemetryListen {
    One(SocketAddr),
    Each(std::collections::BTreeMap<Program, SocketAddr>),
}

/// The long-running programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    Challenge,
    Certificates,
    Issuer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { listen: None, log: "info".into(), format: LogFormat::Text, otlp_endpoint: None }
    }
}

impl Telemetry {
    /// Where `program` shows `/metrics`, `/healthz` and `/readyz`.
    pub fn address_of(&self, program: Program) -> SocketAddr {
        let default_port = match program {
            Program::Challenge => 9181,
            Program::Certificates => 9182,
            Program::Issuer => 9183,
        };
        let default = SocketAddr::from(([127, 0, 0, 1], default_port));
        match &self.listen {
            None => default,
            Some(TelemetryListen::One(address)) => *address,
            Some(TelemetryListen::Each(each)) => each.get(&program).copied().unwrap_or(default),
        }
    }
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))
}
