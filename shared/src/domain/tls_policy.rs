//! The frontends' TLS policy: kept at the centre as data, in IANA's names, and rendered by each frontend in its server's own.
//! Sources: IANA, "Transport Layer Security (TLS) Parameters"; the shipped ones follow Mozilla's "Server Side TLS".

use super::FrontendReport;
use crate::digest::sha256_hex;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::LazyLock};

/// The shipped policies, by name.
static SHIPPED: LazyLock<BTreeMap<String, TlsPolicy>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("tls_policies.json")).expect("the shipped policies are policies")
});

/// What frontends speak.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsPolicy {
    pub min_version: TlsVersion,
    /// Of TLS 1.2, the best first.
    #[serde(default)]
    pub ciphers: Vec<String>,
    /// Of TLS 1.3, the best first.
    pub ciphersuites: Vec<String>,
    /// Of the key exchange, the best first.
    pub groups: Vec<TlsGroup>,
    #[serde(default)]
    pub prefer_server_ciphers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

/// A group of the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsGroup {
    #[serde(rename = "x25519")]
    X25519,
    #[serde(rename = "secp256r1")]
    Secp256r1,
    #[serde(rename = "secp384r1")]
    Secp384r1,
    #[serde(rename = "secp521r1")]
    Secp521r1,
    /// OpenSSL 3.5 or newer, and Go's servers.
    #[serde(rename = "X25519MLKEM768")]
    X25519MlKem768,
}

/// What frontends are given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct TlsPolicies {
    #[serde(flatten)]
    pub all: TlsPolicy,
    /// What the canaries speak; absent: the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<StagedTlsPolicy>,
}

/// A policy that the canaries try before all frontends get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedTlsPolicy {
    pub policy: TlsPolicy,
    /// What the canaries have in their scope.
    pub tag: String,
    pub since: Timestamp,
    /// All get it then, if none of the canaries refuses it.
    pub until: Timestamp,
}

/// What is wrong with a policy.
#[derive(Debug, thiserror::Error)]
pub enum TlsPolicyError {
    #[error("there is no shipped policy {0:?}: there are {known}", known = SHIPPED.keys().cloned().collect::<Vec<_>>().join(", "))]
    Unknown(String),
    #[error("it can't be read")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "{0:?} is no cipher of TLS 1.2 by its IANA name, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    )]
    Cipher(String),
    #[error("{0:?} is no cipher suite of TLS 1.3, such as TLS_AES_128_GCM_SHA256")]
    Ciphersuite(String),
    #[error("{0} protects nothing, or hardly anything: no server may speak it")]
    Weak(String),
    #[error(
        "ciphers: none of them has ECDHE, and servers speak DHE only with parameters of their own: name one such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
    )]
    NoEcdhe,
    #[error("{0}: at least one")]
    Missing(&'static str),
}

impl TlsPolicy {
    /// The one where nobody has set another.
    pub const DEFAULT: &str = "intermediate";

    /// # Errors
    /// [`TlsPolicyError::Unknown`].
    pub fn shipped(name: &str) -> Result<Self, TlsPolicyError> {
        SHIPPED.get(name).cloned().ok_or_else(|| TlsPolicyError::Unknown(name.to_owned()))
    }

    /// # Errors
    /// [`TlsPolicyError`].
    pub fn parse(json: &str) -> Result<Self, TlsPolicyError> {
        // As `tls-policy show` prints it: what the canaries try beside it is not meant.
        let policy = serde_json::from_str::<TlsPolicies>(json)?.all;
        policy.check()?;
        Ok(policy)
    }

    /// # Errors
    /// [`TlsPolicyError`]: with it a server would not start.
    pub fn check(&self) -> Result<(), TlsPolicyError> {
        let is_of_13 =
            |name: &&String| is_word(name) && !name.contains("_WITH_") && openssl_name(name).is_some();
        let is_of_12 =
            |name: &&String| is_word(name) && name.contains("_WITH_") && openssl_name(name).is_some();
        if let Some(other) = self.ciphers.iter().find(|name| !is_of_12(name)) {
            return Err(TlsPolicyError::Cipher(other.clone()));
        }
        if let Some(other) = self.ciphersuites.iter().find(|name| !is_of_13(name)) {
            return Err(TlsPolicyError::Ciphersuite(other.clone()));
        }
        if let Some(weak) = self.ciphers.iter().chain(&self.ciphersuites).find(|name| is_weak(name)) {
            return Err(TlsPolicyError::Weak(weak.clone()));
        }
        match self {
            Self { ciphersuites, .. } if ciphersuites.is_empty() => {
                Err(TlsPolicyError::Missing("ciphersuites"))
            }
            Self { groups, .. } if groups.is_empty() => Err(TlsPolicyError::Missing("groups")),
            Self { min_version: TlsVersion::Tls12, ciphers, .. } if ciphers.is_empty() => {
                Err(TlsPolicyError::Missing("ciphers"))
            }
            Self { min_version: TlsVersion::Tls12, ciphers, .. }
                if !ciphers.iter().any(|name| name.starts_with("TLS_ECDHE_")) =>
            {
                Err(TlsPolicyError::NoEcdhe)
            }
            _ => Ok(()),
        }
    }

