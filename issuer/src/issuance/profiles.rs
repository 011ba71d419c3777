//! Which of the CA's profiles an order asks for. One that is preferred is done without where the CA doesn't take it, and that is
//! told; one that is required is waited for.

use super::{
    Issuance,
    attempt::Attempt,
    placing::profile_refused,
    verdict::{About, Verdict},
};
use crate::acme::RequestError;
use jiff::Timestamp;
use shared::{
    domain::{Event, EventKind, FailureClass, Site, Slot},
    error::Fault,
    store::StoreError,
};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long a profile that was refused is not asked for.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// What the CA has refused lately, and in which words.
#[derive(Debug, Default)]
pub(super) struct RefusedProfiles(Mutex<HashMap<String, (Instant, String)>>);

impl RefusedProfiles {
    fn why(&self, profile: &str) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, why) = known.get(profile)?;
        (since.elapsed() < REMEMBERED).then(|| why.clone())
    }

    /// Whether it is new that it is refused.
    fn note(&self, profile: &str, why: String) -> bool {
        let is_new = self.why(profile).is_none();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(profile.to_owned(), (Instant::now(), why));
        is_new
    }
}

impl Issuance {
    /// Remembers that the CA refuses a profile, and tells of it once.
    pub(super) async fn refuses_profile(&self, profile: &str, error: &RequestError) {
        let why = error.to_string();
        if !self.refused_profiles.note(profile, why.clone()) {
            return;
        }
        let without = if self.ca.section.profile_required {
            "its sites wait, since it is required"
        } else {
            "its sites are ordered without one"
        };
        let what = format!("{} refuses the profile {profile:?} ({why}): {without}", self.ca.title);
        tracing::warn!(ca = self.ca.name, profile, why, "the CA refuses a profile");
        let event = Event::new(EventKind::CaChanged, Timestamp::now(), what).ca(&self.ca.name);
        if let Err(error) = self.store.append_event(&event).await {
            tracing::warn!(error = shared::error::chain(&error), "an event could not be stored");
        }
    }
}

impl Issuance {
    /// Tells the operator, once a day, that a profile is wished for that the CA lacks.
    async fn tell_of_lacking_profile(&self, profile: &str, what: &str) {
        let (store, ca) = (&self.store, &self.ca);
        let told = async {
            if store.is_news_of_ca(&ca.name, &format!("profile:{profile}")).await? {
                let what = format!("{what}: its sites are ordered without one");
                let event = Event::new(EventKind::CaChanged, Timestamp::now(), what)
                    .ca(&ca.name)
                    .remedy("name another profile, or none, with `issuer site set NAME --profile` or ca.NAME.profile")
                    .with("profile", profile);
                store.append_event(&event).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = told.await {
            tracing::debug!(
                error = shared::error::chain(&error),
                ca = ca.name,
                "the operator could not be told"
            );
        }
    }
}

impl Attempt<'_> {
    /// The profile that is asked for, which a CA that describes its profiles must still have.
    pub(super) async fn profile(&self, site: &Site, slot: Slot) -> Result<Option<String>, Verdict> {
        let section = &self.issuance.ca.section;
        let Some(wanted) = site.profile.clone().or_else(|| section.profile.clone()) else { return Ok(None) };
        let directory = self.issuance.account.client().directory().await;
        let directory = directory.map_err(|error| Verdict::from_request(&error))?;
        let profiles = &directory.meta.profiles;
        if profiles.is_empty() || profiles.contains_key(&wanted) {
            let Some(why) = self.issuance.refused_profiles.why(&wanted) else { return Ok(Some(wanted)) };
            // Who asks by hand wants everything tried.
            if self.wanted.is_some() {
                return Ok(Some(wanted));
            }
            if section.profile_required {
                return Err(profile_refused(&self.issuance.ca.title, &wanted, &why));
            }
            let what = format!("the CA refuses the profile {wanted:?}: it is ordered without one");
            self.timeline.tell("profile", Some(slot), what);
            return Ok(None);
        }
        let known = profiles.keys().cloned().collect::<Vec<_>>().join(", ");
        let what = format!("{} has no profile {wanted:?}: it has {known}", self.issuance.ca.title);
        if section.profile_required {
            let remedy = "set another `profile`, or none; with profile_required = false the CA would choose";
            return Err(Verdict::new(Fault::Operator, FailureClass::Policy, what, remedy).about(About::Order));
        }
        self.timeline.tell("profile", Some(slot), format!("{what}; it is ordered without one"));
        self.issuance.tell_of_lacking_profile(&wanted, &what).await;
        Ok(None)
    }
}
