//! What can be asked of a site on the command line, and how it is read.

use crate::sites::{HstsWish, SiteWish};
use serde_json::json;
use shared::domain::{ChallengeType, HstsGoal, KeyType, SanPolicy, parse_tag};

/// What can be asked of a site. What isn't said is taken from the tenant and the configuration, or left as it is.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Settings {
    /// single: a certificate for each name. grouped: as many names in one as the CA takes
    #[arg(long, value_parser = parse_san)]
    san: Option<SanPolicy>,
    /// ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096; one of each family makes it dual
    #[arg(long = "key-type", value_name = "TYPE")]
    key_types: Vec<KeyType>,
    /// --key-type ecdsa-p256 --key-type rsa-2048
    #[arg(long, conflicts_with = "key_types")]
    dual: bool,
    #[arg(long, value_name = "NAME")]
    pub(super) ca: Option<String>,
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The CA's profile; empty: of the CA's choice
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// How its names are proved: http-01, dns-01, auto, dns-account-01 or dns-persist-01
    #[arg(long, value_parser = parse_challenge)]
    challenge: Option<ChallengeType>,
    /// Tags that frontends' scopes and brakes can name; all of them, where any is given; empty: none
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag_or_none)]
    tags: Vec<String>,
    /// The customer that it belongs to; empty: none
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Whether frontends redirect plain HTTP to HTTPS
    #[arg(long, value_enum)]
    redirect: Option<Switch>,
    /// on (60 days), off, or the seconds that browsers insist on HTTPS, reached by steps. A site whose certificate fails is
    /// then unreachable for them. Switched off, it is wound down: it lasts as long as somebody was told
    #[arg(long, value_parser = parse_hsts)]
    hsts: Option<HstsWish>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

impl Switch {
    pub(super) fn is_on(self) -> bool {
        self == Self::On
    }
}

impl Settings {
    pub(super) fn to_wish(&self, names: Vec<String>, imported: bool) -> SiteWish {
        let key_types = if self.dual {
            Some(vec![KeyType::EcdsaP256, KeyType::Rsa2048])
        } else {
            (!self.key_types.is_empty()).then(|| self.key_types.clone())
        };
        SiteWish {
            names,
            key_types,
            san: self.san,
            ca: self.ca.clone(),
            account: self.account.clone(),
            profile: self.profile.clone(),
            challenge: self.challenge,
            tags: (!self.tags.is_empty()).then(|| self.tags.clone()),
            tenant: self.tenant.clone(),
            redirect: self.redirect.map(Switch::is_on),
            hsts: self.hsts,
            paused: None,
            imported,
            source: None,
        }
    }
}

/// A tag, or the empty text that stands for none.
pub(super) fn parse_tag_or_none(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { parse_tag(text).map_err(|e| e.to_string()) }
}

fn parse_san(text: &str) -> Result<SanPolicy, String> {
    serde_json::from_value(json!(text)).map_err(|_| "single or grouped".to_owned())
}

pub(super) fn parse_challenge(text: &str) -> Result<ChallengeType, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "http-01, dns-01, auto, dns-account-01 or dns-persist-01".to_owned())
}

fn parse_hsts(text: &str) -> Result<HstsWish, String> {
    match text {
        "on" => Ok(HstsWish::Switch(true)),
        "off" => Ok(HstsWish::Switch(false)),
        seconds => seconds
            .parse()
            .ok()
            .filter(|seconds| *seconds <= HstsGoal::MOST_SECONDS)
            .map(|max_age_seconds| HstsWish::Exactly(HstsGoal { max_age_seconds, ..HstsGoal::default() }))
            .ok_or_else(|| {
                format!("on, off, or a number of seconds up to {} (two years)", HstsGoal::MOST_SECONDS)
            }),
    }
}
