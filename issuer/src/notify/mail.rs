//! Mails: what happened since the last one, summed up.

use super::{
    Pace, SetupError,
    desk::{Desk, Receiver, STATE_VERSION},
    digest::{Digest, StillFailing},
    repeats::{Memory, Wanted},
    setup_error::read_secret,
    webhook::new_id,
};
use jiff::{SignedDuration, Timestamp};
use lettre::{
    AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use serde::{Deserialize, Serialize};
use shared::{
    config::Notify,
    store::{EventCursor, StoreError},
};
use std::time::{Duration, Instant};
use url::{Host, Url};

/// Sites that are named as still failing.
const STILL: usize = 20;

/// The readers at `notify.to`.
#[derive(Clone)]
pub(super) struct Mail {
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Vec<Mailbox>,
    /// The least pause between two mails.
    pause: SignedDuration,
    host: String,
    state: Option<State>,
    next_attempt: Option<Instant>,
}

/// What was read and not yet mailed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    v: u32,
    cursor: EventCursor,
    #[serde(default)]
    digest: Digest,
    #[serde(default)]
    outgoing: Option<Outgoing>,
    /// When the last mail was written.
    #[serde(default)]
    written: Option<Timestamp>,
}

/// A mail that was written: the same at every attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outgoing {
    id: String,
    at: Timestamp,
    subject: String,
    body: String,
    attempts: u32,
}

#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("the mail can't be written")]
    Written(#[source] lettre::error::Error),
    #[error("the mail server did not take it")]
    Server(#[source] lettre::transport::smtp::Error),
    #[error("the mail server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl Mail {
    pub(super) fn of(config: &Notify, pace: &Pace) -> Result<Option<Self>, SetupError> {
        let (Some(url), Some(from)) = (&config.smtp_url, &config.from) else { return Ok(None) };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "localhost".to_owned(),
            name => name.to_owned(),
        };
        Ok(Some(Self {
            server: server(url, config, pace, &host)?,
            from: mailbox("from", from)?,
            to: config.to.iter().map(|address| mailbox("to", address)).collect::<Result<_, _>>()?,
            pause: SignedDuration::try_from(config.digest.length()).unwrap_or(SignedDuration::MAX),
            host,
            state: None,
            next_attempt: None,
        }))
    }

    /// Takes what is new into the digest. It is in the store before it is mailed, so any number of events takes no room.
    async fn read(&self, state: &mut State, desk: &Desk) -> Result<bool, StoreError> {
        let page = desk.page(&state.cursor).await?;
        if page.cursor == state.cursor {
            return Ok(false);
        }
        let mut memory = Memory::default();
        desk.recall(&mut memory, &page.events).await?;
        let now = Timestamp::now();
        state.digest.lose(page.lost.len(), now);
        for stored in &page.events {
            if memory.judge(&stored.event, &Wanted::EVERYTHING) {
                state.digest.add(&stored.event, now);
            }
        }
        state.cursor = page.cursor;
        desk.commit(state, &memory.changes()).await?;
        Ok(page.more)
    }

    /// Whether the digest is to become a mail: what is critical within a minute, the rest after the pause.
    fn is_due(&self, state: &State, pace: &Pace, now: Timestamp) -> bool {
        let Some(opened) = state.digest.opened else { return false };
        let critical = SignedDuration::try_from(pace.critical).unwrap_or(SignedDuration::ZERO);
        let since_last = state.written.map_or(SignedDuration::MAX, |written| now.duration_since(written));
        let gathered = now.duration_since(opened);
        if state.digest.critical {
            // A third of a minute to gather what comes along with it.
            return since_last >= critical && gathered >= critical / 3;
        }
        since_last >= self.pause && gathered >= critical.min(self.pause)
    }

    async fn write(&self, state: &mut State, desk: &Desk) -> Result<(), StoreError> {
        let (sites, records) = desk.store.sample_told(desk.receiver, STILL).await?;
        let some = records.iter().filter_map(|record| serde_json::from_str(record).ok()).collect();
        let digest = std::mem::take(&mut state.digest);
        let text = digest.text(&StillFailing { sites, some }, &self.host);
        let at = Timestamp::now();
        state.outgoing =
            Some(Outgoing { id: new_id(), at, subject: text.subject, body: text.body, attempts: 0 });
        state.written = Some(at);
        desk.commit(state, &[]).await
    }

    async fn send(&self, mail: &Outgoing, pace: &Pace) -> Result<(), NotSent> {
        let domain = self.from.email.domain();
        let mut message = Message::builder()
            .from(self.from.clone())
            .message_id(Some(format!("<{}@{domain}>", mail.id)))
            .date(std::time::SystemTime::from(mail.at))
            .subject(&mail.subject)
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            message = message.to(to.clone());
        }
        let message = message.body(mail.body.clone()).map_err(NotSent::Written)?;
        let sending = tokio::time::timeout(pace.mail_timeout, self.server.send(message));
        match sending.await {
            Ok(sent) => sent.map(drop).map_err(NotSent::Server),
            Err(_) => Err(NotSent::Timeout(pace.mail_timeout)),
        }
    }

    async fn deliver(&mut self, state: &mut State, desk: &Desk) -> Result<(), StoreError> {
        let Some(mail) = &mut state.outgoing else { return Ok(()) };
        if self.next_attempt.is_some_and(|next| Instant::now() < next) {
            return Ok(());
        }
        desk.confirm().await?;
        match self.send(mail, &desk.pace).await {
            Ok(()) => {
                self.next_attempt = None;
                state.outgoing = None;
            }
            Err(error) => {
                mail.attempts += 1;
                let pause = desk.pace.retry(mail.attempts);
                let error = shared::error::chain(&error);
                tracing::warn!(
                    id = mail.id,
                    attempts = mail.attempts,
                    again_s = pause.as_secs(),
                    error,
                    "a mail could not be sent"
                );
                self.next_attempt = Some(Instant::now() + pause);
            }
        }
        desk.commit(state, &[]).await
    }
}

