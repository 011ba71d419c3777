//! Formats that frontends speak by themselves. Each answer is everything in scope, or an error: a frontend takes what is not in
//! it for something that it has to drop. A record that can't be read is the exception: it is left out and named, or one bad record
//! would keep every other certificate from all frontends.

use super::{
    Certificates,
    bundles::{Opened, items_of},
    item::Item,
    reader::{KeyReader, Reader},
    refusal::Refusal,
    route::ItemId,
};
use actix_web::{
    HttpRequest,
    http::header::{AUTHORIZATION, HOST},
    web::Bytes,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::{
    digest::sha256_hex,
    domain::{DnsName, NameSet, SiteId, Slot},
    vault::Vault,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use zeroize::Zeroizing;

/// Groups that are read from the store at once.
const GROUPS_AT_ONCE: usize = 200;
/// Past this many the whole of it is too much for one document, and for those who read it: the agent is for that.
const MOST_ITEMS: usize = 20_000;
/// Names in one request for secrets.
const MOST_NAMES: usize = 200;
/// The largest request for secrets, bytes: Envoy tells of every extension that it has.
pub(crate) const SECRETS_BYTES: usize = 1024 * 1024;

const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// An item with its certificates and keys.
struct Given {
    id: ItemId,
    slots: BTreeMap<Slot, Opened>,
}

/// All that a frontend may have, but for what can't be read.
struct Everything {
    given: Vec<Given>,
    damaged: Vec<String>,
}

/// What an adapter gives, and what had to be left out of it.
pub(crate) struct Answer {
    pub(crate) document: Bytes,
    pub(crate) damaged: Vec<String>,
}

/// A `DiscoveryRequest`, as far as it is used.
#[derive(Debug, Deserialize)]
pub(crate) struct SecretsWanted {
    #[serde(default)]
    version_info: String,
    #[serde(default)]
    resource_names: Vec<String>,
    #[serde(default)]
    type_url: String,
}

impl SecretsWanted {
    /// # Errors
    /// [`Refusal::Mistaken`] for what is no request for secrets.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let wanted: Self = serde_json::from_slice(body)
            .map_err(|e| Refusal::Mistaken(format!("expected a DiscoveryRequest: {e}")))?;
        if !wanted.type_url.is_empty() && wanted.type_url != SECRET {
            return Err(Refusal::Mistaken(format!("type_url: only {SECRET} is answered here")));
        }
        match wanted.resource_names.len() {
            1..=MOST_NAMES => Ok(wanted),
            _ => Err(Refusal::Mistaken(format!("resource_names: 1 to {MOST_NAMES} names"))),
        }
    }
}

impl Certificates {
    /// Traefik's dynamic configuration, in a fixed order: it looks at the bytes.
    ///
    /// # Errors
    /// [`Refusal::Nothing`] where there is no certificate: Traefik would drop those that it has.
    pub(crate) async fn traefik(&self, reader: KeyReader<'_>, vault: &Vault) -> Result<Answer, Refusal> {
        #[derive(Serialize)]
        struct Pair<'a> {
            #[serde(rename = "certFile")]
            certificate: &'a str,
            #[serde(rename = "keyFile")]
            key: &'a str,
            stores: [&'static str; 1],
        }
        let Everything { given, damaged } = self.everything(reader, vault).await?;
        let pairs = pairs(&given)?;
        let pairs = pairs.iter().map(|(_, certificate, key)| Pair { certificate, key, stores: ["default"] });
        let certificates: Vec<Pair<'_>> = pairs.collect();
        let document = written(&json_object("tls", &json_object("certificates", &certificates)))?;
        Ok(Answer { document, damaged })
    }

    /// A whole configuration of Caddy: the operator's, with every certificate in it, and with the way back here.
    ///
    /// # Errors
    /// As [`Certificates::traefik`].
    pub(crate) async fn caddy(
        &self,
        request: &HttpRequest,
        reader: KeyReader<'_>,
        vault: &Vault,
    ) -> Result<Answer, Refusal> {
        let Everything { given, damaged } = self.everything(reader, vault).await?;
        let mut config = match &self.caddy_config {
            Some(file) => read_config(file).map_err(|e| Refusal::Damaged(e.into()))?,
            None => json!({}),
        };
        let pairs = pairs(&given)?;
        let load_pem: Vec<Value> = pairs
            .iter()
            .map(|(id, certificate, key)| json!({ "certificate": certificate, "key": key, "tags": [id.to_string()] }))
            .collect();
        let certificates = place(&mut config, &["apps", "tls", "certificates"])?;
        certificates.insert("load_pem".to_owned(), load_pem.into());
        come_again(place(&mut config, &["admin", "config"])?, request)?;
        let document = written(&config);
        wipe(&mut config);
        Ok(Answer { document: document?, damaged })
    }

    /// Secrets by name, for Envoy; `None` where it has them already. One key for each: ECDSA where there is one.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for any name that is not the frontend's: there is no way to say that one of many is not there.
    pub(crate) async fn secrets(
        &self,
        reader: KeyReader<'_>,
        wanted: &SecretsWanted,
        vault: &Vault,
    ) -> Result<Option<Answer>, Refusal> {
        let mut group_of: BTreeMap<&str, SiteId> = BTreeMap::new();
        for text in &wanted.resource_names {
            let name = DnsName::parse_identifier(text).map_err(|_| Refusal::NotFound)?;
            // One that leads nowhere is looked for all the same, and is not there.
            let group = self.store.site_serving(&name).await?;
            group_of.insert(text, group.unwrap_or_else(|| SiteId::of(&NameSet::one(name))));
        }
        let ids: BTreeSet<SiteId> = group_of.values().cloned().collect();
        let groups = self.followed(reader, ids).await?;
        let unknown: BTreeSet<&SiteId> =
            groups.iter().filter(|group| group.damaged.is_some()).map(|group| &group.id).collect();
        let items = items_of(reader, &groups);
        let mut chosen: BTreeMap<&str, &ItemId> = BTreeMap::new();
        // What Envoy is not told of, it keeps.
        let mut damaged: Vec<String> = Vec::new();
        for (name, group) in &group_of {
            let parsed = DnsName::parse_identifier(name).map_err(|_| Refusal::NotFound)?;
            let is_it = |id: &ItemId, item: &Item| id.group == *group && item.is_for(&parsed);
            match items.iter().find(|(id, (_, item))| is_it(id, item)) {
                Some((id, (_, item))) if item.slots().next().is_none() && item.is_damaged() => {
                    damaged.push(id.to_string());
                }
                Some((id, _)) => drop(chosen.insert(name, id)),
                None if unknown.contains(group) => damaged.push(group.to_string()),
                None => return Err(Refusal::NotFound),
            }
        }
        let versions: String =
            chosen.iter().map(|(name, id)| format!("{name} {}\n", items[*id].1.version())).collect();
        let version = sha256_hex(versions.as_bytes())[..16].to_owned();
        if version == wanted.version_info {
            return Ok(None);
        }
        let of_chosen = items.iter().filter(|(id, _)| chosen.values().any(|chosen| chosen == id));
        let opened = self.open(reader, &of_chosen.collect(), vault).await?;
        let mut slots: BTreeMap<&ItemId, (Slot, &Opened)> = BTreeMap::new();
        for (id, opened) in &opened {
            match opened.slots.first_key_value() {
                Some((slot, opened)) => drop(slots.insert(id, (*slot, opened))),
                None if opened.is_damaged => damaged.push(id.to_string()),
                None => return Err(Refusal::NotFound),
            }
        }
        if slots.is_empty() {
            let which = damaged.join(", ");
            return Err(Refusal::Damaged(format!("the certificates of {which} can't be read").into()));
        }
        let keys = slots.iter().map(|(id, (slot, opened))| opened.audited(id, *slot)).collect();
        self.audit.read_keys(&reader.asker(), keys).await?;
        self.counters.key_reads.inc_by(slots.len() as u64);
        let mut resources = Vec::new();
        for (name, id) in &chosen {
            let Some((_, opened)) = slots.get(id) else { continue };
            let (fullchain, privkey) = opened.texts()?;
            resources.push(json!({
                "@type": SECRET,
                "name": name,
                "tls_certificate": {
                    "certificate_chain": { "inline_string": fullchain },
                    "private_key": { "inline_string": privkey },
                },
            }));
        }
        let mut answer = json!({ "version_info": version, "resources": resources, "type_url": SECRET });
        let document = written(&answer);
        wipe(&mut answer);
        Ok(Some(Answer { document: document?, damaged }))
    }

    /// The kind of key that HAProxy is given for a name where it doesn't say: ECDSA where there is one.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub(crate) async fn first_slot(&self, reader: &Reader, group: SiteId) -> Result<Slot, Refusal> {
        let groups = self.store.load_followed(&[group]).await?;
        let items: Vec<Item> =
            groups.iter().flat_map(|group| reader.items(group, Timestamp::now())).collect();
        if let Some(slot) = items.iter().find_map(|item| item.slots().next()) {
            return Ok(slot);
        }
        // A record that can't be read is not one that is not there.
        match (items.iter().find(|item| item.is_damaged()), groups.first()) {
            (Some(item), _) => Err(unreadable(item.id())),
            (None, Some(group)) => Err(Refusal::absent(group)),
            (None, None) => Err(Refusal::NotFound),
        }
    }

    /// Every item in scope that has a certificate, in the order of their ids; written to the audit. What can't be read is left
    /// out and named: it takes nobody else's answer away.
    async fn everything(&self, reader: KeyReader<'_>, vault: &Vault) -> Result<Everything, Refusal> {
        let mut given: Vec<Given> = Vec::new();
        let mut damaged: Vec<String> = Vec::new();
        let mut cursor: Option<SiteId> = None;
        loop {
            let ids = self.store.list_site_ids(cursor.as_ref(), GROUPS_AT_ONCE).await?;
            let Some(last) = ids.last() else { break };
            cursor = Some(last.clone());
            let groups = self.store.load_followed(&ids).await?;
            let items = items_of(reader, &groups);
            // Nobody knows whose scope it is in.
            let nobodys = groups.iter().filter(|group| group.damaged.is_some() && group.wanted.is_none());
            damaged.extend(nobodys.map(|group| group.id.to_string()));
            for (id, opened) in self.open(reader, &items.iter().collect(), vault).await? {
                if opened.is_damaged {
                    damaged.push(id.to_string());
                }
                if !opened.slots.is_empty() {
                    given.push(Given { id: id.clone(), slots: opened.slots });
                }
            }
            if given.len() > MOST_ITEMS {
                let message =
                    format!("more than {MOST_ITEMS} certificates are in scope: the agent is for that");
                return Err(Refusal::Mistaken(message));
            }
        }
        if given.is_empty() {
            return Err(match damaged.first() {
                Some(id) => Refusal::Damaged(
                    format!("a certificate of {id} can't be read, and there is no other").into(),
                ),
                None => Refusal::Nothing,
            });
        }
        if !damaged.is_empty() {
            tracing::error!(?damaged, "these can't be read, and are left out of what an adapter gives");
        }
        let keys: Vec<_> = given
            .iter()
            .flat_map(|given| given.slots.iter().map(|(slot, opened)| opened.audited(&given.id, *slot)))
            .collect();
        let count = keys.len() as u64;
        self.audit.read_keys_again(&reader.asker(), keys).await?;
        self.counters.key_reads.inc_by(count);
        Ok(Everything { given, damaged })
    }
}

