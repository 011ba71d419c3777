//! Downloading a certificate, and choosing among its chains (RFC 8555 sections 7.4.2 and 9.1).

use super::{account::Account, answer::Answer, chain::Chain, request_error::RequestError, transport::Reply};
use tracing::{debug, warn};

const PEM_CHAIN: &str = "application/pem-certificate-chain";
/// Boulder offers two or three. A server that offers more is not followed to the end.
const MAX_ALTERNATES: usize = 10;

/// The chain that the CA prefers, and where it has others.
#[derive(Clone, Debug)]
pub struct DownloadedCertificate {
    pub chain: Chain,
    /// `Link: rel="alternate"`: the same leaf with other chains.
    pub alternates: Vec<String>,
}

/// The chain that was chosen.
#[derive(Clone, Debug)]
pub struct PreferredChain {
    pub chain: Chain,
    /// Where it was found.
    pub url: String,
    /// Whether it ends as was asked for. `true` where nothing was.
    pub matched: bool,
}

impl Account {
    /// Downloads a certificate with the chain that the CA prefers. Check it with [`Chain::check`] before it is stored.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::Chain`] where anything but certificates came.
    pub async fn fetch_certificate(&self, url: &str) -> Result<Answer<DownloadedCertificate>, RequestError> {
        let reply = self.post_as_get(url, Some(PEM_CHAIN)).await?;
        let alternates = reply.links("alternate").take(MAX_ALTERNATES).collect();
        Ok(Answer {
            value: DownloadedCertificate { chain: chain(&reply)?, alternates },
            retry_after: reply.retry_after,
        })
    }

    /// Downloads a certificate with the chain whose topmost certificate was issued by the given common name, or, where
    /// there is none, with the one that the CA prefers. Alternates are only asked for when the first one is another, or has a
    /// certificate above the leaf that is not valid now: any that has none goes before it.
    ///
    /// # Errors
    /// [`RequestError`] when the CA's own choice can't be had. An alternate that can't is passed over.
    pub async fn fetch_preferred_chain(
        &self,
        url: &str,
        issuer_common_name: Option<&str>,
    ) -> Result<Answer<PreferredChain>, RequestError> {
        let first = self.fetch_certificate(url).await?;
        let matches = |chain: &Chain| {
            issuer_common_name
                .is_none_or(|wanted| chain.topmost_issuer_common_name().as_deref() == Some(wanted))
        };
        let now = jiff::Timestamp::now().as_second();
        let is_in_date = |chain: &Chain| chain.check_dates_above(now).is_ok();
        let matched = matches(&first.value.chain);
        let mut suffices = is_in_date(&first.value.chain);
        let mut chosen = first.map(|first| {
            (PreferredChain { chain: first.chain, url: url.to_owned(), matched }, first.alternates)
        });
        if !matched || !suffices {
            for alternate in std::mem::take(&mut chosen.value.1) {
                match self.fetch_certificate(&alternate).await {
                    Ok(other) if matches(&other.value.chain) && is_in_date(&other.value.chain) => {
                        let preferred =
                            PreferredChain { chain: other.value.chain, url: alternate, matched: true };
                        return Ok(Answer { value: preferred, retry_after: other.retry_after });
                    }
                    Ok(other) if !suffices && is_in_date(&other.value.chain) => {
                        suffices = true;
                        chosen.value.0 =
                            PreferredChain { chain: other.value.chain, url: alternate, matched: false };
                    }
                    Ok(_) => {
                        debug!(url = alternate, "the alternate chain ends elsewhere, or is out of its dates")
                    }
                    // The CA's default is what matters: a chain of a retired issuer may be gone.
                    Err(error) => {
                        warn!(url = alternate, %error, "an alternate chain could not be downloaded")
                    }
                }
            }
        }
        Ok(chosen.map(|(preferred, _)| preferred))
    }
}

fn chain(reply: &Reply) -> Result<Chain, RequestError> {
    // A portal's page with a 200 says nothing of the certificate.
    if !has_certificate(&reply.body) {
        return Err(reply.malformed("no certificate at all".to_owned()));
    }
    Chain::parse(&reply.body).map_err(|source| RequestError::Chain { url: reply.url.clone(), source })
}

fn has_certificate(body: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    body.windows(BEGIN.len()).any(|window| window == BEGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_certificate() {
        assert!(has_certificate(b"-----BEGIN CERTIFICATE-----\nMII"));
        for other in [&b"<html>Sign in</html>"[..], b"", b"{}", b"-----BEGIN CERT"] {
            assert!(!has_certificate(other));
        }
    }
}
