//! Mails: what happened since the last one, summed up. Every reader is a receiver of its own, so that an address that is refused
//! keeps nothing from the others.

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
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentType, MIME_VERSION_1_0},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use serde::{Deserialize, Serialize};
use shared::{
    config::Notify,
    domain::{Event, EventKind},
    store::{EventCursor, StoreError},
};
use std::{
    collections::HashSet,
    time::{Duration, Instant},
};
use url::{Host, Url};

/// Sites that are named as still failing.
const STILL: usize = 20;

/// One reader of `notify.to`.
#[derive(Clone)]
pub(super) struct Mail {
    server: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    to: Mailbox,
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
    /// Not the server is in trouble: it takes others.
    #[error("the mail server refuses this mail for good")]
    Refused(#[source] lettre::transport::smtp::Error),
}

impl Mail {
    pub(super) fn of(config: &Notify, pace: &Pace) -> Result<Vec<Self>, SetupError> {
        let (Some(url), Some(from)) = (&config.smtp_url, &config.from) else { return Ok(Vec::new()) };
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = match host.trim() {
            "" => "localhost".to_owned(),
            name => name.to_owned(),
        };
        let (server, from) = (server(url, config, pace, &host)?, mailbox("from", from)?);
        let pause = SignedDuration::try_from(config.digest.length()).unwrap_or(SignedDuration::MAX);
        let reader = |address: &String| {
            let (server, from, host) = (server.clone(), from.clone(), host.clone());
            let to = mailbox("to", address)?;
            Ok(Self { server, from, to, pause, host, state: None, next_attempt: None })
        };
        let mut readers: Vec<Self> = config.to.iter().map(reader).collect::<Result<_, SetupError>>()?;
        // One that is named twice is one.
        let mut known = HashSet::new();
        readers.retain(|one| known.insert(one.receiver()));
        Ok(readers)
    }

    /// Its name as a receiver.
    pub(super) fn receiver(&self) -> String {
        format!("mail {}", self.to.email)
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
            // Another mail about a mail that was refused would be refused as well.
            let is_of_a_mail = stored.event.kind == EventKind::NotificationRefused;
            if !is_of_a_mail && memory.judge(&stored.event, &Wanted::EVERYTHING) {
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
        let (sites, records) = desk.store.sample_told(&desk.receiver, STILL).await?;
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
        let message = Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .message_id(Some(format!("<{}@{domain}>", mail.id)))
            .date(std::time::SystemTime::from(mail.at))
            .subject(&mail.subject)
            .header(MIME_VERSION_1_0)
            .header(ContentType::TEXT_PLAIN);
        let message = message.body(mail.body.clone()).map_err(NotSent::Written)?;
        let sending = async {
            let Err(error) = self.server.send(message).await else { return Ok(()) };
            // A server that lets nobody in refuses in the same words as one that takes everything but this.
            let is_of_this = error.is_permanent() && self.server.test_connection().await.is_ok();
            Err(if is_of_this { NotSent::Refused(error) } else { NotSent::Server(error) })
        };
        let patience = pace.mail_timeout * 2;
        tokio::time::timeout(patience, sending).await.unwrap_or(Err(NotSent::Timeout(patience)))
    }

    /// Says by every other way that a mail did not get through.
    async fn tell_of_refusal(&self, desk: &Desk, refusal: &NotSent) -> Result<(), StoreError> {
        let why = shared::error::chain(refusal);
        tracing::error!(to = %self.to.email, error = why, "a mail was refused for good and is given up");
        let what = format!("A mail to {} was given up: {why}.", self.to.email);
        let event = Event::new(EventKind::NotificationRefused, Timestamp::now(), what)
            .remedy("look at notify.to, notify.from and at the mail server's log".to_owned());
        desk.store.append_event(&event).await.map(drop)
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
            Err(error @ (NotSent::Refused(_) | NotSent::Written(_))) => {
                self.tell_of_refusal(desk, &error).await?;
                self.next_attempt = None;
                state.outgoing = None;
            }
            Err(error) => {
                mail.attempts += 1;
                let pause = desk.pace.retry(mail.attempts);
                let error = shared::error::chain(&error);
                tracing::warn!(
                    to = %self.to.email,
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

/// An address as mail servers take it without an extension: the domain as A-labels. What stands before the `@` can't be
/// written so.
fn mailbox(key: &'static str, address: &str) -> Result<Mailbox, SetupError> {
    let unusable = |source| SetupError::Address { key, address: address.to_owned(), source };
    let mailbox: Mailbox = address.parse().map_err(unusable)?;
    if !mailbox.email.user().is_ascii() {
        return Err(SetupError::LocalPart { key, address: address.to_owned() });
    }
    let domain = mailbox.email.domain();
    let domain = match Host::parse(domain) {
        Ok(Host::Domain(ascii)) => ascii,
        _ if domain.is_ascii() => domain.to_owned(),
        _ => return Err(unusable(lettre::address::AddressError::InvalidDomain)),
    };
    let email = Address::new(mailbox.email.user(), domain).map_err(unusable)?;
    Ok(Mailbox { email, ..mailbox })
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
    fn a_domain_is_written_as_servers_take_it() {
        let mailbox = |text| mailbox("to", text);
        assert_eq!(mailbox("Ops <ops@b\u{fc}cher.example>").unwrap().email.domain(), "xn--bcher-kva.example");
        assert!(mailbox("\u{fc}@example.com").is_err() && mailbox("nobody").is_err());
    }

    #[test]
    fn mails_keep_their_pause_and_what_is_critical_does_not_wait() {
        let text =
            "[notify]\nsmtp_url = \"smtp://127.0.0.1\"\nfrom = \"a@b.example\"\nto = [\"c@d.example\"]\n";
        let config = shared::config::Config::parse(text, std::path::Path::new("x"), &[]).unwrap().notify;
        let pace = Pace::default();
        let mail = Mail::of(&config, &pace).unwrap().remove(0);
        let at = |minute: i64| Timestamp::from_second(1_764_000_000 + minute * 60).unwrap();
        let state = |critical, written| {
            let mut state = State::at(EventCursor::default());
            state.digest.opened = Some(at(10));
            state.digest.critical = critical;
            state.written = written;
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