/// Each certificate with its chain, and its key, ECDSA first.
fn pairs(given: &[Given]) -> Result<Vec<(&ItemId, &str, &str)>, Refusal> {
    let all = given.iter().flat_map(|given| given.slots.values().map(move |opened| (&given.id, opened)));
    all.map(|(id, opened)| opened.texts().map(|(certificate, key)| (id, certificate, key))).collect()
}

fn unreadable(id: &ItemId) -> Refusal {
    Refusal::Damaged(format!("the certificate of {id} can't be read").into())
}

fn json_object<T: Serialize>(key: &'static str, value: T) -> BTreeMap<&'static str, T> {
    BTreeMap::from([(key, value)])
}

/// Wiped when it has been sent.
fn written(value: &impl Serialize) -> Result<Bytes, Refusal> {
    let mut text = Zeroizing::new(Vec::new());
    serde_json::to_writer(&mut *text, value).map_err(|e| Refusal::Damaged(e.into()))?;
    Ok(Bytes::from_owner(text))
}

/// Overwrites every text of a document that holds keys.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => zeroize::Zeroize::zeroize(text),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(fields) => fields.values_mut().for_each(wipe),
        _ => {}
    }
}

/// The operator's configuration of Caddy.
///
/// # Errors
/// In words.
pub(crate) fn read_config(file: &Path) -> Result<Value, String> {
    let failed =
        |e: &dyn std::fmt::Display| format!("certificates.caddy_config_file: {}: {e}", file.display());
    let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|e| failed(&e))?;
    for path in [&["apps", "tls", "certificates"][..], &["admin", "config"]] {
        place(&mut config, path).map_err(|e| failed(&e))?;
    }
    Ok(config)
}

