//! `issuer frontend revoke NAME --rekey`: whatever a frontend holds the key of is renewed, with a new one.

use super::super::{
    audit,
    context::{Context, of_store},
    nudge::nudge_all,
    output::{Failed, Output},
};
use crate::sites::Registry;
use serde::Serialize;
use shared::{
    domain::{CertificateId, Frontend, Right, SiteId},
    store::{Serving, StoredSite},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// Sites that are read at once.
const PAGE: usize = 500;

/// What is renewed because of a frontend.
#[derive(Debug, Serialize)]
pub(super) struct Rekeyed {
    /// Keys that it was given, as far as the audit goes.
    given: usize,
    /// Sites that are renewed, by the daemon.
    asked: usize,
    /// Whether the audit has everything since the frontend was added. Where it hasn't, all that is in its scope is renewed, too.
    complete: bool,
}

/// Asks the daemon for new certificates in the place of those that are served and whose key the frontend was given. Those that
/// were renewed since are left alone.
pub(super) async fn rekey(frontend: &Frontend, context: &Context, output: Output) -> Result<Rekeyed, Failed> {
    let given = audit::given_to(&frontend.name, context, output).await?;
    let mut held: BTreeMap<SiteId, BTreeSet<CertificateId>> = BTreeMap::new();
    for key in given.keys() {
        let group = key.lineage.split('.').next().and_then(SiteId::parse);
        if let Some(group) = group {
            held.entry(group).or_default().insert(key.certificate.clone());
        }
    }
    let mut groups: BTreeSet<SiteId> = BTreeSet::new();
    for (group, certificates) in &held {
        let stored = context.store.load_site(group).await.map_err(|e| of_store(&e))?;
        if stored.is_some_and(|stored| serves(&stored.serving, certificates)) {
            groups.insert(group.clone());
        }
    }
    let complete = given.coverage.is_complete_from(frontend.created);
    if !complete && frontend.rights.contains(&Right::ReadKey) {
        in_scope(frontend, context, &mut groups).await?;
    }
    let registry = Registry::new(context.store.clone(), Arc::new(context.config.clone()));
    let groups: Vec<SiteId> = groups.into_iter().collect();
    let asked = nudge_all(&registry, &groups, frontend.revoked).await?;
    Ok(Rekeyed { given: given.keys().count(), asked, complete })
}

fn serves(serving: &Serving, certificates: &BTreeSet<CertificateId>) -> bool {
    let staged = serving.staged.iter().flat_map(|staged| staged.pointers.values());
    serving.current.values().chain(serving.kept.values()).chain(staged).any(|id| certificates.contains(id))
}

/// Everything that it may have been given since it was added: what was issued since it was revoked was not.
async fn in_scope(
    frontend: &Frontend,
    context: &Context,
    groups: &mut BTreeSet<SiteId>,
) -> Result<(), Failed> {
    let mut after: Option<SiteId> = None;
    loop {
        let page = context.store.list_sites(after.as_ref(), PAGE).await.map_err(|e| of_store(&e))?;
        let Some(last) = page.last_id() else { return Ok(()) };
        after = Some(last.clone());
        let sees =
            |stored: &StoredSite| frontend.scope.covers(stored.site.names.as_slice(), &stored.site.tags);
        // Nobody knows whose scope those are in that can't be read.
        groups.extend(page.damaged.into_iter().map(|damaged| damaged.site));
        groups.extend(page.sites.into_iter().filter(sees).map(|stored| stored.id));
    }
}

impl fmt::Display for Rekeyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { given, asked, complete } = self;
        write!(
            f,
            "It was given {given} keys. Sites that are renewed with new keys, by the daemon: {asked}. See `issuer status`"
        )?;
        if !complete {
            write!(
                f,
                "\nThe audit on this node does not go back to when it was added: all that is in its scope is renewed, too"
            )?;
        }
        Ok(())
    }
}
