//! What `[notify]` means beyond single values.

use super::Notify;
use crate::domain::Severity;
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A length of time as a person writes it: `30m`, `1h`, `1d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval {
    text: String,
    length: Duration,
}

/// The text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no length of time: write 30m, 1h or 1d")]
pub struct InvalidInterval(String);

/// The least severity that is told. Default: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeastSeverity(pub Severity);

impl Interval {
    /// # Errors
    /// [`InvalidInterval`]: nothing, less than nothing, or not a length of time at all.
    pub fn parse(text: &str) -> Result<Self, InvalidInterval> {
        let invalid = || InvalidInterval(text.to_owned());
        let span: Span = text.trim().parse().map_err(|_| invalid())?;
        let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| invalid())?;
        let length = Duration::try_from(length).map_err(|_| invalid())?;
        if length.is_zero() { Err(invalid()) } else { Ok(Self { text: text.to_owned(), length }) }
    }

    pub fn length(&self) -> Duration {
        self.length
    }
}

impl Default for Interval {
    fn default() -> Self {
        Self { text: "1h".to_owned(), length: Duration::from_secs(3600) }
    }
}

impl TryFrom<String> for Interval {
    type Error = InvalidInterval;
    fn try_from(text: String) -> Result<Self, InvalidInterval> {
        Self::parse(&text)
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.text
    }
}

impl Default for LeastSeverity {
    fn default() -> Self {
        Self(Severity::Info)
    }
}

impl Notify {
    /// What each value alone can't show: a key, and what is wrong about it.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut wrong =
            |key: &'static str, message: &str| found.push((key, format!("notify.{key}: {message}")));
        match &self.webhook_url {
            Some(url) => {
                if !matches!(url::Url::parse(url), Ok(url) if matches!(url.scheme(), "https" | "http")) {
                    wrong("webhook_url", "expected an https:// address");
                }
                if self.webhook_secret_file.is_none() {
                    wrong(
                        "webhook_url",
                        "needs notify.webhook_secret_file, so that the receiver can tell who calls it",
                    );
                }
            }
            None => {
                let further = self.webhook_secret_file.is_some()
                    || self.webhook_roots_file.is_some()
                    || !self.webhook_kinds.is_empty();
                if further {
                    wrong("webhook_", "without notify.webhook_url nothing is sent");
                }
            }
        }
        match &self.smtp_url {
            Some(url) => {
                match url::Url::parse(url) {
                    Ok(url) if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none() => {
                        wrong("smtp_url", "expected smtp://host:port or smtps://host:port");
                    }
                    Ok(url) if url.password().is_some() => {
                        wrong("smtp_url", "the password belongs into the file of notify.smtp_password_file");
                    }
                    Ok(url) if url.username().is_empty() == self.smtp_password_file.is_some() => wrong(
                        "smtp_url",
                        "a user (smtps://user@host) and notify.smtp_password_file go together",
                    ),
                    Ok(_) => {}
                    Err(_) => wrong("smtp_url", "expected smtp://host:port or smtps://host:port"),
                }
                if self.from.is_none() || self.to.is_empty() {
                    wrong("smtp_url", "needs notify.from and notify.to");
                }
            }
            None => {
                if self.from.is_some() || !self.to.is_empty() || self.smtp_password_file.is_some() {
                    wrong("smtp_", "without notify.smtp_url no mail is sent");
                }
            }
        }
        if let Some(address) = self.from.iter().chain(&self.to).find(|address| !address.contains('@')) {
            wrong("to", &format!("{address:?} is no mail address"));
        }
        if self.hook.first().is_some_and(|program| !program.starts_with('/')) {
            wrong("hook", "the program needs its whole path, beginning with /");
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use std::{path::Path, time::Duration};

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("signpost.toml"), &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_section_is_read() {
        let text = "[notify]\nwebhook_url = \"https://a.example/hook\"\nwebhook_secret_file = \"/s\"\n\
                    webhook_kinds = [\"failed\", \"recovered\"]\nwebhook_min_severity = \"warning\"\n\
                    smtp_url = \"smtps://me@mail.example\"\nsmtp_password_file = \"/p\"\nfrom = \"a@b.example\"\n\
                    to = [\"Ops <ops@b.example>\"]\ndigest = \"1d\"\nhook = [\"/bin/true\"]\n";
        let notify = parse(text).unwrap().notify;
        assert_eq!(notify.digest.length(), Duration::from_secs(86_400));
        assert_eq!(parse("").unwrap().notify.digest.length(), Duration::from_secs(3600));
        assert_eq!(notify.webhook_kinds.len(), 2);
    }

    #[test]
    fn contradictions_are_named() {
        for (text, expected) in [
            ("webhook_url = \"https://a.example\"", "needs notify.webhook_secret_file"),
            ("webhook_url = \"ftp://a\"\nwebhook_secret_file = \"/s\"", "expected an https://"),
            ("webhook_secret_file = \"/s\"", "without notify.webhook_url"),
            ("webhook_kinds = [\"fialed\"]", "did you mean `failed`"),
            ("smtp_url = \"smtp://a\"", "needs notify.from"),
            ("smtp_url = \"a:25\"\nfrom = \"a@b\"\nto = [\"a@b\"]", "expected smtp://"),
            ("smtp_url = \"smtp://u:p@a\"\nfrom = \"a@b\"\nto = [\"a@b\"]", "smtp_password_file"),
            ("smtp_url = \"smtp://u@a\"\nfrom = \"a@b\"\nto = [\"a@b\"]", "go together"),
            ("smtp_url = \"smtp://a\"\nfrom = \"a\"\nto = [\"a@b\"]", "no mail address"),
            ("to = [\"a@b\"]", "without notify.smtp_url"),
            ("digest = \"often\"", "no length of time"),
            ("digest = \"0s\"", "no length of time"),
            ("hook = [\"notify.sh\"]", "whole path"),
        ] {
            let shown = parse(&format!("[notify]\n{text}\n")).unwrap_err();
            assert!(shown.contains(expected), "{expected} in {shown}");
        }
    }
}
