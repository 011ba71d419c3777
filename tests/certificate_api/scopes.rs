//! Who may read what: every route that is not a certificate's own by every kind of identity, and scopes that nobody has thought of
//! against names that nobody has thought of.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use shared::domain::{KeyType, Right};

use crate::fleet::{CERTS, Fleet, Identity, KEYS, ask, post};

const SHOP: &str = "shop.a.example.com";
const BANK: &str = "bank.b.example.com";

#[tokio::test(flavor = "multi_thread")]
async fn every_identity_on_the_other_routes() -> Result<()> {
    let fleet = Fleet::new().await?;
    let shop = fleet.add_site(&[SHOP], &[], &[KeyType::EcdsaP256]).await?;
    fleet.add_site(&[BANK], &[], &[KeyType::EcdsaP256]).await?;
    let a = &["*.a.example.com"][..];
    let keys = fleet.add_frontend("keys", a, &[], KEYS).await?;
    let mtls = fleet.add_frontend_with_key("mtls", a, KEYS).await?;
    let certs = fleet.add_frontend("certs", a, &[], CERTS).await?;
    let sight = fleet.add_frontend("sight", a, &[], &[Right::ReadCert, Right::Sight]).await?;
    let other = fleet.add_frontend("other", &["*.b.example.com"], &[], KEYS).await?;
    let expired = fleet.add_frontend("expired", a, &[], KEYS).await?;
    let enrols = fleet.add_frontend("enrols", a, &[], KEYS).await?;
    let revoked = fleet.add_frontend("revoked", a, &[], KEYS).await?;
    let past = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1);
    fleet.change_frontend("expired", |frontend| frontend.token_expires = Some(past)).await?;
    fleet.change_frontend("enrols", |frontend| frontend.token_enrols_only = true).await?;
    fleet.revoke("revoked").await?;
    let daemon = fleet.start().await?;

    let bundles = json!({ "ids": [shop] }).to_string();
    let secrets = json!({ "resource_names": [SHOP] }).to_string();
    let sighted = json!({ "names": ["new.a.example.com", "new.b.example.com"] }).to_string();
    let routes: [(&str, String, Option<&str>); 9] = [
        ("GET", "/v1/changes".to_owned(), None),
        ("POST", "/v1/bundles".to_owned(), Some(&bundles)),
        ("POST", "/v1/frontends/self/status".to_owned(), Some(r#"{"agent":"test","items":0}"#)),
        ("POST", "/v1/sightings".to_owned(), Some(&sighted)),
        ("GET", format!("/v1/ask?domain={SHOP}"), None),
        ("GET", "/v1/adapters/traefik".to_owned(), None),
        ("GET", format!("/v1/adapters/haproxy/{SHOP}.pem"), None),
        ("POST", "/v1/adapters/envoy/v3/discovery:secrets".to_owned(), Some(&secrets)),
        ("POST", "/v3/discovery:secrets".to_owned(), Some(&secrets)),
    ];
    // Where a key may leave: for who has them, and of its own scope alone.
    const ALL: [u16; 9] = [200, 200, 204, 404, 200, 200, 200, 200, 200];
    const NO_KEYS: [u16; 9] = [200, 404, 204, 404, 200, 404, 404, 404, 404];
    const NOBODY: [u16; 9] = [401; 9];
    let table = [
        ("keys", &keys, ALL),
        ("mtls", &mtls, ALL),
        ("certs", &certs, NO_KEYS),
        ("sight", &sight, [200, 404, 204, 200, 200, 404, 404, 404, 404]),
        ("other scope", &other, [200, 200, 204, 404, 403, 200, 404, 404, 404]),
        ("expired", &expired, NOBODY),
        ("enrols only", &enrols, NOBODY),
        ("revoked", &revoked, NOBODY),
        ("wrong token", &Identity::token("keys-token-0123456788"), NOBODY),
        ("nobody", &Identity::Nobody, NOBODY),
    ];
    for (who, identity, expected) in table {
        for ((method, path, body), expected) in routes.iter().zip(expected) {
            let answer = match body {
                Some(body) => post(&fleet, daemon.address, identity, path, body.as_bytes())?,
                None => ask(&mut fleet.connect(daemon.address, identity)?, identity, method, path, "")?,
            };
            ensure!(answer.status == expected, "{who}: {path}: {answer:?}");
            let text = answer.text();
            let may_hold_a_key = expected == 200 && matches!(who, "keys" | "mtls" | "other scope");
            ensure!(may_hold_a_key || !text.contains("PRIVATE KEY"), "{who}: {path}: {text}");
            if who == "other scope" {
                ensure!(!text.contains(SHOP) || expected != 200, "{who}: {path}: {text}");
            }
        }
    }
    let answer = post(&fleet, daemon.address, &sight, "/v1/sightings", sighted.as_bytes())?;
    let verdicts: Value = serde_json::from_slice(&answer.body)?;
    let expected = json!({ "new.a.example.com": "waiting", "new.b.example.com": "refused" });
    ensure!(verdicts["verdicts"] == expected, "{verdicts}");
    Ok(())
}

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }

    /// Labels that are parts of each other, so that a comparison of text alone goes wrong.
    fn name(&mut self) -> String {
        const LABELS: [&str; 7] = ["a", "aa", "b", "a-b", "xn--bcher-kva", "b2", "ba"];
        let labels: Vec<&str> = (0..=self.below(3)).map(|_| LABELS[self.below(LABELS.len())]).collect();
        format!("{}.{}", labels.join("."), ["example.com", "a.com", "example.org"][self.below(3)])
    }

    fn pattern(&mut self) -> String {
        match self.below(8) {
            0 => "*".to_owned(),
            1..=4 => format!("*.{}", self.name()),
            5 => "*.example.com".to_owned(),
            _ => self.name(),
        }
    }

    fn tag(&mut self) -> String {
        ["eu", "eu-1", "us", "e"][self.below(4)].to_owned()
    }
}

