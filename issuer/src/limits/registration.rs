//! New accounts: a CA takes few of them from one address.

use super::{ASKING, refusal::which_limit, ticket::UNKNOWN_WAIT};
use crate::{acme::RequestError, ca::Ca, issuance::draw};
use jiff::Timestamp;
use shared::{
    domain::{Counted, LimitScope},
    store::{BucketUse, BucketWish, Claimant, LimitAnswer, LimitWish, Settled, Spending, Store, StoreError},
};
use std::time::Duration;

/// The right to ask for one new account.
pub(crate) struct Registration<'a> {
    store: &'a Store,
    ca: &'a Ca,
    request: String,
    wishes: Vec<BucketWish>,
    spending: Option<Spending>,
}

/// The CA would refuse it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the limit {limit:?} of {ca} is used up: ask again at {}", .turn.strftime("%F %T UTC"))]
pub struct TooManyAccounts {
    limit: String,
    ca: String,
    turn: Timestamp,
}

impl<'a> Registration<'a> {
    /// Asks for it, for the account of this name.
    ///
    /// # Errors
    /// [`StoreError`]; the inner one says when an account can be asked for.
    pub(crate) async fn ask(
        store: &'a Store,
        ca: &'a Ca,
        account: &str,
    ) -> Result<Result<Self, TooManyAccounts>, StoreError> {
        let of_address = |scope| matches!(scope, LimitScope::Address | LimitScope::Ipv6Range);
        let limits = ca.limits.limits.iter();
        let counted =
            limits.filter(|(_, limit)| limit.counts == Counted::Accounts && of_address(limit.scope));
        let wishes: Vec<BucketWish> = counted
            .map(|(name, limit)| BucketWish {
                bucket: format!("{name}:{}", ca.egress),
                rate: limit.rate(),
                usage: BucketUse::Spend,
                cost: 1,
                left: 0,
            })
            .collect();
        let request = format!("account/{account}");
        if wishes.is_empty() {
            return Ok(Ok(Self { store, ca, request, wishes, spending: None }));
        }
        let wish = LimitWish {
            order: &request,
            claimant: Claimant::Operator,
            promised: false,
            buckets: &wishes,
            asking: ASKING,
            open: ASKING,
            draw: draw(),
        };
        let answer = store.ask_limits(&ca.name, &wish, None).await?;
        Ok(match answer {
            LimitAnswer::Go(spending) => Ok(Self { store, ca, request, wishes, spending: Some(spending) }),
            LimitAnswer::Wait { turn, bucket, .. } => {
                let limit = bucket.split(':').next().unwrap_or_default().to_owned();
                Err(TooManyAccounts { limit, ca: ca.title.clone(), turn })
            }
        })
    }

    /// What the CA answered. One that exists already was not counted; what has no answer may have been.
    pub(crate) async fn answered(self, outcome: Result<bool, &RequestError>) {
        let limited = outcome.err().and_then(|error| which_limit(error, &self.ca.limits.limits));
        let is_counted = match outcome {
            Ok(created) => created,
            Err(error) => limited.is_none() && error.problem().is_none(),
        };
        let mut settled = Vec::new();
        for wish in &self.wishes {
            settled.push((wish.clone(), if is_counted { Settled::Answered } else { Settled::Refunded }));
            if let Some((limit, wait)) = &limited
                && limit.as_ref().is_none_or(|limit| wish.bucket.starts_with(&format!("{limit}:")))
            {
                settled.push((
                    wish.clone(),
                    Settled::Limited((*wait).max(Duration::from_secs(1)).min(UNKNOWN_WAIT * 24)),
                ));
            }
        }
        let written =
            self.store.settle_limits(&self.ca.name, &self.request, self.spending.as_ref(), &settled, None);
        if let Err(error) = written.await {
            tracing::warn!(error = shared::error::chain(&error), "the limits don't know of the new account");
        }
    }
}
