//! The hosting system, which knows what is hosted: `GET URL?domain=NAME`, as Caddy asks before it orders on demand.

use reqwest::{Certificate, Client, StatusCode, redirect::Policy};
use serde::Deserialize;
use shared::{config::Sightings, domain::DnsName};
use std::{fs, path::PathBuf, time::Duration};
use url::Url;
use zeroize::Zeroizing;

const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, bytes.
const MOST_BYTES: usize = 16 * 1024;

pub(super) struct Panel {
    http: Client,
    url: Url,
    token: Option<Zeroizing<String>>,
}

/// What the hosting system says of a name.
pub(super) enum Answer {
    Hosted(Hosted),
    NotHosted,
    /// It did not say.
    Unknown(String),
}

/// What it may say besides; all of it can be left out.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Hosted {
    #[serde(default)]
    pub(super) tenant: Option<String>,
    #[serde(default)]
    pub(super) tags: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PanelError {
    #[error("sightings.{key}: {} can't be read", file.display())]
    File {
        key: &'static str,
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("sightings.allow_roots_file: {} holds no certificate", .0.display())]
    Roots(PathBuf),
    #[error("the client for sightings.allow_url can't be made")]
    Client(#[source] reqwest::Error),
}

impl Panel {
    /// `None` where nobody is configured to be asked.
    ///
    /// # Errors
    /// [`PanelError`]: the configuration can't be used.
    pub(super) fn of(config: &Sightings) -> Result<Option<Self>, PanelError> {
        let Some(url) = config.allow_url.clone() else { return Ok(None) };
        let read = |key: &'static str, file: &PathBuf| {
            fs::read(file).map_err(|source| PanelError::File { key, file: file.clone(), source })
        };
        let roots = match &config.allow_roots_file {
            Some(file) => {
                let pem = read("allow_roots_file", file)?;
                let roots = Certificate::from_pem_bundle(&pem).unwrap_or_default();
                if roots.is_empty() {
                    return Err(PanelError::Roots(file.clone()));
                }
                roots
            }
            None => Vec::new(),
        };
        let token = match &config.allow_token_file {
            Some(file) => {
                let text = Zeroizing::new(read("allow_token_file", file)?);
                Some(Zeroizing::new(String::from_utf8_lossy(&text).trim().to_owned()))
            }
            None => None,
        };
        let http = Client::builder()
            .user_agent(concat!("signpost-issuer/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(PATIENCE)
            .tls_certs_merge(roots)
            .build()
            .map_err(PanelError::Client)?;
        Ok(Some(Self { http, url, token }))
    }

    pub(super) async fn ask(&self, name: &DnsName) -> Answer {
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("domain", name.as_str());
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.as_str());
        }
        match self.read(request).await {
            Ok((status, Some(body))) => judge(status, &body),
            Ok((status, None)) if status.is_success() => {
                Answer::Unknown(format!("its answer is longer than {MOST_BYTES} bytes"))
            }
            Ok((status, None)) => judge(status, b""),
            Err(error) => Answer::Unknown(shared::error::chain(&error.without_url())),
        }
    }

    async fn read(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, Option<Vec<u8>>), reqwest::Error> {
        let mut response = request.send().await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MOST_BYTES {
                return Ok((response.status(), None));
            }
        }
        Ok((response.status(), Some(body)))
    }
}

/// Only a clear no is one: what is broken says nothing about a name.
fn judge(status: StatusCode, body: &[u8]) -> Answer {
    match status.as_u16() {
        200..=299 if body.iter().all(u8::is_ascii_whitespace) => Answer::Hosted(Hosted::default()),
        200..=299 => match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(value) if ["allowed", "hosted", "ok"].iter().any(|key| value[*key] == false) => {
                Answer::NotHosted
            }
            Ok(value) if value.get("error").is_some_and(|error| !error.is_null()) => {
                Answer::Unknown("it answered with an error".to_owned())
            }
            Ok(value) if value.is_object() => match serde_json::from_value(value) {
                Ok(hosted) => Answer::Hosted(hosted),
                Err(error) => Answer::Unknown(format!("its answer can't be read: {error}")),
            },
            // Whoever answers Caddy with a word says yes; a page for people says nothing.
            _ if is_a_word(body) => Answer::Hosted(Hosted::default()),
            _ => Answer::Unknown(
                "its answer is neither empty, nor a JSON object, nor a word that says yes".to_owned(),
            ),
        },
        400 | 403 | 404 | 410 | 422 => Answer::NotHosted,
        other => Answer::Unknown(format!("it answered {other}")),
    }
}

fn is_a_word(body: &[u8]) -> bool {
    const YES: [&str; 7] = ["ok", "yes", "true", "1", "allowed", "hosted", "authorized"];
    let text = std::str::from_utf8(body).unwrap_or_default().trim().to_ascii_lowercase();
    YES.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_answer_is_one() {
        let told =
            |status: u16, body: &str| match judge(StatusCode::from_u16(status).unwrap(), body.as_bytes()) {
                Answer::Hosted(hosted) => format!("{} {:?}", hosted.tags.join(","), hosted.tenant),
                Answer::NotHosted => "no".to_owned(),
                Answer::Unknown(_) => "unknown".to_owned(),
            };
        assert_eq!(told(200, r#"{"tenant":"acme","tags":["eu"],"more":1}"#), "eu Some(\"acme\")");
        assert_eq!((told(204, ""), told(200, "ok\n")), (" None".to_owned(), " None".to_owned()));
        for status in [400, 403, 404, 410, 422] {
            assert_eq!(told(status, "{}"), "no");
        }
        for body in [
            "<!DOCTYPE html><title>Log in</title>",
            "<html>",
            "[]",
            "\"yes\"",
            "please log in",
            "no",
            "false",
            r#"{"error":"not logged in"}"#,
            &"word ".repeat(20),
        ] {
            assert_eq!(told(200, body), "unknown", "{body}");
        }
        assert_eq!(
            (told(200, r#"{"hosted":false}"#), told(200, r#"{"error":null}"#)),
            ("no".to_owned(), " None".to_owned())
        );
        for (status, body) in [(500, ""), (302, ""), (401, ""), (429, ""), (200, r#"{"tags":"eu"}"#)] {
            assert_eq!(told(status, body), "unknown", "{status}");
        }
    }
}
