//! What each value alone can't show.

use super::{load::Config, store_url::StoreUrl};

/// What is wrong, and the key that is to be looked at.
pub(super) struct Contradiction {
    pub(super) key: String,
    pub(super) message: String,
    /// Something is missing: so it may seem where a line could not be read.
    pub(super) lacks: bool,
}

#[derive(Default)]
struct Found(Vec<Contradiction>);

impl Found {
    fn wrong(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Contradiction { key: key.into(), message: message.into(), lacks: false });
    }

    fn lacking(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.0.push(Contradiction { key: key.into(), message: message.into(), lacks: true });
    }
}

pub(super) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = Found::default();
    if let Some(Err(mistake)) = config.store.url.as_deref().map(StoreUrl::parse) {
        found.wrong("store.url", mistake.to_string());
    }
    of_cas(config, &mut found);
    for (name, dns) in &config.dns {
        for key in dns.lacks() {
            found.lacking(format!("dns.{name}"), format!("dns.{name} lacks {key}"));
        }
    }
    let certificates = &config.certificates;
    if certificates.tls_certificate_file.is_some() != certificates.tls_key_file.is_some() {
        let there = if certificates.tls_key_file.is_some() { "tls_key_file" } else { "tls_certificate_file" };
        let message = "certificates: tls_certificate_file and tls_key_file go together";
        found.lacking(format!("certificates.{there}"), message);
    }
    if let Some(target) = config.frontends.cname_targets.iter().find(|target| target.address().is_some()) {
        let what =
            format!("frontends.cname_targets: {target} is an address: put it into frontends.addresses");
        found.wrong("frontends.cname_targets", what);
    }
    of_issuer(config, &mut found);
    for (key, message, lacks) in config.notify.contradictions() {
        found.0.push(Contradiction { key: format!("notify.{key}"), message, lacks });
    }
    found.0
}

fn of_cas(config: &Config, found: &mut Found) {
    let defaults: Vec<&String> =
        config.ca.iter().filter(|(_, ca)| ca.default).map(|(name, _)| name).collect();
    if let [_, .., last] = defaults.as_slice() {
        found.wrong(format!("ca.{last}.default"), "more than one [ca.NAME] has default = true");
    }
    for (name, ca) in &config.ca {
        if let Some(directory) = &ca.directory
            && !directory.starts_with("https://")
        {
            found.wrong(
                format!("ca.{name}.directory"),
                format!("ca.{name}.directory: expected an https:// address"),
            );
        }
        if ca.eab_kid.is_some() != ca.eab_hmac_file.is_some() {
            let there = if ca.eab_kid.is_some() { "eab_kid" } else { "eab_hmac_file" };
            found.lacking(
                format!("ca.{name}.{there}"),
                format!("ca.{name}: eab_kid and eab_hmac_file go together"),
            );
        }
        if let Some(contact) = ca.contact.iter().find(|contact| !contact.starts_with("mailto:")) {
            found.wrong(
                format!("ca.{name}.contact"),
                format!("ca.{name}.contact: {contact:?} is no mailto: address: write \"mailto:{contact}\""),
            );
        }
    }
}

fn of_issuer(config: &Config, found: &mut Found) {
    let issuer = &config.issuer;
    let mut wrong = |key: &str, message: &str| {
        found.wrong(format!("issuer.{key}"), format!("issuer.{key}: {message}"));
    };
    if issuer.slots == 0 {
        wrong("slots", "at least 1");
    }
    if issuer.lease_seconds.is_nan() || issuer.lease_seconds < 0.5 {
        wrong("lease_seconds", "at least 0.5, 30 or more in production");
    }
    for (key, pauses) in
        [("retry_seconds", &issuer.retry_seconds), ("parked_seconds", &issuer.parked_seconds)]
    {
        if pauses.is_empty() || !pauses.iter().all(|pause| *pause > 0.0 && pause.is_finite()) {
            wrong(key, "at least one pause, each longer than 0");
        }
    }
    if let Some(Err(error)) = issuer.canary_tag.as_deref().map(crate::domain::parse_tag) {
        wrong("canary_tag", &format!("{error}; leave it out for none"));
    }
    if !(0.0..=0.9).contains(&issuer.limit_reserve) {
        wrong("limit_reserve", "0.0 to 0.9");
    }
    if !issuer.canary_minutes.is_finite() || issuer.canary_minutes <= 0.0 {
        wrong("canary_minutes", "more than 0");
    }
    for slot in crate::domain::Slot::ALL {
        if issuer.key_types.iter().filter(|kind| kind.slot() == slot).count() > 1 {
            wrong("key_types", &format!("more than one {slot} key"));
        }
    }
    if issuer.key_types.is_empty() {
        wrong("key_types", "at least one");
    }
}
