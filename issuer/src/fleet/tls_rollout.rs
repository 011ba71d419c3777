//! A TLS policy is tried by the canaries before all frontends get it.

use jiff::Timestamp;
use shared::{
    config::Canary,
    domain::{StagedTlsPolicy, TlsPolicies, TlsPolicy},
    store::{Store, StoreError},
};

/// Does nothing where the canaries try none, or its time has not come, or one of them refuses it: that is told as any other problem
/// of a frontend.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn look(store: &Store, now: Timestamp) -> Result<(), StoreError> {
    let staged = readable(store.load_tls_policies().await)?.and_then(|policies| policies.staged);
    let Some(staged) = staged.filter(|staged| now >= staged.until) else { return Ok(()) };
    let mut canaries = store.list_frontends().await?;
    canaries.retain(|frontend| frontend.revoked.is_none() && frontend.scope.tags.contains(&staged.tag));
    let names: Vec<_> = canaries.iter().map(|frontend| frontend.name.clone()).collect();
    let reports = store.load_reports(&names).await?.into_iter();
    let said = reports.map(|stored| match stored {
        Some(stored) => (Some(stored.at), staged.is_lacking(&stored.report, stored.at)),
        None => (None, false),
    });
    if staged.may_go_to_all(&said.collect::<Vec<_>>(), now) && store.publish_tls_policy(&staged).await? {
        tracing::info!(tag = staged.tag, "the canaries have taken the TLS policy: all frontends get it");
    }
    Ok(())
}

/// Has the canaries try a policy, where there are some, or gives it to all frontends. Nothing is tried of what all speak already: then
/// what the canaries tried is dropped.
///
/// # Errors
/// [`StoreError`].
pub async fn set_tls_policy(
    store: &Store,
    policy: &TlsPolicy,
    canary: Option<Canary>,
    now: Timestamp,
) -> Result<TlsPolicies, StoreError> {
    if let Some(Canary { tag, head_start }) = canary
        && let Some(known) = readable(store.load_tls_policies().await)?
        && known.all != *policy
        && store
            .list_frontends()
            .await?
            .iter()
            .any(|frontend| frontend.revoked.is_none() && frontend.scope.tags.contains(&tag))
    {
        let until = now.checked_add(head_start).unwrap_or(Timestamp::MAX);
        let staged = StagedTlsPolicy { policy: policy.clone(), tag, since: now, until };
        return store.stage_tls_policy(&staged).await;
    }
    store.set_tls_policy(policy).await?;
    Ok(TlsPolicies { all: policy.clone(), staged: None })
}

/// A record that can't be read, or was not set by this fleet, is told of elsewhere, and replaced.
fn readable(policies: Result<TlsPolicies, StoreError>) -> Result<Option<TlsPolicies>, StoreError> {
    match policies {
        Err(StoreError::Corrupt { .. } | StoreError::Unverified { .. }) => Ok(None),
        policies => policies.map(Some),
    }
}