    /// By which two programs tell whether they mean the same one.
    pub fn digest(&self) -> String {
        let text = serde_json::to_string(self).expect("names and numbers have a JSON form");
        sha256_hex(text.as_bytes())[..16].to_owned()
    }

    /// The ciphers of TLS 1.2 as OpenSSL calls them; none where that is not spoken.
    pub fn openssl_ciphers(&self) -> Vec<&'static str> {
        if self.min_version > TlsVersion::Tls12 {
            return Vec::new();
        }
        self.ciphers.iter().filter_map(|name| openssl_name(name)).collect()
    }
}

impl TlsPolicies {
    /// What a frontend with these tags in its scope is given.
    pub fn given_to(&self, tags: &[String]) -> &TlsPolicy {
        match &self.staged {
            Some(staged) if tags.contains(&staged.tag) => &staged.policy,
            _ => &self.all,
        }
    }

    /// # Errors
    /// [`TlsPolicyError`]: with one of them a server would not start.
    pub fn check(&self) -> Result<(), TlsPolicyError> {
        self.all.check()?;
        self.staged.as_ref().map_or(Ok(()), |staged| staged.policy.check())
    }
}

impl StagedTlsPolicy {
    /// What the report of a frontend's agent says, after the server's name, of a policy that the server does not take.
    pub const REFUSED: &str = "refuses the TLS policy";

    /// Whether a canary that reported at a moment says that it does not speak it: it refuses it, or its web servers took another one
    /// last. One that renders no policy says nothing of that.
    pub fn is_lacking(&self, report: &FrontendReport, at: Timestamp) -> bool {
        let digest = self.policy.digest();
        report.problems.iter().any(|problem| problem.reason.contains(Self::REFUSED))
            || (at > self.since && report.speaks.iter().any(|spoken| *spoken != digest))
    }

    /// Whether all frontends may get it: its time has come, canaries have reported since, and none of them refuses it or has
    /// it still before it. `canaries`: when each has reported last, and whether it does not speak it.
    pub fn may_go_to_all(&self, canaries: &[(Option<Timestamp>, bool)], now: Timestamp) -> bool {
        let has_reported = |(at, _): &(Option<Timestamp>, bool)| at.is_some_and(|at| at > self.since);
        now >= self.until && canaries.iter().any(has_reported) && !canaries.iter().any(|(_, lacks)| *lacks)
    }
}

impl TryFrom<serde_json::Value> for TlsPolicies {
    type Error = serde_json::Error;
    fn try_from(mut value: serde_json::Value) -> Result<Self, Self::Error> {
        let staged = value.as_object_mut().and_then(|members| members.remove("staged"));
        Ok(Self {
            all: serde_json::from_value(value)?,
            staged: staged.map(serde_json::from_value).transpose()?,
        })
    }
}

impl Default for TlsPolicy {
    fn default() -> Self {
        SHIPPED[Self::DEFAULT].clone()
    }
}

impl TlsGroup {
    /// As OpenSSL calls it.
    pub const fn openssl_name(self) -> &'static str {
        match self {
            Self::X25519 => "X25519",
            Self::Secp256r1 => "prime256v1",
            Self::Secp384r1 => "secp384r1",
            Self::Secp521r1 => "secp521r1",
            Self::X25519MlKem768 => "X25519MLKEM768",
        }
    }

    /// As Caddy calls it.
    pub const fn caddy_name(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::Secp256r1 => "secp256r1",
            Self::Secp384r1 => "secp384r1",
            Self::Secp521r1 => "secp521r1",
            Self::X25519MlKem768 => "x25519mlkem768",
        }
    }
}

