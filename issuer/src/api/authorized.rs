//! Who asks, and whether the token's role covers what is asked. A handler's signature says which role it demands.

use super::{
    Api,
    refusal::{Code, Refusal},
};
use actix_web::{HttpRequest, http::header::AUTHORIZATION};
use jiff::Timestamp;
use serde_json::json;
use shared::{digest::sha256_hex, domain::ApiRole};
use std::{
    collections::HashMap,
    marker::PhantomData,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A token's use is noted once in this time.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// A request whose token covers `R`.
pub(super) struct Authorized<R> {
    /// The token's name; empty where none is demanded.
    pub(super) name: String,
    role: PhantomData<R>,
}

/// What a handler demands.
pub(super) trait Demand: 'static {
    /// `None`: no token.
    const ROLE: Option<ApiRole>;
}

/// Nothing is demanded.
pub(super) struct Public;
pub(super) struct Read;
pub(super) struct Write;
pub(super) struct Admin;

impl Demand for Public {
    const ROLE: Option<ApiRole> = None;
}

impl Demand for Read {
    const ROLE: Option<ApiRole> = Some(ApiRole::Read);
}

impl Demand for Write {
    const ROLE: Option<ApiRole> = Some(ApiRole::Write);
}

impl Demand for Admin {
    const ROLE: Option<ApiRole> = Some(ApiRole::Admin);
}

impl<R: Demand> Authorized<R> {
    /// Looks the token up, anew for each request: one that was revoked is refused with the next.
    ///
    /// # Errors
    /// 401 without a token that is valid, 403 where its role is too small, 503 when the store doesn't say.
    pub(super) async fn of(request: &HttpRequest, api: &Api) -> Result<Self, Refusal> {
        let Some(needed) = R::ROLE else { return Ok(Self { name: String::new(), role: PhantomData }) };
        // Nobody learns which of these it was.
        let unauthorized = || Refusal::new(Code::Unauthorized, "a token of the API is needed");
        let presented = bearer(request).ok_or_else(unauthorized)?;
        let sha256 = sha256_hex(presented.as_bytes());
        let token = api.store.load_api_token(&sha256).await?;
        let token = token.filter(|token| token.revoked.is_none()).ok_or_else(unauthorized)?;
        if !token.role.covers(needed) {
            let message = format!("the role {} doesn't cover this: {needed} is needed", token.role);
            let details = json!({ "role": token.role, "needed": needed });
            return Err(Refusal::new(Code::Forbidden, message).with_details(details));
        }
        if api.uses.is_worth_noting(&sha256) {
            // A token that was used works, whether this can be noted or not.
            if let Err(error) = api.store.note_api_token_used(&sha256, Timestamp::now()).await {
                tracing::debug!(error = shared::error::chain(&error), "the use of a token is not noted");
            }
        }
        Ok(Self { name: token.name.into(), role: PhantomData })
    }
}

/// When this process last noted the use of each token.
#[derive(Debug, Default)]
pub(super) struct Uses(Mutex<HashMap<String, Instant>>);

impl Uses {
    fn is_worth_noting(&self, sha256: &str) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = noted.get(sha256).is_none_or(|at| at.elapsed() >= NOTED_EVERY);
        if is_due {
            noted.insert(sha256.to_owned(), Instant::now());
        }
        is_due
    }
}

/// RFC 6750 section 2.1; the scheme's case doesn't matter (RFC 9110 section 11.1).
fn bearer(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
