//! `issuer revoke NAME`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use crate::{
    acme::RevocationReason,
    issuance::{DEFAULT_ACCOUNT, client_for, open_account},
};
use jiff::Timestamp;
use openssl::pkey::PKey;
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{Certificate, DnsName, Event, EventKind, KeyType, Leaf, SiteId, Slot},
    store::{Lease, LeaseAnswer, Owner, StoredSite, lineage_of},
    vault::{Binding, SealedKind, Vault},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// One of its names, or the id of the site
    name: String,
    /// unspecified, key-compromise, affiliation-changed, superseded, cessation-of-operation or privilege-withdrawn; keyCompromise
    /// and the like, as RFC 5280 writes them, are understood as well
    #[arg(long)]
    reason: Option<RevocationReason>,
    /// Who asks: the account that ordered it, or whoever has its key
    #[arg(long, value_enum, default_value_t = By::Account)]
    by: By,
    /// ecdsa or rsa alone
    #[arg(long)]
    slot: Option<Slot>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    Account,
    CertificateKey,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let id = SiteId::parse(&arguments.name);
    let name = match id {
        Some(_) => None,
        None => Some(
            DnsName::parse_identifier(&arguments.name)
                .map_err(|e| Failed::because(Exit::Usage, "names", &e))?,
        ),
    };
    let name_text = name.as_ref().map_or_else(|| arguments.name.clone(), DnsName::to_unicode);
    let context = Context::open_to_change(config, *output).await?;
    let vault = context.vault(*output).await?;
    let unknown = || {
        Failed::new(
            Exit::NotFound,
            "not-found",
            format!("{name_text}: no certificate of this name is stored"),
        )
    };
    let groups = match (&id, &name) {
        // The site's id means all of it.
        (Some(id), _) if id.number() == 0 => {
            let wanted = context.store.load_wanted(id).await.map_err(|e| of_store(&e))?;
            let wanted = wanted.ok_or_else(unknown)?;
            let ids: Vec<SiteId> = wanted.groups.keys().map(|number| wanted.id.group(*number)).collect();
            let loaded = context.store.load_sites(&ids).await.map_err(|e| of_store(&e))?;
            if let Some(damaged) = loaded.damaged.first() {
                let message = format!("{}: damaged: {}: nothing was revoked", damaged.site, damaged.what);
                return Err(Failed::new(Exit::Failed, "store", message));
            }
            loaded.sites
        }
        (Some(id), _) => context.store.load_site(id).await.map_err(|e| of_store(&e))?.into_iter().collect(),
        (None, Some(name)) => {
            super::status::find(&context, name).await.map_err(|e| of_store(&e))?.into_iter().collect()
        }
        (None, None) => Vec::new(),
    };
    let is_meant = |slot: &Slot| arguments.slot.is_none_or(|wanted| wanted == *slot);
    let mut meant: Vec<(StoredSite, Vec<Slot>)> = groups
        .into_iter()
        .map(|stored| {
            let slots = stored.serving.current.keys().copied().filter(is_meant).collect();
            (stored, slots)
        })
        .collect();
    meant.retain(|(_, slots)| !slots.is_empty());
    let Some((first, _)) = meant.first() else { return Err(unknown()) };
    let (site, is_paused) = (first.id.site(), first.site.paused.is_some());
    let names: Vec<DnsName> =
        meant.iter().flat_map(|(stored, _)| stored.site.names.iter().cloned()).collect();
    let mut revoked = Vec::new();
    for (stored, slots) in &meant {
        let length = context.config.issuer.lease_length();
        let owner = Owner::this_process();
        let answer =
            context.store.acquire_lease(&stored.id, &stored.site, &owner, &owner.attempt(), length).await;
        let lease = match answer {
            Ok(LeaseAnswer::Acquired(lease)) => lease,
            Ok(LeaseAnswer::Held { owner, .. }) => {
                return Err(Failed::new(
                    Exit::Failed,
                    "busy",
                    format!("{owner} works on this site at the moment: run again"),
                ));
            }
            Err(error) => return Err(of_store(&error)),
        };
        let done = revoke(&context, &vault, &lease, stored, slots, arguments, *output).await;
        // Whatever came of it, the site is free again.
        let released = context.store.release_lease(&lease).await.map_err(|e| of_store(&e));
        revoked.extend(done?);
        released?;
    }
    let nodes = context.store.list_nodes().await.map_err(|e| of_store(&e))?.found;
    let replaced = if is_paused {
        format!("The site is paused: nothing takes its place before `issuer site resume {name_text}`")
    } else if nodes.iter().any(|node| node.report.role == "issuer") {
        format!("The daemon orders another one at once: see `issuer status {name_text}`")
    } else {
        format!("It is served until `issuer run` has ordered another one, or `issuer issue {name_text}`")
    };
    output.result(&json!({ "site": site, "names": names, "revoked": revoked }), || {
        let names = names.iter().map(DnsName::to_unicode).collect::<Vec<_>>().join(", ");
        format!("revoked: {names} ({} certificates). {replaced}", revoked.len())
    });
    Ok(Exit::Done)
}

