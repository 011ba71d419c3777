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
    /// What each value alone can't show: a key, what is wrong about it, and whether it is that something is missing.
    pub(super) fn contradictions(&self) -> Vec<(&'static str, String, bool)> {
        let mut found = Vec::new();
        let mut add = |key: &'static str, message: &str, lacks: bool| {
            found.push((key, format!("notify.{key}: {message}"), lacks));
        };
        match &self.webhook_url {
            Some(url) => {
                if !matches!(url::Url::parse(url), Ok(url) if matches!(url.scheme(), "https" | "http")) {
                    add("webhook_url", "expected an https:// address", false);
                }
                if self.webhook_secret_file.is_none() {
                    add(
                        "webhook_url",
                        "needs notify.webhook_secret_file, so that the receiver can tell who calls it",
                        true,
                    );
                }
            }
            None => {
                let further = [
                    ("webhook_secret_file", self.webhook_secret_file.is_some()),
                    ("webhook_roots_file", self.webhook_roots_file.is_some()),
                    ("webhook_kinds", !self.webhook_kinds.is_empty()),
                ];
                if let Some((key, _)) = further.iter().find(|(_, there)| *there) {
                    add(key, "without notify.webhook_url nothing is sent", true);
                }
            }
        }
        match &self.smtp_url {
            Some(url) => {
                match url::Url::parse(url) {
                    Ok(url) if !matches!(url.scheme(), "smtp" | "smtps") || url.host_str().is_none() => {
                        add("smtp_url", "expected smtp://host:port or smtps://host:port", false);
                    }
                    Ok(url) if url.password().is_some() => {
                        add(
                            "smtp_url",
                            "the password belongs into the file of notify.smtp_password_file",
                            false,
                        );
                    }
                    Ok(url) if url.username().is_empty() == self.smtp_password_file.is_some() => add(
                        "smtp_url",
                        "a user (smtps://user@host) and notify.smtp_password_file go together",
                        true,
                    ),
                    Ok(_) => {}
                    Err(_) => add("smtp_url", "expected smtp://host:port or smtps://host:port", false),
                }
                if self.from.is_none() || self.to.is_empty() {
                    add("smtp_url", "needs notify.from and notify.to", true);
                }
            }
            None => {
                let further = [
                    ("from", self.from.is_some()),
                    ("to", !self.to.is_empty()),
                    ("smtp_password_file", self.smtp_password_file.is_some()),
                ];
                if let Some((key, _)) = further.iter().find(|(_, there)| *there) {
                    add(key, "without notify.smtp_url no mail is sent", true);
                }
            }
        }
        for (key, mut addresses) in [("from", self.from.as_slice().iter()), ("to", self.to.iter())] {
            if let Some(address) = addresses.find(|address| !address.contains('@')) {
                add(key, &format!("{address:?} is no mail address"), false);
            }
        }
        if self.hook.first().is_some_and(|program| !program.starts_with('/')) {
            add("hook", "the program needs its whole path, beginning with /", false);
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
