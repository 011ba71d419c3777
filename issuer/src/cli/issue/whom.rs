//! Whom names are ordered from: their site's CA and account, or what is said of it.

use super::ca_of;
use crate::{
    ca::Ca,
    cli::{
        output::{Exit, Failed, Output},
        site::of_site,
    },
    issuance::DEFAULT_ACCOUNT,
    sites::{Change, Kind, Registry, SiteWish, Whose, WishError, is_word, whose},
};
use serde_json::json;
use shared::{
    config::Config,
    domain::{ChallengeType, DnsName, KeyType, NameSet, Origin, Site, SiteId},
    store::Store,
};
use std::collections::BTreeMap;

/// Whom to order from. Of a site that is there, it is what is wanted from now on.
#[derive(Clone, Debug, Default, clap::Args)]
pub(in crate::cli) struct From {
    /// Which CA, where several are configured; a site that is there has it from now on
    #[arg(long, value_name = "NAME")]
    pub(super) ca: Option<String>,
    /// The account with it; a site that is there has it from now on
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The CA's profile, empty: of the CA's choice; a site that is there has it from now on
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

impl From {
    pub(in crate::cli) fn says_something(&self) -> bool {
        self.ca.is_some() || self.account.is_some() || self.profile.is_some()
    }

    /// What can be said to be wrong before anything is opened.
    pub(super) fn check(&self, config: &Config) -> Result<(), Failed> {
        if self.ca.is_some() {
            ca_of(config, self.ca.as_deref())?;
        }
        let unusable = |error: WishError| Failed::because(Exit::Usage, "usage", &error);
        if let Some(account) = self.account.as_ref().filter(|account| !is_word(account)) {
            return Err(unusable(WishError::Word(account.clone())));
        }
        match self.profile.as_ref().filter(|profile| !profile.is_empty() && !is_word(profile)) {
            Some(profile) => Err(unusable(WishError::Profile(profile.clone()))),
            None => Ok(()),
        }
    }

    pub(super) fn profile(&self) -> Option<&str> {
        self.profile.as_deref().filter(|profile| !profile.is_empty())
    }
}

/// Everything that is said of a site beside its names: what is wanted of it from now on.
pub(super) struct Said<'a> {
    pub(super) from: &'a From,
    pub(super) key_types: &'a [KeyType],
    pub(super) tags: &'a [String],
    pub(super) challenge: Option<ChallengeType>,
}

impl Said<'_> {
    fn is_nothing(&self) -> bool {
        let is_plain = self.key_types.is_empty() && self.tags.is_empty() && self.challenge.is_none();
        is_plain && !self.from.says_something()
    }

    /// A key type takes the place of that of its family; tags come to those that are there.
    fn to_wish(&self, site: &Site) -> SiteWish {
        let names: Vec<String> = site.names.iter().map(ToString::to_string).collect();
        let of_another_family =
            |known: &&KeyType| self.key_types.iter().all(|kind| kind.slot() != known.slot());
        let kinds = site.key_types.iter().filter(of_another_family).chain(self.key_types).copied().collect();
        let tags = site.tags.iter().chain(self.tags).cloned().collect();
        SiteWish {
            ca: self.from.ca.clone(),
            account: self.from.account.clone(),
            profile: self.from.profile.clone(),
            key_types: (!self.key_types.is_empty()).then_some(kinds),
            tags: (!self.tags.is_empty()).then_some(tags),
            challenge: self.challenge,
            ..SiteWish::for_names(&names)
        }
    }
}

/// Whom a set of names is ordered from.
#[derive(Clone)]
pub(super) struct Whom {
    pub(super) ca: String,
    pub(super) account: String,
    /// What its site serves is of before, and is ordered anew.
    pub(super) is_new: bool,
    /// What is different of its site from now on, in words.
    pub(super) differences: Vec<String>,
}

impl Whom {
    pub(super) fn key(&self) -> (String, String) {
        (self.ca.clone(), self.account.clone())
    }

    fn of(site: &Site) -> Self {
        Self { ca: site.ca.clone(), account: site.account.clone(), is_new: false, differences: Vec::new() }
    }
}

/// Whom each set of names belongs to. Nothing is done where one of them can't be had.
pub(super) async fn look_for(
    store: &Store,
    name_sets: Vec<NameSet>,
    is_renewal: bool,
) -> Result<Vec<(NameSet, Whose)>, Failed> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for names in name_sets {
        let (whose, _) = whose(store, &names).await.map_err(|e| of_site(&e))?;
        if is_renewal && matches!(whose, Whose::Nobody(_)) {
            missing.extend(names.iter().map(DnsName::to_unicode));
        }
        found.push((names, whose));
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let message = format!(
        "{}: there is no site of this name, so nothing was renewed (`issuer issue` or `issuer site add` makes one)",
        missing.join(", ")
    );
    Err(Failed::new(Exit::NotFound, "not-found", message).with_details(json!({ "names": missing })))
}

/// The CA and the account that each set of names is ordered from: its site's. What is said is wanted of the site from now on: all
/// of it is looked at before anything is written.
pub(super) async fn of_whom(
    registry: &Registry,
    asked: &[(NameSet, Whose)],
    ca: Option<&Ca>,
    said: &Said<'_>,
    output: &Output,
) -> Result<Vec<Whom>, Failed> {
    let wisher = Origin::Operator.into();
    let mut changes: BTreeMap<SiteId, Change> = BTreeMap::new();
    for (_, whose) in asked.iter().filter(|_| !said.is_nothing()) {
        // Several sets of names may be of one site.
        if let Whose::Group(_, wanted) = whose
            && !changes.contains_key(&wanted.id)
        {
            let (wish, before) = (said.to_wish(&wanted.site), (**wanted).clone());
            let planned = registry.plan(&wish, Some(before), &wisher).await;
            changes.insert(wanted.id.clone(), planned.map_err(|e| of_site(&e))?);
        }
    }
    if let (Some(account), Some(ca)) = (&said.from.account, ca)
        && asked.iter().any(|(_, whose)| matches!(whose, Whose::Nobody(_)))
    {
        registry.check_account_of(&ca.name, account).await.map_err(|e| of_site(&e))?;
    }
    let mut changed: BTreeMap<SiteId, Whom> = BTreeMap::new();
    for (id, change) in changes {
        let change = registry.write(change).await.map_err(|e| of_site(&e))?;
        if change.kind == Kind::Changed {
            let what = change.differences.join(", ");
            output.note(&format!("{}: wanted from now on: {what}", change.site.names.to_unicode()));
            if let Some(source) = change.site.file_source() {
                output.note(&format!(
                    "note: it is a site of the files of the source {source:?}: one that says otherwise changes it back"
                ));
            }
        }
        change.warnings.iter().for_each(|warning| output.note(&format!("note: {warning}")));
        let is_new = !change.reissued.is_empty();
        let differences = change.differences.clone();
        changed.insert(id, Whom { is_new, differences, ..Whom::of(&change.site) });
    }
    let of = asked.iter().map(|(_, whose)| match (whose, ca) {
        (Whose::Group(_, wanted), _) => {
            Ok(changed.get(&wanted.id).cloned().unwrap_or_else(|| Whom::of(&wanted.site)))
        }
        (Whose::Nobody(_), Some(ca)) => {
            let account = said.from.account.clone().unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned());
            Ok(Whom { ca: ca.name.clone(), account, is_new: false, differences: Vec::new() })
        }
        (Whose::Nobody(_), None) => Err(Failed::new(Exit::NotFound, "not-found", "there is no such site")),
    });
    of.collect()
}
