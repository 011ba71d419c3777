//! Looking at what the CA has made of an order, and why it failed.

use super::{patience::ask, steps::Work, verdict::Verdict};
use crate::acme::{self, Authorization, AuthorizationStatus, OrderStatus, RequestError};
use jiff::Timestamp;
use shared::domain::DnsName;
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Requests of one order that are sent at once, at most.
const AT_ONCE: usize = 8;
/// How long the CA may take to make up its mind before the order is left for the next run.
const VALIDATION_DEADLINE: Duration = Duration::from_secs(600);
/// How long the names of a failed order are waited for that the CA is still looking at: about as long as it looks.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What the CA says an order has come to.
pub(super) enum Look {
    Ready,
    Valid {
        certificate_url: String,
    },
    /// It expired, or the CA forgot it.
    Gone,
}

impl Work<'_> {
    pub(super) async fn authorizations(
        &self,
        urls: &[String],
    ) -> Result<Vec<(String, Authorization)>, RequestError> {
        at_once(urls.to_vec(), &self.account, |account, url| async move {
            let answer = ask(|| account.fetch_authorization(&url)).await?;
            Ok((url, answer.value))
        })
        .await
    }

    /// One look at the order; `None` while the CA has not made up its mind.
    pub(super) async fn look(&self, order_url: &str) -> Result<Option<Look>, Verdict> {
        let order = match ask(|| self.account.fetch_order(order_url)).await {
            Err(error) if error.is_gone() => return Ok(Some(Look::Gone)),
            answer => answer.map_err(|error| refused(error).keeping_the_order())?.value,
        };
        Ok(match order.status {
            OrderStatus::Ready => Some(Look::Ready),
            OrderStatus::Valid => Some(Look::Valid {
                certificate_url: order
                    .certificate
                    .ok_or_else(|| Verdict::bug("a valid order without a certificate"))?,
            }),
            OrderStatus::Invalid
                if order.error.is_none() && order.expires.is_some_and(|end| end < Timestamp::now()) =>
            {
                Some(Look::Gone)
            }
            OrderStatus::Invalid => return Err(self.reason(&order).await),
            OrderStatus::Pending | OrderStatus::Processing | OrderStatus::Unknown => None,
        })
    }

    /// Looks at the order until it has left the states that `waits` names, no oftener than the CA wishes; `asked` is what
    /// it has wished for already.
    pub(super) async fn watch(
        &self,
        order_url: &str,
        pace: &super::pace::Pace,
        mut asked: Option<Duration>,
        waits: impl Fn(OrderStatus) -> bool,
    ) -> Result<Look, Verdict> {
        let deadline = Instant::now() + VALIDATION_DEADLINE;
        let wait = pace.begin();
        for look in 0.. {
            tokio::time::sleep(wait.pause(look, asked)).await;
            let answer = match ask(|| self.account.fetch_order(order_url)).await {
                Err(error) if error.is_gone() => return Ok(Look::Gone),
                answer => answer.map_err(|error| refused(error).keeping_the_order())?,
            };
            let order = answer.value;
            let done = !waits(order.status);
            if look == 0 && asked.is_none() {
                wait.learn(done);
            }
            asked = answer.retry_after;
            if done {
                return match order.status {
                    OrderStatus::Invalid => Err(self.reason(&order).await),
                    OrderStatus::Valid => {
                        Ok(Look::Valid { certificate_url: order.certificate.unwrap_or_default() })
                    }
                    _ => Ok(Look::Ready),
                };
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(Verdict::new(
            shared::error::Fault::Ca,
            shared::domain::FailureClass::Ca,
            format!("the CA has not made up its mind within {} s", VALIDATION_DEADLINE.as_secs()),
            "wait: the next run goes on with the same order",
        )
        .keeping_the_order())
    }

    /// Why an order failed: its challenges know more than the order itself.
    async fn reason(&self, order: &acme::Order) -> Verdict {
        match self.settled_authorizations(&order.authorizations).await {
            Ok(authorizations)
                if authorizations.iter().any(|(_, authorization)| authorization.problem().is_some()) =>
            {
                self.failed(&authorizations)
            }
            _ => match &order.error {
                Some(problem) => Verdict::from_failed_order(problem),
                None => Verdict::new(
                    shared::error::Fault::Ca,
                    shared::domain::FailureClass::Ca,
                    "the order failed: the CA does not say why",
                    "the next run places a new order",
                ),
            },
        }
    }

    /// The authorizations of an order that has failed, once the CA has looked at every name: the first that fails spoils
    /// the order, and the others are still being looked at.
    async fn settled_authorizations(
        &self,
        urls: &[String],
    ) -> Result<Vec<(String, Authorization)>, RequestError> {
        let mut pause = FIRST_PAUSE;
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            let authorizations = self.authorizations(urls).await?;
            let undecided = authorizations.iter().any(|(_, authorization)| {
                authorization.status == AuthorizationStatus::Pending && authorization.problem().is_none()
            });
            if !undecided || urls.len() < 2 || Instant::now() >= deadline {
                return Ok(authorizations);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// The verdict on authorizations, at least one of which has a problem.
    pub(super) fn failed(&self, authorizations: &[(String, Authorization)]) -> Verdict {
        let culprits: Vec<(DnsName, Verdict)> = authorizations
            .iter()
            .filter_map(|(_, authorization)| {
                let problem = authorization.problem()?;
                let name = name_of(authorization).ok()?;
                let verdict = Verdict::from_validation(&name, problem);
                let by_record = authorization.challenges.iter().any(|challenge| {
                    challenge.kind.as_str().starts_with("dns-") && challenge.error.is_some()
                });
                let verdict = if by_record { verdict.of_a_record(&name) } else { verdict };
                Some((name, verdict))
            })
            .collect();
        let failed_validations = culprits.iter().map(|(name, _)| name.clone()).collect();
        let verdict = Verdict::of_culprits(culprits)
            .unwrap_or_else(|| Verdict::bug("an authorization failed without a problem"));
        Verdict { failed_validations, ..verdict }
    }
}

/// Runs a request for each URL, as many at a time as there are nonces, and keeps their order. The first error ends it.
pub(super) async fn at_once<T, F>(
    urls: Vec<String>,
    account: &acme::Account,
    request: impl Fn(acme::Account, String) -> F,
) -> Result<Vec<T>, RequestError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RequestError>> + Send + 'static,
{
    let mut answers: Vec<Option<T>> = urls.iter().map(|_| None).collect();
    let mut waiting = urls.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        // A nonce that nobody needs is a request for free; more than there are would each cost another to fetch one.
        let free = account.client().spare_nonces().max(usize::from(running.is_empty()));
        for (place, url) in waiting.by_ref().take(free.min(AT_ONCE - running.len())) {
            let answer = request(account.clone(), url);
            running.spawn(async move { (place, answer.await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((place, answer))) => answers[place] = Some(answer?),
            Some(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

pub(super) fn refused(error: RequestError) -> Verdict {
    Verdict::from_request(&error)
}

/// The name as it was ordered: an authorization leaves out what makes it a wildcard (RFC 8555 section 7.1.4).
pub(super) fn name_of(authorization: &Authorization) -> Result<DnsName, Verdict> {
    let value = &authorization.identifier.value;
    let is_bare = authorization.wildcard && !value.starts_with("*.");
    let value = if is_bare { format!("*.{value}") } else { value.clone() };
    DnsName::parse_identifier(&value).map_err(|e| {
        Verdict::bug(format!("the CA sent an authorization for a name that was not ordered: {e}"))
    })
}
