//! A service of the operator's own, asked with signed JSON.

use super::provider::{Action, ProviderError, SetupError, http, post, read, unusable};
use crate::notify::sign;
use jiff::Timestamp;
use reqwest::Client;
use shared::{config::Dns, domain::Txt};
use std::fmt;
use zeroize::Zeroizing;

pub(super) struct Webhook {
    http: Client,
    url: String,
    secret: Zeroizing<String>,
}

/// What is asked for. The same document goes to a program's standard input.
pub(super) fn document(action: Action, txt: &Txt, ttl_seconds: u32) -> String {
    serde_json::json!({
        "action": action,
        "record": txt.record,
        "type": "TXT",
        "value": txt.value,
        "ttl_seconds": ttl_seconds,
    })
    .to_string()
}

impl Webhook {
    pub(super) fn of(name: &str, config: &Dns) -> Result<Self, SetupError> {
        let url = config.url.as_ref().ok_or_else(|| unusable(name, "url is missing"))?;
        let text = read(name, config.secret_file.as_deref())?;
        Ok(Self {
            http: http(name, config)?,
            url: url.to_string(),
            secret: Zeroizing::new(text.trim().to_owned()),
        })
    }

    pub(super) async fn act(&self, action: Action, txt: &Txt, ttl_seconds: u32) -> Result<(), ProviderError> {
        let body = document(action, txt, ttl_seconds);
        let signature = sign(self.secret.as_bytes(), Timestamp::now().as_second(), body.as_bytes())
            .map_err(|e| ProviderError::Refused(e.to_string()))?;
        post(self.http.post(&self.url).header("Signpost-Signature", signature), body).await
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}
