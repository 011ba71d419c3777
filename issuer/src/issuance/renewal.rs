//! When what is served is renewed (RFC 9773 section 4): as the CA wants it, or as our own rule says. Drawn once for each window,
//! and stored with the group.

use super::{draw, site::Published};
use crate::acme::{Client, RequestError};
use jiff::{SignedDuration, Timestamp};
use shared::{
    domain::{
        Class, Occasion, Place, RenewalPlan, RenewalPlans, RenewalWindow, SiteId, Slot, candidates,
        renewal_window, urgent_from,
    },
    store::{Cut, Field, Store, StoreError, StoredSite},
};
use std::{collections::BTreeMap, time::Duration};

/// A CA that doesn't say when to ask again, or whose answer is of no use, is asked again after this (RFC 9773 section 4.3.3).
const LONG: SignedDuration = SignedDuration::from_hours(6);
/// It is asked no more often, and
const SHORTEST: SignedDuration = SignedDuration::from_secs(60);
/// no less often than this.
const LONGEST: SignedDuration = SignedDuration::from_hours(24);
/// Pauses after a question that was not answered this time, and may be the next.
const PAUSES_MIN: [i64; 4] = [1, 4, 16, 64];
/// One that follows upon a certificate whose window had passed is renewed after this part of its life at the soonest, three hours
/// of 90 days: a CA that wants every new one renewed at once does not get one order after the other.
const SOONEST: i32 = 720;
/// And no sooner than this, as long as that leaves it time enough.
const SHORT_PAUSE: SignedDuration = SignedDuration::from_mins(5);

/// The served certificates of a group, and when each is renewed.
pub(crate) struct Renewals {
    plans: RenewalPlans,
    explanation_url: Option<String>,
    /// The CA wants a certificate renewed sooner than was planned.
    pub(crate) moved: bool,
}

/// What came of a question.
enum Said {
    Window {
        window: RenewalWindow,
        explanation_url: Option<String>,
        again: Option<Duration>,
    },
    /// The CA has no renewal information.
    Nothing,
    /// No answer, or none of use.
    Later {
        again: Option<Duration>,
        passing: bool,
    },
}

/// Who can be asked about a certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Oracle<'a> {
    Ca(&'a Client),
    /// It can't be asked now.
    Later,
    /// Nobody ever will be.
    Nobody,
}

/// What the planned certificate came after.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Follows {
    pub(crate) occasion: Occasion,
    /// See [`RenewalPlan::hasty`].
    pub(crate) hasty: bool,
}

impl Follows {
    /// Nothing: it is planned again.
    pub(crate) const ITSELF: Self = Self { occasion: Occasion::Moved, hasty: false };

    /// The certificate that was served before, if there was one.
    pub(crate) fn upon(before: Option<&Published>, published: &Published) -> Self {
        let occasion = match before {
            Some(before) if before.lifetime() == published.lifetime() => Occasion::Renewal,
            _ => Occasion::First,
        };
        let plan = before.and_then(|before| before.plan.as_ref());
        let hasty = plan.is_some_and(|plan| plan.heard.is_some() && plan.window.end <= published.issued);
        Self { occasion, hasty }
    }
}

impl Renewals {
    pub(crate) fn of(stored: &StoredSite) -> Self {
        Self { plans: stored.renewals.clone(), explanation_url: stored.explanation_url.clone(), moved: false }
    }