/// The object at a path, made where it isn't there.
fn place<'a>(config: &'a mut Value, path: &[&str]) -> Result<&'a mut Map<String, Value>, Refusal> {
    let no_object = || Refusal::Mistaken(format!("{} is no object in Caddy's configuration", path.join(".")));
    let mut place = config;
    for key in path {
        let object = place.as_object_mut().ok_or_else(no_object)?;
        place = object.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    }
    place.as_object_mut().ok_or_else(no_object)
}

/// A configuration that Caddy has loaded takes the place of the one that told it where to load from: it has to say so again.
/// What the operator has written there stays.
fn come_again(settings: &mut Map<String, Value>, request: &HttpRequest) -> Result<(), Refusal> {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host =
        text(HOST).filter(|host| host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b)));
    let host = host.ok_or_else(|| Refusal::Mistaken("host: expected a header with this name".to_owned()))?;
    // Or the keys would stand in its autosave.json.
    settings.insert("persist".to_owned(), false.into());
    settings.entry("load_delay").or_insert_with(|| "60s".into());
    let load = settings.entry("load").or_insert_with(|| json!({ "module": "http", "timeout": "20s" }));
    let Some(load) = load.as_object_mut() else {
        return Err(Refusal::Mistaken("admin.config.load is no object in Caddy's configuration".to_owned()));
    };
    load.entry("url").or_insert_with(|| format!("https://{host}{}", request.path()).into());
    if let Some(authorization) = text(AUTHORIZATION) {
        load.entry("header").or_insert_with(|| json!({ "Authorization": [authorization] }));
    }
    Ok(())
}
