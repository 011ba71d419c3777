//! The webhook: batches of events as signed JSON.

use super::{
    Pace, SetupError,
    desk::{Desk, Receiver, STATE_VERSION},
    message::Window,
    repeats::{Memory, Wanted},
    setup_error::read_secret,
    sign,
};
use jiff::{SignedDuration, Timestamp};
use openssl::x509::X509;
use reqwest::{Certificate, Client, header, redirect::Policy};
use serde::{Deserialize, Serialize};
use shared::{
    config::Notify,
    digest::hex,
    store::{EventCursor, StoreError, ToldChange},
    text::to_document,
};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

const USER_AGENT: &str = concat!("signpost/", env!("CARGO_PKG_VERSION"));

/// The receiver at `notify.webhook_url`.
#[derive(Clone)]
pub(super) struct Webhook {
    http: Client,
    url: String,
    secret: Zeroizing<String>,
    wanted: Wanted,
    state: Option<State>,
    gathering: Option<Gathering>,
}

/// How far the receiver has been told.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    v: u32,
    cursor: EventCursor,
    message: Option<OnTheWay>,
}

/// A message that was begun: everything from the cursor up to here, under this id until it is delivered.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OnTheWay {
    id: String,
    until: EventCursor,
    since: Timestamp,
    attempts: u32,
}

/// Warnings that wait for more of their kind.
#[derive(Clone, Copy)]
struct Gathering {
    since: Instant,
    grown: Instant,
    warnings: u64,
}

/// What was read for one message.
struct Draft {
    window: Window,
    until: EventCursor,
    told: Vec<ToldChange>,
}