    /// Plans the renewal of a certificate, anew where the CA's window is another one than before.
    ///
    /// # Errors
    /// [`StoreError`]: how full the hours are is not known.
    pub(crate) async fn plan(
        &mut self,
        store: &Store,
        site: &SiteId,
        published: &mut Published,
        follows: Follows,
        oracle: Oracle<'_>,
    ) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let said = ask(oracle, published).await;
        let before = published.plan.take();
        let (window, explanation_url) = match &said {
            Said::Window { window, explanation_url, .. } => (*window, explanation_url.clone()),
            _ => {
                let own = || renewal_window(published.life_begin(), published.leaf.not_after);
                (before.as_ref().map_or_else(own, |before| before.window), self.explanation_url.clone())
            }
        };
        let hasty = before.as_ref().map_or(follows.hasty, |before| before.hasty);
        let from = if hasty { now.max(soonest(published)) } else { now };
        let drawn = drawn(store, site, published, window, follows.occasion, from).await?;
        let mut plan = match &before {
            // The same window, the same moment. What was set to before the window stands, too.
            Some(before) if before.window == drawn.window => before.clone(),
            Some(before) if before.early && before.moment < window.end => {
                let mut plan = before.clone();
                plan.window = drawn.window;
                plan
            }
            _ => drawn,
        };
        plan.nameless = before.as_ref().is_some_and(|before| before.nameless);
        plan.hasty = hasty;
        plan.heard = before.as_ref().and_then(|before| before.heard);
        let tries = before.as_ref().map_or(0, |before| before.tries);
        (plan.ask, plan.tries) = next_question(&said, now, tries);
        if let Said::Window { .. } = said {
            plan.heard = Some(now);
        }
        if let Some(before) = before {
            let much = published.lifetime() / 50;
            self.moved |= before.moment.duration_since(plan.moment) > much && !before.early;
        }
        self.explanation_url = explanation_url;
        self.plans.set(published.slot, plan.clone());
        published.plan = Some(plan);
        Ok(())
    }

    /// Remembers that the CA did not take an order that named this certificate as the one to be replaced.
    pub(crate) fn forget_name(&mut self, published: &mut Published) {
        if let Some(plan) = &mut published.plan {
            plan.nameless = true;
            self.plans.set(published.slot, plan.clone());
        }
    }

    /// Where the CA explains why it wants it so.
    pub(crate) fn explanation_url(&self) -> Option<&str> {
        self.explanation_url.as_deref()
    }

    /// What is to be written with the group.
    pub(crate) fn fields(&self, stored: &StoredSite) -> Vec<(Field, Option<String>)> {
        let mut fields = Vec::new();
        if self.plans != stored.renewals {
            fields.push((Field::Renewal, self.plans.to_record()));
        }
        if self.explanation_url != stored.explanation_url {
            fields.push((Field::Explanation, self.explanation_url.clone()));
        }
        fields
    }
}

/// Where a group stands whose certificates are good: it is renewed in time, or sooner where a name waits for its place in the
/// certificate; and in between the CA is asked whether it still wants it so. `None` where nothing is served.
pub(crate) fn place_of_served(
    served: &BTreeMap<Slot, Published>,
    held: Option<Timestamp>,
    cut: &Cut,
    now: Timestamp,
) -> Option<Place> {
    let urgent_from = urgent(served);
    // What was rolled back to is left alone, but never until it ends.
    let held = held.map(|held| urgent_from.map_or(held, |urgent| held.min(urgent)));
    let renewal = served.values().map(|published| published.renewal_moment(now)).min();
    let renewal = renewal.map(|moment| held.map_or(moment, |held| moment.max(held)));
    let deadline = served.values().map(deadline).min();
    let rejoin = cut.values().filter_map(|cut| cut.next).min();
    let place = match (renewal, rejoin) {
        (renewal, Some(rejoin)) if renewal.is_none_or(|renewal| rejoin < renewal) => {
            Place { class: Class::Retry, moment: rejoin, deadline: rejoin, urgent_from, renewal }
        }
        (Some(renewal), _) => Place {
            class: Class::Renewal,
            moment: renewal,
            deadline: deadline.unwrap_or(renewal),
            urgent_from,
            renewal: Some(renewal),
        },
        (None, _) => return None,
    };
    let ask = served.values().filter_map(|published| published.plan.as_ref()?.ask).min();
    Some(match ask {
        Some(ask) if ask < place.moment => {
            Place { class: Class::Check, moment: ask, deadline: ask, urgent_from, renewal }
        }
        _ => place,
    })
}

