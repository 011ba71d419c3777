//! The answer for a request: from the cache where it is fresh, else from the store, else from the cache again.

use super::{
    cache::{Cache, Cached},
    path::Paths,
};
use actix_web::web::Bytes;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use shared::{domain::Token, error::chain, store::Store};
use std::time::{Duration, Instant};

/// How long the store may take to confirm what was answered before. The CA gives up after ten seconds.
const CONFIRM_WITHIN: Duration = Duration::from_millis(500);

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200 with exactly this.
    Known(Bytes),
    /// The same, though the store could not be asked.
    Stale(Bytes),
    /// 404: a well-formed token that the store does not have.
    Unknown,
    /// 404: no `GET` or `HEAD` of a token's path.
    Malformed,
    /// 503: nobody knows.
    StoreError,
}

/// An answer at once, or a question for the store.
pub(crate) enum Decision {
    Done(Answer),
    Ask(Question),
}

/// A token that the store has to be asked for.
pub(crate) struct Question {
    token: Token,
    /// What was answered before.
    old: Option<Bytes>,
}

/// Everything that an answer depends on; shared by all workers.
pub(crate) struct Answers {
    paths: Paths,
    cache: Cache,
    store: Store,
    counters: Counters,
}

struct Counters {
    known: Counter,
    stale: Counter,
    unknown: Counter,
    malformed: Counter,
    store_error: Counter,
}

impl Answers {
    pub(crate) fn new(paths: Paths, fresh_for: Duration, store: Store, registry: &mut Registry) -> Self {
        Self { paths, cache: Cache::new(fresh_for), store, counters: Counters::new(registry) }
    }

    /// How many answers the cache holds.
    pub(crate) fn cached(&self) -> usize {
        self.cache.len()
    }

    /// Decides without waiting. `reads` says whether the method is `GET` or `HEAD`.
    pub(crate) fn decide(&self, reads: bool, path: &str) -> Decision {
        let Some(token) = self.paths.token_in(path).filter(|_| reads) else {
            return Decision::Done(self.count(Answer::Malformed));
        };
        let old = match self.cache.find(token, Instant::now()) {
            Cached::Fresh(answer) => return Decision::Done(self.count(Answer::Known(answer))),
            // The watchdog asks every second: nobody has to wait for what it knows.
            Cached::Old(answer) if !self.store.is_healthy() => {
                return Decision::Done(self.count(Answer::Stale(answer)));
            }
            Cached::Old(answer) => Some(answer),
            Cached::Unknown => None,
        };
        let token = Token::parse(token).expect("a path yields well-formed tokens only");
        Decision::Ask(Question { token, old })
    }

    /// Asks the store.
    pub(crate) async fn ask(&self, question: Question) -> Answer {
        let Question { token, old } = question;
        let load = self.store.load_key_authorization(&token);
        let found = match &old {
            None => load.await.map_err(|error| chain(&error)),
            Some(_) => match tokio::time::timeout(CONFIRM_WITHIN, load).await {
                Ok(found) => found.map_err(|error| chain(&error)),
                Err(_) => Err(format!("no answer within {} ms", CONFIRM_WITHIN.as_millis())),
            },
        };
        self.count(match (found, old) {
            (Ok(Some(found)), _) => {
                let answer = Bytes::copy_from_slice(found.as_str().as_bytes());
                self.cache.remember(token.as_str(), &answer, Instant::now());
                Answer::Known(answer)
            }
            (Ok(None), _) => {
                self.cache.forget(token.as_str());
                Answer::Unknown
            }
            (Err(_), Some(old)) => Answer::Stale(old),
            (Err(error), None) => {
                // The watchdog has said it aloud; one line for each request would be the attacker's to write.
                tracing::debug!(error, "a token can't be looked up");
                Answer::StoreError
            }
        })
    }

    fn count(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Known(_) => &self.counters.known,
            Answer::Stale(_) => &self.counters.stale,
            Answer::Unknown => &self.counters.unknown,
            Answer::Malformed => &self.counters.malformed,
            Answer::StoreError => &self.counters.store_error,
        }
        .inc();
        answer
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "the names of the values of a label")]
enum Outcome {
    known,
    stale,
    unknown,
    malformed,
    store_error,
}

impl Counters {
    /// Resolved once: a request adds to an atomic number and looks nothing up.
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels, Counter>::default();
        registry.register(
            "challenge_answers",
            "Requests on the challenge port by what became of them",
            family.clone(),
        );
        let of = |outcome| family.get_or_create(&Labels { outcome }).clone();
        Self {
            known: of(Outcome::known),
            stale: of(Outcome::stale),
            unknown: of(Outcome::unknown),
            malformed: of(Outcome::malformed),
            store_error: of(Outcome::store_error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::{config::StoreSection, store::Role};

    const TOKEN: &str = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
    const PATH: &str = "/.well-known/acme-challenge/evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";

    /// Nobody listens on port 1 of loopback.
    async fn without_a_store() -> Answers {
        let section = StoreSection { url: Some("redis://127.0.0.1:1/".into()), ..StoreSection::default() };
        let store = Store::open(&section, Role::Challenge).await.unwrap();
        Answers::new(Paths::new(None), Duration::ZERO, store, &mut Registry::default())
    }

    async fn answer(answers: &Answers, reads: bool, path: &str) -> Answer {
        match answers.decide(reads, path) {
            Decision::Done(answer) => answer,
            Decision::Ask(question) => answers.ask(question).await,
        }
    }

    #[tokio::test]
    async fn without_the_store_seen_tokens_are_answered_and_others_are_not_denied() {
        let answers = without_a_store().await;
        assert_eq!(answer(&answers, true, PATH).await, Answer::StoreError);
        let known = Bytes::from_static(b"key authorization");
        answers.cache.remember(TOKEN, &known, Instant::now());
        for _ in 0..2 {
            assert_eq!(answer(&answers, true, PATH).await, Answer::Stale(known.clone()));
        }
        assert!(
            matches!(answers.decide(true, PATH), Decision::Done(Answer::Stale(_))),
            "nobody waits for it"
        );
        assert_eq!(answers.counters.stale.get(), 3);
    }

    #[tokio::test]
    async fn what_is_no_token_is_refused_without_the_store() {
        let answers = without_a_store().await;
        for (reads, path) in [(false, PATH), (true, "/"), (true, "/.well-known/acme-challenge/..")] {
            assert!(matches!(answers.decide(reads, path), Decision::Done(Answer::Malformed)), "{path}");
        }
    }
}