/// What the handbook says, in the fewest words.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => pattern == name,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_its_scope_whatever_the_names_and_patterns() -> Result<()> {
    let fleet = Fleet::new().await?;
    let mut dice = Dice(20_261_128);
    let mut sites: BTreeMap<String, (Vec<String>, Vec<String>)> = BTreeMap::new();
    let mut taken = BTreeSet::new();
    while sites.len() < 40 {
        let mut names: Vec<String> = (0..=dice.below(3)).map(|_| dice.name()).collect();
        names.sort();
        names.dedup();
        if names.iter().any(|name| taken.contains(name)) {
            continue;
        }
        taken.extend(names.iter().cloned());
        let tags: Vec<String> = (0..dice.below(2)).map(|_| dice.tag()).collect();
        let (of, with): (Vec<&str>, Vec<&str>) =
            (names.iter().map(String::as_str).collect(), tags.iter().map(String::as_str).collect());
        let id = fleet.add_site(&of, &with, &[KeyType::EcdsaP256]).await?;
        sites.insert(id.to_string(), (names, tags));
    }
    let daemon = fleet.start().await?;
    let all: Vec<&String> = sites.keys().collect();
    let body = json!({ "ids": all }).to_string();
    let (mut seen, mut unseen) = (0, 0);
    for number in 0..20 {
        let patterns: Vec<String> = (0..dice.below(3)).map(|_| dice.pattern()).collect();
        let tags: Vec<String> = (0..dice.below(3) / 2).map(|_| dice.tag()).collect();
        let (of, with): (Vec<&str>, Vec<&str>) =
            (patterns.iter().map(String::as_str).collect(), tags.iter().map(String::as_str).collect());
        let edge = fleet.add_frontend(&format!("edge-{number}"), &of, &with, KEYS).await?;
        let expected: BTreeSet<&str> = sites
            .iter()
            .filter(|(_, (names, site_tags))| {
                names.iter().all(|name| patterns.iter().any(|pattern| matches(pattern, name)))
                    || site_tags.iter().any(|tag| tags.contains(tag))
            })
            .map(|(id, _)| id.as_str())
            .collect();
        let what = format!("patterns {patterns:?}, tags {tags:?}");

        let lines = post(&fleet, daemon.address, &edge, "/v1/bundles", body.as_bytes())?;
        let lines: Vec<Value> = lines.text().lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let given = lines.iter().filter(|line| line["certificates"].is_object());
        let given: BTreeSet<&str> = given.filter_map(|line| line["id"].as_str()).collect();
        ensure!(given == expected, "{what}: bundles: {given:?} in the place of {expected:?}");
        let changes = fleet.get(daemon.address, &edge, "/v1/changes?limit=1000")?;
        let changes: Value = serde_json::from_slice(&changes.body)?;
        let listed: BTreeSet<&str> = changes["items"]
            .as_array()
            .context("no items")?
            .iter()
            .filter_map(|item| item["id"].as_str())
            .collect();
        ensure!(listed == expected, "{what}: changes: {listed:?} in the place of {expected:?}");
        let traefik = fleet.get(daemon.address, &edge, "/v1/adapters/traefik")?;
        let keys = traefik.text().matches("BEGIN PRIVATE KEY").count();
        ensure!(keys == expected.len(), "{what}: traefik: {keys} keys in the place of {}", expected.len());
        for (id, (names, _)) in &sites {
            let path = format!("/v1/certificates/{}/ecdsa/privkey.pem", names[0]);
            if number % 10 == 0 {
                let answer = fleet.get(daemon.address, &edge, &path)?;
                let may = expected.contains(id.as_str());
                ensure!(answer.status == if may { 200 } else { 404 }, "{what}: {path}: {}", answer.status);
            }
        }
        seen += expected.len();
        unseen += sites.len() - expected.len();
    }
    ensure!(seen > 100 && unseen > 100, "{seen} seen, {unseen} not: the dice are loaded");
    Ok(())
}
