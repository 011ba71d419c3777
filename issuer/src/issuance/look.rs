//! Looking at what the CA has made of an order, and why it failed.

use super::{
    answers::{Answers, FailedProof, failed_names},
    steps::Work,
    verdict::{About, Verdict},
};
use crate::acme::{self, Answer, Authorization, AuthorizationStatus, OrderStatus, RequestError};
use jiff::Timestamp;
use shared::{
    domain::{DnsName, FailureClass, NameSet, PublishedToken},
    error::Fault,
};
use std::time::Duration;
use tokio::{task::JoinSet, time::Instant};

/// Requests of one order that are sent at once, at most.
const AT_ONCE: usize = 8;
/// How long the CA may take to make up its mind before the order is left for the next run.
const VALIDATION_DEADLINE: Duration = Duration::from_secs(600);
/// The same where a person wants another order unless this one comes to something.
const INSISTED_DEADLINE: Duration = Duration::from_secs(30);
/// How long a valid order may go without saying where its certificate is, before it is left for the next run.
const CERTIFICATE_DEADLINE: Duration = Duration::from_secs(60);
/// How long the names of a failed order are waited for that the CA is still looking at: about as long as it looks.
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Looks that find an order ready to be finalized although it was, before it is finalized again.
const MOST_READY: u32 = 5;

/// What the CA says an order has come to.
pub(super) enum Look {
    /// Something is still to be proved, at these authorizations.
    Pending(Vec<String>),
    Ready,
    /// The CA is at it, or has not said yet where the certificate is.
    Processing,
    Valid {
        certificate_url: String,
    },
    /// It expired, or the CA forgot it.
    Gone,
}

/// What is waited for.
pub(super) enum Until<'a> {
    /// The CA has seen these proofs.
    Proved(&'a [PublishedToken]),
    /// It has issued.
    Issued,
}

impl Until<'_> {
    /// Whether an order is watched on.
    fn waits(&self, order: &acme::Order) -> bool {
        match (self, order.status) {
            (_, OrderStatus::Unknown) | (Self::Proved(_), OrderStatus::Pending) => true,
            (Self::Issued, OrderStatus::Processing | OrderStatus::Ready) => true,
            (Self::Issued, OrderStatus::Valid) => !has_certificate(order),
            _ => false,
        }
    }
}

