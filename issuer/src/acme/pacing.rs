//! Requests that a CA counts by the address they come from, at each endpoint: sent no faster than it takes them.

use super::{directory::Directory, moments::Moment, request_error::RequestError};
use std::{fmt::Debug, pin::Pin, time::Duration};

/// The names of the endpoints that CAs limit by themselves; all the rest is `other`.
pub const ENDPOINTS: [&str; 7] =
    ["directory", "new-nonce", "new-account", "new-order", "revoke-cert", "renewal-info", "other"];
/// Whoever would have to wait longer is told so, and comes again.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// When a request may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub wait: Duration,
    /// The CA has asked for a pause, and `wait` is what is left of it, or of the time until somebody tries.
    pub is_paused: bool,
    /// The CA has asked for a pause, and this request finds out whether it still wants it.
    pub tries: bool,
}

/// Says when a request may be sent. What it counts is shared by all who send from the same address.
pub trait Pacer: Debug + Send + Sync {
    /// Takes a request's place in the queue for an endpoint. Who asks by hand does not wait for the end of a pause.
    fn turn<'a>(
        &'a self,
        endpoint: &'static str,
        by_hand: bool,
    ) -> Pin<Box<dyn Future<Output = Turn> + Send + 'a>>;

    /// The CA wants nothing at an endpoint for so long.
    fn pause<'a>(
        &'a self,
        endpoint: &'static str,
        pause: Duration,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// A request that tried was answered.
    fn resume<'a>(&'a self, endpoint: &'static str) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

    /// The CA has named a moment that is not believed.
    fn disbelieve<'a>(&'a self, kind: Moment, said: &'a str)
    -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;
}

/// Waits until a request may be sent, and answers whether it finds out if a pause is over.
///
/// # Errors
/// [`RequestError::Paused`] where that is too long for a worker: nothing is sent.
pub(super) async fn wait(
    pacer: &dyn Pacer,
    endpoint: &'static str,
    by_hand: bool,
) -> Result<bool, RequestError> {
    let Turn { wait, is_paused, tries } = pacer.turn(endpoint, by_hand).await;
    if wait > LONGEST_WAIT {
        return Err(RequestError::Paused { endpoint, wait, by_the_ca: is_paused });
    }
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    Ok(tries)
}

/// Which endpoint a URL belongs to.
pub(super) fn endpoint_of(url: &str, directory_url: &str, directory: Option<&Directory>) -> &'static str {
    if url == directory_url {
        return "directory";
    }
    let Some(directory) = directory else { return "other" };
    let is = |known: &Option<String>| known.as_deref() == Some(url);
    if url == directory.new_nonce {
        "new-nonce"
    } else if url == directory.new_account {
        "new-account"
    } else if url == directory.new_order {
        "new-order"
    } else if is(&directory.revoke_cert) {
        "revoke-cert"
    } else if directory.renewal_info.as_deref().is_some_and(|base| url.starts_with(base)) {
        "renewal-info"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_belong_to_the_endpoints_of_the_directory() {
        let text = r#"{"newNonce":"https://a/n","newAccount":"https://a/a","newOrder":"https://a/o","renewalInfo":"https://a/ari"}"#;
        let directory: Directory = serde_json::from_str(text).unwrap();
        for (url, endpoint) in [
            ("https://a/dir", "directory"),
            ("https://a/n", "new-nonce"),
            ("https://a/a", "new-account"),
            ("https://a/o", "new-order"),
            ("https://a/o/7", "other"),
            ("https://a/ari/x.y", "renewal-info"),
            ("https://a/chall/3", "other"),
        ] {
            assert_eq!(endpoint_of(url, "https://a/dir", Some(&directory)), endpoint, "{url}");
        }
        assert_eq!(endpoint_of("https://a/n", "https://a/dir", None), "other");
    }
}
