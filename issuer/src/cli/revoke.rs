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
use serde_json::json;
use shared::{
    config::Config,
    domain::{DnsName, Event, EventKind, KeyType, Leaf, SiteId, Slot},
    store::{LeaseAnswer, Owner, StoredSite, lineage_of},
    vault::{Binding, SealedKind},
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
    let found = match (&id, &name) {
        (Some(id), _) => context.store.load_site(id).await,
        (None, Some(name)) => super::status::find(&context, name).await,
        (None, None) => Ok(None),
    };
    let stored = found.map_err(|e| of_store(&e))?.ok_or_else(unknown)?;
    let slots: Vec<Slot> = stored
        .serving
        .current
        .keys()
        .copied()
        .filter(|slot| arguments.slot.is_none_or(|wanted| wanted == *slot))
        .collect();
    if slots.is_empty() {
        return Err(unknown());
    }
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
    let mut revoked = Vec::new();
    for slot in slots {
        let id = &stored.serving.current[&slot];
        let certificate = context
            .store
            .load_certificate(&stored.id, id)
            .await
            .map_err(|e| of_store(&e))?
            .ok_or_else(unknown)?;
        let leaf = certificate.leaf().map_err(|e| Failed::because(Exit::Failed, "store", &e))?;
        let ca = context.ca(Some(&certificate.ca))?;
        let client =
            client_for(&context.store, &ca).await.map_err(|e| Failed::because(Exit::Failed, "ca", &e))?;
        let answer = match arguments.by {
            By::Account => {
                let name =
                    if certificate.account.is_empty() { DEFAULT_ACCOUNT } else { &certificate.account };
                let (_, account) =
                    open_account(&context.store, &vault, &ca, &client, name, KeyType::EcdsaP256)
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
        context.store.mark_revoked(&lease, slot).await.map_err(|e| of_store(&e))?;
        tell(&context, &stored, slot, &leaf, arguments, *output).await;
        revoked.push(
            json!({ "slot": slot, "serial": leaf.serial, "fingerprint_sha256": leaf.fingerprint_sha256 }),
        );
    }
    context.store.release_lease(&lease).await.map_err(|e| of_store(&e))?;
    let nodes = context.store.list_nodes().await.map_err(|e| of_store(&e))?.found;
    let replaced = if stored.site.paused.is_some() {
        format!("The site is paused: nothing takes its place before `issuer site resume {name_text}`")
    } else if nodes.iter().any(|node| node.report.role == "issuer") {
        format!("The daemon orders another one at once: see `issuer status {name_text}`")
    } else {
        format!("It is served until `issuer run` has ordered another one, or `issuer issue {name_text}`")
    };
    output.result(&json!({ "site": stored.id, "names": stored.site.names, "revoked": revoked }), || {
        format!("revoked: {} ({} certificates). {replaced}", stored.site.names, revoked.len())
    });
    Ok(Exit::Done)
}

/// Has it among the events. It is revoked whether that can be written or not.
async fn tell(
    context: &Context,
    stored: &StoredSite,
    slot: Slot,
    leaf: &Leaf,
    arguments: &Arguments,
    output: Output,
) {
    let reason = arguments.reason.unwrap_or(RevocationReason::Unspecified);
    let what = format!("The {slot} certificate {} was revoked: {reason}.", leaf.serial);
    let event = Event::new(EventKind::Revoked, Timestamp::now(), what)
        .for_site(&stored.id)
        .names(stored.site.names.iter())
        .ca(&stored.site.ca)
        .tags(&stored.site.tags)
        .with("slot", slot.as_str())
        .with("serial", leaf.serial.clone())
        .with("reason", reason.as_str());
    if let Err(error) = context.store.append_event(&event).await {
        output.note(&format!("warning: no event tells of it: {}", shared::error::chain(&error)));
    }
}