impl Work<'_> {
    pub(super) async fn authorizations(
        &self,
        urls: &[String],
    ) -> Result<Vec<(String, Authorization)>, RequestError> {
        let age = self.age();
        at_once(urls.to_vec(), &self.account, move |account, url| async move {
            let answer = age.ask(|| account.fetch_authorization(&url)).await?;
            Ok((url, answer.value))
        })
        .await
    }

    async fn fetch(&self, order_url: &str) -> Result<Answer<acme::Order>, RequestError> {
        let answer = self.age().ask(|| self.account.fetch_order(order_url)).await?;
        self.learn_finalize_url(&answer.value);
        Ok(answer)
    }

    /// One look at the order.
    pub(super) async fn look(&self, order_url: &str) -> Result<Look, Verdict> {
        let order = match self.fetch(order_url).await {
            Err(error) if error.is_gone() => return Ok(Look::Gone),
            answer => answer.map_err(|error| self.of_what_is_there(error))?.value,
        };
        self.found(order).await
    }

    async fn found(&self, order: acme::Order) -> Result<Look, Verdict> {
        Ok(match order.status {
            OrderStatus::Pending => Look::Pending(order.authorizations),
            OrderStatus::Ready => Look::Ready,
            OrderStatus::Valid => match order.certificate.filter(|url| !url.is_empty()) {
                Some(certificate_url) => Look::Valid { certificate_url },
                None => Look::Processing,
            },
            OrderStatus::Invalid
                if order.error.is_none() && order.expires.is_some_and(|end| end < Timestamp::now()) =>
            {
                Look::Gone
            }
            OrderStatus::Invalid => return Err(self.reason(&order).await),
            OrderStatus::Processing | OrderStatus::Unknown => Look::Processing,
        })
    }

    /// Looks at the order until it is what is waited for or can't become it, no oftener than the CA wishes; `asked` is what it has
    /// wished for already. `answered`: the CA has said that a proof failed.
    pub(super) async fn watch(
        &self,
        order_url: &str,
        pace: &super::pace::Pace,
        mut asked: Option<Duration>,
        until: Until<'_>,
        answered: bool,
    ) -> Result<Look, Verdict> {
        let longest = if self.insists { INSISTED_DEADLINE } else { VALIDATION_DEADLINE };
        let mut deadline = Instant::now() + longest;
        let wait = pace.begin();
        let mut answers = match &until {
            Until::Proved(tokens) => Answers::to(tokens),
            Until::Issued => Answers::to(&[]),
        };
        let mut ready = 0;
        let mut lacks_certificate = false;
        for look in 0.. {
            tokio::time::sleep(wait.pause(look, asked)).await;
            let answer = match self.fetch(order_url).await {
                Err(error) if error.is_gone() => return Ok(Look::Gone),
                answer => answer.map_err(|error| self.of_what_is_there(error))?,
            };
            let order = answer.value;
            let done = !until.waits(&order);
            if look == 0 && asked.is_none() {
                wait.learn(done);
            }
            asked = answer.retry_after;
            if done {
                return match order.status {
                    // Finalized by a run before; what matters here is that everything was proved.
                    OrderStatus::Valid if matches!(until, Until::Proved(_)) => Ok(Look::Ready),
                    _ => self.found(order).await,
                };
            }
            if order.status == OrderStatus::Valid && !lacks_certificate {
                lacks_certificate = true;
                deadline = deadline.min(Instant::now() + CERTIFICATE_DEADLINE.min(longest));
            }
            ready += u32::from(order.status == OrderStatus::Ready);
            if ready >= MOST_READY {
                return Ok(Look::Ready);
            }
            // Some CAs say what is wrong in the challenge alone, and leave the order as it was.
            if (look > 0 || answered)
                && let Some(verdict) = self.look_at_answers(&mut answers).await
            {
                return Err(verdict);
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        let what = if lacks_certificate {
            "the order is valid, and the CA does not say where its certificate is".to_owned()
        } else {
            format!("the CA has not made up its mind within {} s", longest.as_secs())
        };
        let remedy = "wait: the next run goes on with the same order";
        let verdict = Verdict::new(Fault::Ca, FailureClass::Ca, what, remedy).keeping_the_order();
        Err(if lacks_certificate { verdict.leading_nowhere() } else { verdict })
    }

    /// What the CA has said in the challenges that were answered, once it has said so of all that fail.
    async fn look_at_answers(&self, answers: &mut Answers) -> Option<Verdict> {
        let urls = answers.open.iter().map(|token| token.at.authorization_url.clone()).collect::<Vec<_>>();
        if urls.is_empty() {
            return None;
        }
        // The order is looked at all the same: it tells what these can't.
        let authorizations = self.authorizations(&urls).await.ok()?;
        answers.learn(&authorizations, Instant::now()).then(|| failed_names(&answers.failed))
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
                    Fault::Ca,
                    FailureClass::Ca,
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

    /// The verdict on a refusal at a URL that the CA has named for the order.
    pub(super) fn refused(&self, error: &RequestError) -> Verdict {
        self.laid_to_the_server(error, Verdict::from_request(error))
    }

    /// The verdict on a refusal of what the CA has made. It may come to its senses, for a few runs.
    pub(super) fn of_what_is_there(&self, error: RequestError) -> Verdict {
        let verdict = self.refused(&error).keeping_the_order();
        if error.is_final() { verdict.leading_nowhere() } else { verdict }
    }

    /// What a server says, or fails to say, that the CA names for one order alone is laid to that order.
    pub(super) fn laid_to_the_server(&self, error: &RequestError, verdict: Verdict) -> Verdict {
        match error.silent_url() {
            Some(url) if !self.account.names_the_server_of(url) => verdict.elsewhere(),
            _ => verdict,
        }
    }

    /// The verdict on authorizations, at least one of which has a problem.
    pub(super) fn failed(&self, authorizations: &[(String, Authorization)]) -> Verdict {
        let failed = authorizations.iter().filter_map(|(_, authorization)| {
            let failed = authorization.challenges.iter().find(|challenge| challenge.error.is_some())?;
            Some(FailedProof::of(name_of(authorization).ok()?, failed))
        });
        failed_names(&failed.collect::<Vec<_>>())
    }
}

/// Runs a request for each of them, as many at a time as there are nonces, and keeps their order. The first error ends it.
pub(super) async fn at_once<I, T, F>(
    items: Vec<I>,
    account: &acme::Account,
    request: impl Fn(acme::Account, I) -> F,
) -> Result<Vec<T>, RequestError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, RequestError>> + Send + 'static,
{
    let mut answers: Vec<Option<T>> = items.iter().map(|_| None).collect();
    let mut waiting = items.into_iter().enumerate();
    let mut running = JoinSet::new();
    loop {
        // A nonce that nobody needs is a request for free; more than there are would each cost another to fetch one.
        let free = account.client().spare_nonces().max(usize::from(running.is_empty()));
        for (place, item) in waiting.by_ref().take(free.min(AT_ONCE - running.len())) {
            let answer = request(account.clone(), item);
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

/// The name of each authorization of an order. One that can't be read is the one that no other is for.
pub(super) fn names_of(
    authorizations: &[(String, Authorization)],
    ordered: &NameSet,
) -> Result<Vec<DnsName>, Verdict> {
    let mut names = authorizations
        .iter()
        .map(|(_, authorization)| {
            authorization.identifier.as_ref().map(|_| name_of(authorization)).transpose()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let left: Vec<DnsName> =
        ordered.iter().filter(|name| !names.iter().flatten().any(|known| known == *name)).cloned().collect();
    if let [only] = left.as_slice()
        && names.iter().filter(|name| name.is_none()).count() == 1
    {
        names.iter_mut().filter(|name| name.is_none()).for_each(|name| *name = Some(only.clone()));
    }
    names.into_iter().map(|name| name.ok_or_else(nameless)).collect()
}

fn nameless() -> Verdict {
    Verdict::new(
        Fault::Ca,
        FailureClass::Ca,
        "the CA does not say which name an authorization of the order is for",
        "it is asked for again, and after a few tries ordered anew; if it repeats, ask the CA",
    )
    .about(About::Order)
    .keeping_the_order()
    .leading_nowhere()
}

/// The name as it was ordered: an authorization leaves out what makes it a wildcard (RFC 8555 section 7.1.4).
pub(super) fn name_of(authorization: &Authorization) -> Result<DnsName, Verdict> {
    let value = &authorization.identifier.as_ref().ok_or_else(nameless)?.value;
    let is_bare = authorization.wildcard && !value.starts_with("*.");
    let value = if is_bare { format!("*.{value}") } else { value.clone() };
    DnsName::parse_identifier(&value).map_err(|e| {
        Verdict::bug(format!("the CA sent an authorization for a name that was not ordered: {e}"))
    })
}

fn has_certificate(order: &acme::Order) -> bool {
    order.certificate.as_ref().is_some_and(|url| !url.is_empty())
}
