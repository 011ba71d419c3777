//! `issuer site set --of-ca OLD --ca NEW`: every site of a CA goes to another one.

use super::{
    context::{Context, of_store},
    output::{Exit, Failed, Output},
};
use crate::sites::{Kind, Registry, SiteError, SiteWish, Wisher};
use serde_json::{Value, json};
use shared::{
    domain::{Origin, SiteId},
    store::StoreError,
};

/// Failures that are shown to people.
const MOST_SHOWN: usize = 20;

pub(super) async fn move_all(
    context: &Context,
    registry: &Registry,
    from: &str,
    wish: &SiteWish,
    yes: bool,
    output: &Output,
) -> Result<Exit, Failed> {
    let to = context.ca(wish.ca.as_deref())?.name;
    if to == from {
        let message = format!("--of-ca and --ca are both {from}: nothing would change");
        return Err(Failed::new(Exit::Usage, "usage", message));
    }
    let sites = context.store.list_sites_of_ca(from).await.map_err(|e| of_store(&e))?;
    if sites.is_empty() {
        let message = format!("no site names the CA {from:?}");
        return Err(Failed::new(Exit::NotFound, "not-found", message));
    }
    let what = format!(
        "{} sites go from the CA {from} to {to}: certificates are ordered there for all of them, as its limits allow, and what they have is \
         served until then",
        sites.len()
    );
    output.confirm(&what, yes).await?;
    let (mut moved, mut failed): (u64, Vec<(SiteId, String)>) = (0, Vec::new());
    for id in sites {
        match move_one(registry, &id, from, wish).await {
            Ok(true) => moved += 1,
            Ok(false) => {}
            // One that is odd is one; without the store none goes on.
            Err(SiteError::Store(error)) if !matches!(error, StoreError::Corrupt { .. }) => {
                output.note(&format!("{moved} sites were moved; the same command moves the rest"));
                return Err(of_store(&error));
            }
            Err(error) => failed.push((id, shared::error::chain(&error))),
        }
    }
    let shown: Vec<Value> =
        failed.iter().map(|(site, message)| json!({ "site": site, "message": message })).collect();
    output.result(&json!({ "of_ca": from, "ca": to, "moved": moved, "failed": shown }), || {
        format!("{moved} sites moved from {from} to {to}: the daemon orders their certificates, see `issuer status`")
    });
    for (site, message) in failed.iter().take(MOST_SHOWN) {
        output.note(&format!("{site}: {message}"));
    }
    if failed.len() > MOST_SHOWN {
        output.note(&format!("... and {} more that were not moved", failed.len() - MOST_SHOWN));
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Failed })
}

/// `false` where it is gone, or of another CA by now.
async fn move_one(registry: &Registry, id: &SiteId, from: &str, wish: &SiteWish) -> Result<bool, SiteError> {
    let before = match registry.find_by_id(id).await {
        Ok(before) if before.site.ca == from => before,
        Ok(_) | Err(SiteError::NotFound(_)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let names = before.site.names.iter().map(ToString::to_string).collect();
    let wish = SiteWish { names, ..wish.clone() };
    // They are many: they wait behind what somebody asks for by name.
    let change = registry.plan(&wish, Some(before), &Wisher::from(Origin::File)).await?;
    let changed = change.kind != Kind::Unchanged;
    registry.write(change).await?;
    Ok(changed)
}