fn is_word(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Without encryption or without a proof of who answers, or broken; of TLS 1.3 also those that only protect integrity (RFC 9150).
fn is_weak(name: &str) -> bool {
    const WORDS: [&str; 9] =
        ["_NULL_", "_anon_", "_ANON_", "_EXPORT", "_RC4_", "_DES_", "_3DES_", "_RC2_", "_IDEA_"];
    let is_of_13 = !name.contains("_WITH_");
    WORDS.iter().any(|word| name.contains(word))
        || name.ends_with("_MD5")
        || (is_of_13 && !name.starts_with("TLS_AES_") && !name.starts_with("TLS_CHACHA20_"))
}

fn openssl_name(iana: &str) -> Option<&'static str> {
    let name = openssl::ssl::cipher_name(iana);
    (!name.is_empty() && name != "(NONE)").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ItemProblem;

    #[test]
    fn canaries_try_a_policy_first_and_a_refusal_keeps_it_from_all() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let modern = TlsPolicy::shipped("modern").unwrap();
        let staged = StagedTlsPolicy {
            policy: modern.clone(),
            tag: "canary".to_owned(),
            since: at(100),
            until: at(200),
        };
        let policies = TlsPolicies { all: TlsPolicy::default(), staged: Some(staged.clone()) };
        let tags = |tags: &[&str]| tags.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(policies.given_to(&tags(&["eu", "canary"])), &modern);
        assert_eq!(policies.given_to(&tags(&["eu"])), &TlsPolicy::default());
        for (canaries, now, may) in [
            (vec![(Some(at(150)), false)], 200, true),
            (vec![(Some(at(150)), false)], 199, false),
            (vec![(Some(at(100)), false), (None, false)], 300, false),
            (vec![(Some(at(150)), false), (Some(at(150)), true)], 300, false),
            (vec![(Some(at(150)), false), (None, false)], 300, true),
            (vec![], 300, false),
        ] {
            assert_eq!(staged.may_go_to_all(&canaries, at(now)), may, "{canaries:?} at {now}");
        }
        let said = |reason: &str, speaks: &[&TlsPolicy]| {
            let id = None;
            let reason = reason.to_owned();
            let problem = ItemProblem { id, names: Vec::new(), reason, since: at(0), serves: None };
            let speaks = speaks.iter().map(|policy| policy.digest()).collect();
            FrontendReport { problems: vec![problem], speaks, ..FrontendReport::default() }
        };
        for (report, seconds, lacks) in [
            (said("nginx refuses the TLS policy, and speaks the one before: no such group", &[]), 150, true),
            (said("nginx refuses a.example: no room", &[]), 150, false),
            (said("", &[&modern, &TlsPolicy::default()]), 150, true),
            (said("", &[&TlsPolicy::default()]), 100, false),
            (said("", &[&modern]), 150, false),
        ] {
            assert_eq!(staged.is_lacking(&report, at(seconds)), lacks, "{report:?}");
        }
        // One without is what it always was, and what is shown can be set.
        let text = serde_json::to_string(&policies).unwrap();
        assert_eq!(serde_json::from_str::<TlsPolicies>(&text).unwrap(), policies);
        assert_eq!(TlsPolicy::parse(&text).unwrap(), TlsPolicy::default());
        let alone = TlsPolicies { staged: None, ..policies };
        assert_eq!(
            serde_json::to_value(&alone).unwrap(),
            serde_json::to_value(TlsPolicy::default()).unwrap()
        );
        assert!(TlsPolicy::parse(&text.replace("min_version", "least_version")).is_err());
    }

    #[test]
    fn the_shipped_ones_are_right() {
        for policy in SHIPPED.values() {
            policy.check().unwrap();
            let text = serde_json::to_string(policy).unwrap();
            assert_eq!(TlsPolicy::parse(&text).unwrap(), *policy);
        }
        assert_eq!(TlsPolicy::default().openssl_ciphers()[0], "ECDHE-ECDSA-AES128-GCM-SHA256");
        assert!(TlsPolicy::shipped("modern").unwrap().openssl_ciphers().is_empty());
        assert!(TlsPolicy::shipped("old").unwrap_err().to_string().contains("intermediate, modern"));
    }

    #[test]
    fn what_a_server_would_not_start_with_is_refused() {
        let good = serde_json::to_string(&TlsPolicy::default()).unwrap();
        for (from, to, why) in [
            ("TLS_AES_128_GCM_SHA256", "TLS_AES_129_GCM_SHA256", "TLS_AES_129_GCM_SHA256"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "IANA name"),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256", "no cipher of TLS 1.2"),
            ("x25519", "x25518", "can't be read"),
            ("\"1.2\"", "\"1.1\"", "can't be read"),
            ("min_version", "least", "can't be read"),
        ] {
            let error = TlsPolicy::parse(&good.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let speaks = |ciphers: &[&str], ciphersuite: &str| TlsPolicy {
            ciphers: ciphers.iter().map(ToString::to_string).collect(),
            ciphersuites: vec![ciphersuite.to_owned()],
            ..TlsPolicy::default()
        };
        let (ecdhe, dhe) = ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256");
        speaks(&[ecdhe, dhe], "TLS_AES_128_GCM_SHA256").check().unwrap();
        let error = speaks(&[dhe], "TLS_AES_128_GCM_SHA256").check().unwrap_err();
        assert!(error.to_string().contains("DHE only"), "{error}");
        for weak in
            ["TLS_RSA_WITH_NULL_SHA256", "TLS_ECDHE_RSA_WITH_NULL_SHA", "TLS_ECDHE_ECDSA_WITH_NULL_SHA"]
        {
            let error = speaks(&[ecdhe, weak], "TLS_AES_128_GCM_SHA256").check().unwrap_err();
            assert!(error.to_string().contains(weak), "{error}");
        }
        assert!(is_weak("TLS_SHA256_SHA256") && !is_weak("TLS_CHACHA20_POLY1305_SHA256"));
        let none = TlsPolicy { groups: Vec::new(), ..TlsPolicy::default() };
        assert!(none.check().is_err());
    }
}
