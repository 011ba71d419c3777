//! `issuer status [NAME...]`

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output, table},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::{
    config::Config,
    domain::{DnsName, Slot},
    store::{StoreError, StoredSite},
};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Hostnames; none: all sites
    names: Vec<String>,
    /// Begin after this site
    #[arg(long, value_name = "SITE")]
    after: Option<String>,
    /// Sites shown at most
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

pub(super) async fn run(arguments: &Arguments, config: Config, output: &Output) -> Result<Exit, Failed> {
    let names = arguments
        .names
        .iter()
        .map(|text| DnsName::parse(text).map_err(|e| Failed::because(Exit::Usage, "names", &e)))
        .collect::<Result<Vec<_>, _>>()?;
    let after = match &arguments.after {
        None => None,
        Some(text) => Some(
            shared::domain::SiteId::parse(text)
                .ok_or_else(|| Failed::new(Exit::Usage, "usage", format!("{text:?} is no site id")))?,
        ),
    };
    let context = Context::open(config, *output).await?;
    let mut sites = Vec::new();
    let mut next = None;
    if names.is_empty() {
        sites = context.store.list_sites(after.as_ref(), arguments.limit).await.map_err(|e| of_store(&e))?;
        if sites.len() == arguments.limit {
            next = sites.last().map(|last| last.id.clone());
        }
    }
    for name in &names {
        let site = find(&context, name).await.map_err(|e| of_store(&e))?;
        let site = site.ok_or_else(|| {
            Failed::new(
                Exit::NotFound,
                "not-found",
                format!("{}: nothing is known of this name", name.to_unicode()),
            )
        })?;
        if !sites.iter().any(|known| known.id == site.id) {
            sites.push(site);
        }
    }
    let mut shown = Vec::new();
    for site in &sites {
        shown.push(describe(&context, site).await.map_err(|e| of_store(&e))?);
    }
    output.result(&json!({ "sites": shown, "next": next }), || to_text(&shown));
    Ok(Exit::Done)
}

/// The site that serves a name, or the one that was made for it and serves nothing yet.
pub(super) async fn find(context: &Context, name: &DnsName) -> Result<Option<StoredSite>, StoreError> {
    let id = match context.store.site_of(name).await? {
        Some(id) => id,
        None => shared::domain::SiteId::of(&shared::domain::NameSet::one(name.clone())),
    };
    context.store.load_site(&id).await
}

async fn describe(context: &Context, stored: &StoredSite) -> Result<Value, StoreError> {
    let now = Timestamp::now();
    let mut certificates = Vec::new();
    let (mut expired, mut revoked) = (false, false);
    for (slot, id) in &stored.current {
        let certificate =
            context.store.load_certificate(&stored.id, id).await?.ok_or_else(|| StoreError::Corrupt {
                key: stored.id.to_string(),
                source: format!("the certificate {id} that it serves is missing").into(),
            })?;
        let leaf =
            certificate.leaf().map_err(|e| StoreError::Corrupt { key: id.to_string(), source: e.into() })?;
        expired |= !leaf.is_valid_at(now);
        revoked |= stored.revoked.contains(slot);
        let mut shown = json!(leaf);
        shown["slot"] = json!(slot);
        shown["key_type"] = json!(certificate.key_type);
        shown["ca"] = json!(certificate.ca);
        shown["issued"] = json!(certificate.issued);
        shown["revoked"] = json!(stored.revoked.contains(slot));
        certificates.push(shown);
    }
    let mut orders = serde_json::Map::new();
    for slot in Slot::ALL {
        if let Some(open) = context.store.load_order(&stored.id, slot).await? {
            orders.insert(slot.to_string(), json!(open.order.state.as_str()));
        }
    }
    let state = match (&stored.failure, certificates.is_empty()) {
        (Some(_), _) => "failing",
        (None, true) => "pending",
        (None, false) if revoked => "revoked",
        (None, false) if expired => "expired",
        (None, false) => "valid",
    };
    Ok(json!({
        "site": stored.id,
        "names": stored.site.names,
        "names_unicode": stored.site.names.iter().map(DnsName::to_unicode).collect::<Vec<_>>(),
        "key_types": stored.site.key_types,
        "ca": stored.site.ca,
        "tags": stored.site.tags,
        "state": state,
        "certificates": certificates,
        "order": orders,
        "failure": stored.failure,
    }))
}

fn to_text(sites: &[Value]) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list =
        |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
    let rows = sites.iter().map(|site| {
        let of_all = |field: &str| {
            let certificates = site["certificates"].as_array().into_iter().flatten();
            certificates.map(|certificate| text(&certificate[field])).collect::<Vec<_>>().join("\n")
        };
        let orders = site["order"].as_object().into_iter().flatten();
        let orders =
            orders.map(|(slot, state)| format!("{slot} {}", text(state))).collect::<Vec<_>>().join("\n");
        vec![
            list(&site["names_unicode"]),
            text(&site["state"]),
            of_all("key_type"),
            of_all("not_after"),
            orders,
        ]
    });
    let mut out = table(&["NAMES", "STATE", "KEY", "VALID UNTIL", "ORDER"], rows);
    for site in sites.iter().filter(|site| !site["failure"].is_null()) {
        let failure = &site["failure"];
        out.push_str(&format!(
            "\n\n{}: {} ({} in a row, last at {})\n  what to do: {}",
            list(&site["names_unicode"]),
            text(&failure["what"]),
            failure["count"],
            text(&failure["at"]),
            text(&failure["remedy"])
        ));
    }
    out
}
