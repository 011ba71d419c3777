//! acme-dns: a nameserver for nothing but proofs, with an account for each name. It keeps the two newest values of a name and
//! has no way to remove one.

use super::provider::{Action, ProviderError, SetupError, http, post, read, unusable};
use reqwest::Client;
use serde::Deserialize;
use shared::{
    config::Dns,
    domain::{DnsName, Txt},
};
use std::{collections::BTreeMap, fmt};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What is written in the place of a value that is no longer wanted: as long as a proof, and none.
const NOTHING: &str = "___validation_token_removed_by_signpost____";

pub(super) struct AcmeDns {
    http: Client,
    update_url: String,
    /// By the name that has the records.
    accounts: BTreeMap<String, Account>,
    /// By the name that is proved: the name that has the records.
    targets: BTreeMap<String, String>,
}

/// As certbot's and lego's storage files have it.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
struct Account {
    #[serde(alias = "FullDomain", alias = "fullDomain")]
    fulldomain: String,
    #[serde(alias = "SubDomain", alias = "subDomain")]
    subdomain: String,
    #[serde(alias = "Username")]
    username: String,
    #[serde(alias = "Password")]
    password: String,
}

impl AcmeDns {
    pub(super) fn of(name: &str, config: &Dns) -> Result<Self, SetupError> {
        let url = config.url.as_ref().ok_or_else(|| unusable(name, "url is missing"))?;
        let text = read(name, config.accounts_file.as_deref())?;
        let accounts: BTreeMap<String, Account> =
            serde_json::from_str(&text).map_err(|e| unusable(name, format!("accounts_file: {e}")))?;
        let text_of = |name: &str| name.trim_matches('.').to_ascii_lowercase();
        let target = |(name, account): (&String, &Account)| (text_of(name), text_of(&account.fulldomain));
        let targets = accounts.iter().map(target).collect();
        Ok(Self {
            targets,
            http: http(name, config)?,
            update_url: format!("{}/update", url.as_str().trim_end_matches('/')),
            accounts: accounts.into_values().map(|one| (text_of(&one.fulldomain), one)).collect(),
        })
    }

    /// The target that was registered for a name.
    pub(super) fn target_of(&self, name: &DnsName) -> Option<String> {
        self.targets.get(name.as_str()).cloned()
    }

    pub(super) async fn act(&self, action: Action, txt: &Txt) -> Result<(), ProviderError> {
        let account = self.accounts.get(&txt.record).ok_or_else(|| {
            ProviderError::Refused(format!("accounts_file has no account whose fulldomain is {}", txt.record))
        })?;
        let value = match action {
            Action::Add => txt.value.as_str(),
            Action::Remove => NOTHING,
        };
        let document = serde_json::json!({ "subdomain": account.subdomain, "txt": value });
        let request = self
            .http
            .post(&self.update_url)
            .header("X-Api-User", account.username.as_str())
            .header("X-Api-Key", account.password.as_str());
        post(request, document.to_string()).await
    }
}

impl fmt::Debug for AcmeDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeDns").field("update_url", &self.update_url).finish_non_exhaustive()
    }
}
