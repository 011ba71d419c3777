//! Tells the operator of a frontend that lags, is silent, or serves what the store does not know; and when it does no more.
//! What was told is noted afterwards: killed in between, or with two nodes at the same moment, it is told twice, never not.

use super::{
    convergence::{Convergence, FrontendStanding, Standing},
    tls_rollout,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::{
    config::Frontends,
    domain::{Event, EventKind},
    error::chain,
    store::{Store, StoreError},
};
use std::{convert::Infallible, time::Duration};

/// The longest pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks for as long as it is not dropped. Every node does.
pub async fn watch_forever(store: Store, frontends: Frontends) -> Infallible {
    let lag = Duration::try_from(frontends.lag()).unwrap_or_default();
    let pause = LOOK_EVERY.min(lag / 10).max(Duration::from_millis(200));
    let mut told = false;
    loop {
        tokio::time::sleep(pause).await;
        let looked = async {
            look(&store, &frontends).await?;
            tls_rollout::look(&store, Timestamp::now()).await?;
            tell_of_unverified(&store).await
        };
        match looked.await {
            Ok(()) => told = false,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(error = chain(&error), "the frontends can't be watched");
                }
            }
        }
    }
}

async fn look(store: &Store, settings: &Frontends) -> Result<(), StoreError> {
    let now = Timestamp::now();
    let fleet = Convergence::load(store, now, settings.silence()).await?;
    let mut troubled = store.list_troubled_frontends().await?;
    let lag = settings.lag();
    for frontend in &fleet.frontends {
        let name = &frontend.name;
        let known = troubled.remove(name);
        match (trouble(frontend, now, lag), known) {
            (Some(Trouble { what, is_late }), known) => {
                let since = known.map_or(now, |known| known.since);
                if known.is_none() {
                    store.note_troubled_frontend(name, now).await?;
                }
                let is_due = is_late || now.duration_since(since) >= lag;
                if is_due && !known.is_some_and(|known| known.told) {
                    tell(store, EventKind::FrontendLags, name, &what).await?;
                    store.note_told_of_frontend(name).await?;
                }
            }
            (None, Some(known)) => {
                if known.told {
                    tell(store, EventKind::FrontendRecovered, name, "it serves what it should again").await?;
                }
                store.forget_troubled_frontend(name).await?;
            }
            (None, None) => {}
        }
    }
    // Of those that were revoked there is nothing to be told.
    for name in troubled.keys() {
        store.forget_troubled_frontend(name).await?;
    }
    Ok(())
}

/// Tells of records that should grant something, and that somebody else has written.
async fn tell_of_unverified(store: &Store) -> Result<(), StoreError> {
    let records = store.list_unverified().await?;
    for record in store.note_unverified(&records).await? {
        let what = format!(
            "The record {} was not written by this fleet ({}): it grants nothing.",
            record.key, record.reason
        );
        let mut event = Event::new(EventKind::RecordUnverified, Timestamp::now(), what);
        event.data.insert("record".to_owned(), json!(record.key));
        event.remedy = Some(
            "Find out who can write to the store, and change its passwords. Then make the record anew: `issuer frontend add --replace`, `issuer token add --replace`, `issuer tls-policy set`."
                .to_owned(),
        );
        store.append_event(&event).await?;
    }
    Ok(())
}

/// Why somebody should look at a frontend.
struct Trouble {
    what: String,
    /// At once; otherwise only if it lasts.
    is_late: bool,
}

/// `None`: nobody has to look.
fn trouble(frontend: &FrontendStanding, now: Timestamp, lag: SignedDuration) -> Option<Trouble> {
    let is_late = |since: Timestamp| now.duration_since(since) >= lag;
    if let Some(print) = frontend.unknown_certificates.first() {
        let what = format!("it serves a certificate that the store does not know: {print}");
        return Some(Trouble { what, is_late: true });
    }
    if let Some(problem) = frontend.problems.iter().find(|problem| is_late(problem.since)) {
        let name =
            problem.names.first().map_or_else(|| "-".to_owned(), |name| shared::domain::for_people(&[name]));
        let what = format!("{name}: {} since {}", problem.reason, problem.since);
        return Some(Trouble { what, is_late: true });
    }
    match (frontend.standing, frontend.reported) {
        (Standing::Silent, Some(at)) => {
            Some(Trouble { what: format!("it has not reported since {at}"), is_late: true })
        }
        (Standing::Behind, _) => {
            Some(Trouble { what: "it lacks the last changes".to_owned(), is_late: false })
        }
        _ => None,
    }
}

async fn tell(store: &Store, kind: EventKind, name: &str, what: &str) -> Result<(), StoreError> {
    let mut event = Event::new(kind, Timestamp::now(), format!("Frontend {name}: {what}."));
    event.data.insert("frontend".to_owned(), json!(name));
    if kind == EventKind::FrontendLags {
        event.remedy =
            Some(format!("Look at `frontend-agent status` on {name}, and at `issuer status --fleet`."));
    }
    store.append_event(&event).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;
    use shared::domain::ItemProblem;

    fn frontend(standing: Standing, problems: &[Timestamp], unknown: &[&str]) -> FrontendStanding {
        FrontendStanding {
            name: "f0".to_owned(),
            standing,
            reported: Some(Timestamp::UNIX_EPOCH),
            agent: None,
            items: 1,
            probes: true,
            behind: 0,
            behind_more: false,
            behind_since: None,
            problem_count: problems.len() as u64,
            problems: problems
                .iter()
                .map(|since| ItemProblem {
                    id: None,
                    names: vec!["a.example".to_owned()],
                    reason: "refused".to_owned(),
                    since: *since,
                    serves: None,
                })
                .collect(),
            unknown_certificates: unknown.iter().map(|print| (*print).to_owned()).collect(),
        }
    }

    #[test]
    fn somebody_looks_at_what_is_wrong_for_long_and_at_once_at_what_nobody_knows() {
        let lag = SignedDuration::from_mins(5);
        let now = Timestamp::UNIX_EPOCH + 1.hour();
        let (fresh, old) = (now - 1.minute(), now - 5.minutes());
        // Whether somebody looks at once (`Some(true)`), only if it lasts, or not at all.
        for (frontend, looks, word) in [
            (frontend(Standing::Converged, &[], &[]), None, ""),
            (frontend(Standing::Unknown, &[], &[]), None, ""),
            (frontend(Standing::Problems, &[fresh], &[]), None, ""),
            (frontend(Standing::Problems, &[fresh, old], &[]), Some(true), "a.example: refused"),
            (frontend(Standing::Behind, &[], &[]), Some(false), "lacks the last changes"),
            (frontend(Standing::Silent, &[], &[]), Some(true), "has not reported since"),
            (frontend(Standing::Converged, &[], &["ab12"]), Some(true), "ab12"),
        ] {
            let found = trouble(&frontend, now, lag);
            assert_eq!(found.as_ref().map(|trouble| trouble.is_late), looks, "{frontend:?}");
            assert!(found.is_none_or(|trouble| trouble.what.contains(word)), "{frontend:?}");
        }
    }
}
