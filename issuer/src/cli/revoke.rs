//! `issuer revoke NAME`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use crate::{
    acme::RevocationReason,
    issuance::{DEFAULT_ACCOUNT, client_for, open_account},
};
use openssl::pkey::PKey;
use serde_json::json;
use shared::{
    config::Config,
    domain::{DnsName, KeyType, Slot},
    store::{LeaseAnswer, Owner, lineage_of},
    vault::{Binding, SealedKind},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    name: String,
    /// unspecified, key-compromise, superseded or cessation-of-operation
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
    let name =
        DnsName::parse_identifier(&arguments.name).map_err(|e| Failed::because(Exit::Usage, "names", &e))?;
    let context = Context::open_to_change(config, *output).await?;
    let vault = context.vault(*output).await?;
    let unknown = || {
        Failed::new(
            Exit::NotFound,
            "not-found",
            format!("{}: no certificate of this name is stored", name.to_unicode()),
        )
    };
    let stored = super::status::find(&context, &name).await.map_err(|e| of_store(&e))?.ok_or_else(unknown)?;
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
        revoked.push(
            json!({ "slot": slot, "serial": leaf.serial, "fingerprint_sha256": leaf.fingerprint_sha256 }),
        );
    }
    context.store.release_lease(&lease).await.map_err(|e| of_store(&e))?;
    output.result(&json!({ "site": stored.id, "names": stored.site.names, "revoked": revoked }), || {
        format!(
            "revoked: {} ({} certificates). It is served until another one is issued: issuer issue {name}",
            stored.site.names,
            revoked.len()
        )
    });
    Ok(Exit::Done)
}