#[derive(Debug, thiserror::Error)]
enum NotDelivered {
    #[error("it answered with {0}")]
    Status(u16),
    #[error("it can't be reached")]
    Transport(#[source] reqwest::Error),
    #[error("the message can't be signed")]
    Signature(#[source] openssl::error::ErrorStack),
}

impl Webhook {
    pub(super) fn of(config: &Notify, pace: &Pace) -> Result<Option<Self>, SetupError> {
        let (Some(url), Some(secret_file)) = (&config.webhook_url, &config.webhook_secret_file) else {
            return Ok(None);
        };
        let roots = config.webhook_roots_file.as_deref().map(read_roots).transpose()?.unwrap_or_default();
        let http = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .referer(false)
            .timeout(pace.webhook_timeout)
            .tls_certs_merge(roots)
            .build()
            .map_err(SetupError::Client)?;
        Ok(Some(Self {
            http,
            url: url.clone(),
            secret: Zeroizing::new(read_secret("webhook_secret_file", secret_file)?),
            wanted: Wanted { kinds: config.webhook_kinds.clone(), least: config.webhook_min_severity.0 },
            state: None,
            gathering: None,
        }))
    }

    /// Everything after `from`, up to `until` or as much as one message has room for.
    async fn draft(
        &self,
        desk: &Desk,
        from: &EventCursor,
        until: Option<&EventCursor>,
    ) -> Result<Draft, StoreError> {
        let mut window = Window::default();
        let mut memory = Memory::default();
        let mut cursor = from.clone();
        'pages: loop {
            let page = desk.page(&cursor).await?;
            window.lose(&page.lost);
            desk.recall(&mut memory, &page.events).await?;
            let mut came_on = false;
            for stored in page.events {
                if until.is_some_and(|until| !until.is_past(stored.id)) {
                    continue;
                }
                came_on = true;
                cursor.advance_to(stored.id);
                if memory.judge(&stored.event, &self.wanted) {
                    window.add(stored);
                } else {
                    window.skip();
                }
                if until.is_none() && window.is_full() {
                    break 'pages;
                }
            }
            if until.is_none() {
                cursor = page.cursor;
            }
            if !page.more || (until.is_some() && !came_on) {
                break;
            }
        }
        let until = until.cloned().unwrap_or(cursor);
        Ok(Draft { window, until, told: memory.changes() })
    }

    /// Whether more warnings are likely to follow, so that all of them are one message.
    fn waits_for_more(&mut self, window: &Window, pace: &Pace) -> bool {
        if window.warnings() == 0 || window.is_critical() || window.is_full() {
            self.gathering = None;
            return false;
        }
        let now = Instant::now();
        let gathering =
            self.gathering.get_or_insert(Gathering { since: now, grown: now, warnings: window.warnings() });
        if window.warnings() != gathering.warnings {
            gathering.grown = now;
            gathering.warnings = window.warnings();
        }
        let waits = gathering.grown.elapsed() < pace.quiet && gathering.since.elapsed() < pace.gather;
        if !waits {
            self.gathering = None;
        }
        waits
    }

    async fn post(&self, id: &str, window: &Window) -> Result<(), NotDelivered> {
        let sent = Timestamp::now();
        let body = serde_json::to_vec(&to_document(&window.body(id, sent))).expect("events are plain data");
        let signature =
            sign(self.secret.as_bytes(), sent.as_second(), &body).map_err(NotDelivered::Signature)?;
        let request = self
            .http
            .post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .header("Signpost-Signature", signature)
            .header("Signpost-Id", id)
            .body(body);
        let answer = request.send().await.map_err(|e| NotDelivered::Transport(e.without_url()))?;
        let status = answer.status();
        if status.is_success() { Ok(()) } else { Err(NotDelivered::Status(status.as_u16())) }
    }

    /// Sends the message that is on its way, and writes how that went.
    async fn deliver(
        &self,
        state: &mut State,
        message: OnTheWay,
        draft: Draft,
        desk: &Desk,
    ) -> Result<Duration, StoreError> {
        let delivered = if draft.window.is_empty() {
            Ok(())
        } else {
            desk.confirm().await?;
            self.post(&message.id, &draft.window).await
        };
        let Err(error) = delivered else {
            *state = State::at(message.until);
            desk.commit(state, &draft.told).await?;
            return Ok(Duration::ZERO);
        };
        let error = shared::error::chain(&error);
        let attempts = message.attempts + 1;
        let tried = Timestamp::now().duration_since(message.since);
        if tried >= SignedDuration::try_from(desk.pace.give_up).unwrap_or(SignedDuration::MAX) {
            tracing::error!(
                id = message.id,
                attempts,
                error,
                "the webhook's receiver was not reached for too long: this message is dropped"
            );
            *state = State::at(message.until);
            desk.commit(state, &[]).await?;
            return Ok(Duration::ZERO);
        }
        let pause = desk.pace.retry(attempts);
        tracing::warn!(
            id = message.id,
            attempts,
            again_s = pause.as_secs(),
            error,
            "the webhook's receiver did not take the message"
        );
        state.message = Some(OnTheWay { attempts, ..message });
        desk.commit(state, &[]).await?;
        Ok(pause)
    }

    async fn advance(&mut self, state: &mut State, desk: &Desk) -> Result<Duration, StoreError> {
        if let Some(message) = state.message.clone() {
            let draft = self.draft(desk, &state.cursor, Some(&message.until)).await?;
            return self.deliver(state, message, draft, desk).await;
        }
        let draft = self.draft(desk, &state.cursor, None).await?;
        if draft.until == state.cursor {
            return Ok(desk.pace.poll);
        }
        if draft.window.is_empty() {
            *state = State::at(draft.until);
            desk.commit(state, &draft.told).await?;
            return Ok(desk.pace.poll);
        }
        if self.waits_for_more(&draft.window, &desk.pace) {
            return Ok(desk.pace.poll);
        }
        let message =
            OnTheWay { id: new_id(), until: draft.until.clone(), since: Timestamp::now(), attempts: 0 };
        state.message = Some(message.clone());
        desk.commit(state, &[]).await?;
        self.deliver(state, message, draft, desk).await
    }
}

impl Receiver for Webhook {
    async fn step(&mut self, desk: &Desk) -> Result<Duration, StoreError> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => match desk.load().await? {
                Some(state) => state,
                None => {
                    let state = State::at(desk.store.events_now().await?);
                    desk.commit(&state, &[]).await?;
                    state
                }
            },
        };
        let pause = self.advance(&mut state, desk).await?;
        self.state = Some(state);
        Ok(pause)
    }

    fn forget(&mut self) {
        self.state = None;
    }
}

impl State {
    fn at(cursor: EventCursor) -> Self {
        Self { v: STATE_VERSION, cursor, message: None }
    }
}

/// A name for one message, the same for every attempt to deliver it.
pub(super) fn new_id() -> String {
    let mut random = [0; 16];
    openssl::rand::rand_bytes(&mut random)
        .expect("the system's random generator works, or no key could be made");
    hex(&random)
}

fn read_roots(path: &Path) -> Result<Vec<Certificate>, SetupError> {
    let key = "webhook_roots_file";
    let pem =
        std::fs::read(path).map_err(|source| SetupError::Unreadable { key, path: path.into(), source })?;
    let roots = |source: Box<dyn std::error::Error + Send + Sync>| SetupError::Roots {
        key,
        path: path.into(),
        source,
    };
    let parsed = X509::stack_from_pem(&pem).map_err(|e| roots(e.into()))?;
    if parsed.is_empty() {
        return Err(SetupError::Empty { key, path: path.into() });
    }
    let of = |root: &X509| {
        Certificate::from_der(&root.to_der().map_err(|e| roots(e.into()))?).map_err(|e| roots(e.into()))
    };
    parsed.iter().map(of).collect()
}