/// Revokes what a group is served with, at whoever issued it, as whoever ordered it.
async fn revoke(
    context: &Context,
    vault: &Vault,
    lease: &Lease,
    stored: &StoredSite,
    slots: &[Slot],
    arguments: &Arguments,
    output: Output,
) -> Result<Vec<Value>, Failed> {
    let mut revoked = Vec::new();
    for slot in slots.iter().copied() {
        let id = &stored.serving.current[&slot];
        let loaded = context.store.load_certificate(&stored.id, id).await.map_err(|e| of_store(&e))?;
        let certificate = loaded.ok_or_else(|| {
            let message = format!(
                "{}: its {slot} certificate is missing from the store",
                stored.site.names.to_unicode()
            );
            Failed::new(Exit::Failed, "store", message)
        })?;
        let leaf = certificate.leaf().map_err(|e| Failed::because(Exit::Failed, "store", &e))?;
        let ca = context.ca_of_site(&certificate.ca)?;
        let client =
            client_for(&context.store, &ca).await.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
        let answer = match arguments.by {
            By::Account => {
                let name =
                    if certificate.account.is_empty() { DEFAULT_ACCOUNT } else { &certificate.account };
                let (_, account) =
                    open_account(&context.store, vault, &ca, &client, name, KeyType::EcdsaP256)
                        .await
                        .map_err(|e| Failed::because(Exit::Failed, "account", &e))?;
                account.revoke(&certificate.leaf_der, arguments.reason).await
            }
            By::CertificateKey => {
                let lineage = lineage_of(&stored.id, slot);
                let binding = Binding {
                    kind: SealedKind::CertificateKey,
                    owner: &lineage,
                    spki_sha256: &leaf.spki_sha256,
                };
                let der = vault
                    .open(&certificate.sealed_key, &binding)
                    .map_err(|e| Failed::because(Exit::Failed, "keyring", &e))?;
                let key = PKey::private_key_from_pkcs8(&der)
                    .map_err(|e| Failed::because(Exit::Failed, "bug", &e))?;
                client.revoke_by_certificate_key(&key, &certificate.leaf_der, arguments.reason).await
            }
        };
        answer.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
        context.store.mark_revoked(lease, slot).await.map_err(|e| of_store(&e))?;
        tell(context, stored, slot, &certificate, &leaf, arguments, output).await;
        revoked.push(json!({
            "slot": slot,
            "ca": ca.name,
            "serial": leaf.serial,
            "fingerprint_sha256": leaf.fingerprint_sha256,
        }));
    }
    Ok(revoked)
}

/// Has it among the events. It is revoked whether that can be written or not.
async fn tell(
    context: &Context,
    stored: &StoredSite,
    slot: Slot,
    certificate: &Certificate,
    leaf: &Leaf,
    arguments: &Arguments,
    output: Output,
) {
    let reason = arguments.reason.unwrap_or(RevocationReason::Unspecified);
    let what = format!("The {slot} certificate {} was revoked: {reason}.", leaf.serial);
    let event = Event::new(EventKind::Revoked, Timestamp::now(), what)
        .for_site(&stored.id)
        .names(stored.site.names.iter())
        .ca(&certificate.ca)
        .tags(&stored.site.tags)
        .with("slot", slot.as_str())
        .with("serial", leaf.serial.clone())
        .with("reason", reason.as_str());
    if let Err(error) = context.store.append_event(&event).await {
        output.note(&format!("warning: no event tells of it: {}", shared::error::chain(&error)));
    }
}