impl Receiver for Mail {
    const NAME: &'static str = "mail";

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
        let more = self.read(&mut state, desk).await?;
        if state.outgoing.is_none() && self.is_due(&state, &desk.pace, Timestamp::now()) {
            self.write(&mut state, desk).await?;
        }
        self.deliver(&mut state, desk).await?;
        self.state = Some(state);
        Ok(if more { Duration::ZERO } else { desk.pace.poll })
    }

    fn forget(&mut self) {
        self.state = None;
    }
}

impl State {
    fn at(cursor: EventCursor) -> Self {
        Self { v: STATE_VERSION, cursor, digest: Digest::default(), outgoing: None, written: None }
    }
}

fn mailbox(key: &'static str, address: &str) -> Result<Mailbox, SetupError> {
    address.parse().map_err(|source| SetupError::Address { key, address: address.to_owned(), source })
}

/// `smtps://` is TLS from the first byte. `smtp://` takes TLS where the server offers it, and must have it before a password
/// leaves this machine.
fn server(
    url: &str,
    config: &Notify,
    pace: &Pace,
    host: &str,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, SetupError> {
    let url = Url::parse(url).map_err(|_| SetupError::SmtpUrl)?;
    let name = url.host_str().ok_or(SetupError::SmtpUrl)?.trim_matches(['[', ']']);
    let mut tls = TlsParameters::builder(name.to_owned());
    if let Some(path) = &config.smtp_roots_file {
        let key = "smtp_roots_file";
        let pem = std::fs::read(path).map_err(|source| SetupError::Unreadable {
            key,
            path: path.clone(),
            source,
        })?;
        let root = Certificate::from_pem(&pem).map_err(|source| SetupError::Roots {
            key,
            path: path.clone(),
            source: source.into(),
        })?;
        tls = tls.add_root_certificate(root);
    }
    let tls = tls.build().map_err(SetupError::MailTls)?;
    let has_user = !url.username().is_empty();
    let (mode, port) = match url.scheme() {
        "smtps" => (Tls::Wrapper(tls), 465),
        _ if has_user && !is_loopback(&url) => (Tls::Required(tls), 587),
        _ => (Tls::Opportunistic(tls), 25),
    };
    let mut server = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(name)
        .port(url.port().unwrap_or(port))
        .tls(mode)
        .timeout(Some(pace.mail_timeout))
        .hello_name(ClientId::Domain(host.to_owned()));
    if let (true, Some(path)) = (has_user, &config.smtp_password_file) {
        let password = read_secret("smtp_password_file", path)?;
        let user = percent_decoded(url.username());
        server = server.credentials(Credentials::new(user, password));
    }
    Ok(server.build())
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback()),
        None => false,
    }
}

/// A user such as `me%40example.com`.
fn percent_decoded(text: &str) -> String {
    let query = text.replace('+', "%2B");
    let decoded = url::form_urlencoded::parse(query.as_bytes()).next();
    decoded.map_or_else(|| text.to_owned(), |(user, _)| user.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_may_be_an_address() {
        assert_eq!(percent_decoded("me%40example.com"), "me@example.com");
        assert_eq!(percent_decoded("me+you"), "me+you");
    }

    #[test]
    fn mails_keep_their_pause_and_what_is_critical_does_not_wait() {
        let text =
            "[notify]\nsmtp_url = \"smtp://127.0.0.1\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n";
        let config = shared::config::Config::parse(text, std::path::Path::new("x"), &[]).unwrap().notify;
        let pace = Pace::default();
        let mail = Mail::of(&config, &pace).unwrap().unwrap();
        let at = |minute: i64| Timestamp::from_second(1_764_000_000 + minute * 60).unwrap();
        let state = |critical, written| {
            let mut state = State { written, ..State::at(EventCursor::default()) };
            (state.digest.opened, state.digest.critical) = (Some(at(10)), critical);
            state
        };
        assert!(!mail.is_due(&State::at(EventCursor::default()), &pace, at(99)), "nothing new");
        assert!(!mail.is_due(&state(false, Some(at(0))), &pace, at(59)));
        assert!(mail.is_due(&state(false, Some(at(0))), &pace, at(60)));
        assert!(mail.is_due(&state(true, Some(at(0))), &pace, at(11)));
        assert!(
            !mail.is_due(&state(false, None), &pace, at(10))
                && mail.is_due(&state(false, None), &pace, at(11))
        );
    }
}
