//! CAs that sites name and the configuration does not: a section was renamed or taken out, and nothing is ordered for its sites.

use shared::{
    config::Config,
    store::{Store, StoreError},
};
use std::{fmt, time::Duration};

/// A CA without a section that sites name.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Unconfigured {
    pub ca: String,
    pub sites: u64,
    /// There may be more: the time was over before all sites were looked at.
    pub at_least: bool,
}

impl fmt::Display for Unconfigured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca, sites, at_least } = self;
        let at_least = if *at_least { "at least " } else { "" };
        let name = if *sites == 1 { "site names" } else { "sites name" };
        write!(
            f,
            "{at_least}{sites} {name} the CA {ca:?}, which is not configured here: nothing is ordered, renewed or revoked for them. Put its \
             section [ca.{ca}] back, or move them: `issuer site set --of-ca {ca} --ca NAME`"
        )
    }
}

/// What the sites name and the configuration lacks; for so long at most.
///
/// # Errors
/// The store's.
pub async fn unconfigured(
    store: &Store,
    config: &Config,
    longest: Duration,
) -> Result<Vec<Unconfigured>, StoreError> {
    let counted = store.count_sites_by_ca(longest).await?;
    let at_least = !counted.complete;
    let lacking = counted.sites.into_iter().filter(|(ca, _)| !config.ca.contains_key(ca));
    Ok(lacking.map(|(ca, sites)| Unconfigured { ca, sites, at_least }).collect())
}

/// Whether it is worth looking at all sites: somebody had an account at a CA that the configuration lacks.
///
/// # Errors
/// The store's.
pub async fn may_lack_sections(store: &Store, config: &Config) -> Result<bool, StoreError> {
    Ok(store.list_accounts().await?.found.iter().any(|account| !config.ca.contains_key(&account.ca)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_many_and_what_to_do() {
        let told = |sites, at_least| Unconfigured { ca: "old".into(), sites, at_least }.to_string();
        assert!(told(1, false).starts_with("1 site names the CA \"old\""), "{}", told(1, false));
        assert!(told(7, true).starts_with("at least 7 sites name the CA"), "{}", told(7, true));
        assert!(told(7, false).contains("`issuer site set --of-ca old --ca NAME`"));
    }
}
