//! The CA's limiter, fed by what passes through the proxy.
//!
//! A finalize that was accepted is an issued certificate. A validation that failed is counted when somebody looks at the
//! authorization, once: a client that fails looks at once.

use serde_json::Value;

use super::{
    Answer, Endpoint, Seen, Shared,
    jws::Signed,
    renewal::{Replacing, now},
};

impl Shared {
    /// The refusal of a new order, if there is one.
    pub(super) fn refusal(&self, seen: &Seen, signed: &Signed, replacing: &Replacing) -> Option<Answer> {
        if seen.endpoint != Endpoint::NewOrder {
            return None;
        }
        let mut limits = self.limits.lock().expect("no panic while held");
        let limiter = limits.as_mut()?;
        if matches!(replacing, Replacing::Certificate { inside: true, .. }) {
            limiter.new_replacement();
            return None;
        }
        let account = signed.kid.as_deref().unwrap_or_default();
        let refusal = limiter.new_order(account, &seen.names, now()).err()?;
        // Whole seconds, and up to three percent more than it takes, as Let's Encrypt does.
        let seconds = (refusal.retry_after.as_secs_f64() * 1.015).ceil();
        Some(
            Answer::problem(429, "rateLimited", &refusal.detail)
                .header("retry-after", &format!("{seconds:.0}"))
                .header("link", "<https://letsencrypt.org/docs/rate-limits>;rel=\"help\""),
        )
    }

    /// What the CA has answered.
    pub(super) fn count(&self, seen: &Seen, signed: &Signed, status: u16, body: &Value) {
        let mut limits = self.limits.lock().expect("no panic while held");
        let Some(limiter) = limits.as_mut().filter(|_| (200..300).contains(&status)) else { return };
        match seen.endpoint {
            Endpoint::Finalize => limiter.issued(&seen.names, now()),
            Endpoint::Authorization if body["status"] == "invalid" => {
                let account = signed.kid.as_deref().unwrap_or_default();
                if let Some(name) = body["identifier"]["value"].as_str() {
                    limiter.failed_once(&seen.path, account, name, now());
                }
            }
            _ => {}
        }
    }
}