/// From when on a renewal can't wait.
pub(super) fn urgent(served: &BTreeMap<Slot, Published>) -> Option<Timestamp> {
    served.values().map(|published| urgent_from(published.life_begin(), published.leaf.not_after)).min()
}

/// By when a renewal should be done: within the CA's window it is spared the limits.
fn deadline(published: &Published) -> Timestamp {
    let end = published.plan.as_ref().filter(|plan| plan.heard.is_some()).map(|plan| plan.window.end);
    end.unwrap_or(published.leaf.not_after).min(published.leaf.not_after)
}

async fn ask(oracle: Oracle<'_>, published: &Published) -> Said {
    let client = match oracle {
        Oracle::Ca(client) => client,
        Oracle::Later => return Said::Later { again: None, passing: true },
        Oracle::Nobody => return Said::Nothing,
    };
    let Some(name) = published.name_at_ca() else { return Said::Nothing };
    let error = match client.renewal_info(&name).await {
        Ok(answer) => {
            let window = RenewalWindow { start: answer.value.start, end: answer.value.end };
            let explanation_url = answer.value.explanation_url;
            return Said::Window { window, explanation_url, again: answer.retry_after };
        }
        Err(RequestError::NotOffered { .. }) => return Said::Nothing,
        Err(error) => error,
    };
    tracing::debug!(
        error = shared::error::chain(&error),
        serial = published.leaf.serial,
        "no renewal information"
    );
    let passing = match error.status() {
        Some(status) => status >= 500 || status == 429 || error.is_of_the_way(),
        None => matches!(error, RequestError::Transport { .. }),
    };
    Said::Later { again: error.retry_after(), passing }
}

/// When the CA is asked again, and how many questions in a row it has not answered.
fn next_question(said: &Said, now: Timestamp, tries: u8) -> (Option<Timestamp>, u8) {
    let wished = |again: Option<Duration>| again.and_then(|again| SignedDuration::try_from(again).ok());
    let (pause, tries) = match said {
        Said::Window { again, .. } => (wished(*again).unwrap_or(LONG).clamp(SHORTEST, LONGEST), 0),
        Said::Nothing => return (None, 0),
        Said::Later { again, passing } => match PAUSES_MIN.get(usize::from(tries)).filter(|_| *passing) {
            Some(minutes) => {
                // Many were not answered at one moment: they do not come back at one.
                let own = SignedDuration::from_mins(*minutes).mul_f64(1.0 + draw() / 2.0);
                (wished(*again).unwrap_or(own).clamp(own, LONGEST), tries + 1)
            }
            None => (LONG, 0),
        },
    };
    let moment = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
    (Timestamp::from_second(moment.as_second()).ok(), tries)
}

fn soonest(published: &Published) -> Timestamp {
    // One that lives for minutes only is not asked for every few seconds.
    let left = published.leaf.not_after.duration_since(published.issued).max(SignedDuration::ZERO);
    let pause = (published.lifetime() / SOONEST).max((left / 3).min(SHORT_PAUSE));
    published.issued.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// A moment within the window, by how full the hours are. The same certificate and the same window give the same draws.
async fn drawn(
    store: &Store,
    site: &SiteId,
    published: &Published,
    window: RenewalWindow,
    occasion: Occasion,
    from: Timestamp,
) -> Result<RenewalPlan, StoreError> {
    let lifetime = published.lifetime();
    let seed = published.id.seed() ^ window.start.as_second().unsigned_abs().rotate_left(32);
    let candidates = candidates(window, lifetime, occasion, from, seed);
    let hours: Vec<i64> = candidates.hours().collect();
    let planned = store.renewals_in(site.partition(), &hours).await?;
    let chosen = candidates.choose(&planned.per_hour, planned.groups);
    let mut plan = RenewalPlan::new(&published.id, window, chosen.moment);
    plan.early = chosen.early;
    Ok(plan)
}
