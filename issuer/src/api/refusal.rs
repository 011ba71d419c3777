//! Everything that is not what was asked for: one table of codes, which programs may rely on, and one form.

use super::answer::Answer;
use crate::sites::{SiteError, WishError};
use actix_web::http::StatusCode;
use serde_json::{Value, json};
use serving::seldom::Seldom;
use shared::{error::chain, store::StoreError};

macro_rules! codes {
    ($($code:ident $text:literal $status:ident $meaning:literal $remedy:literal;)*) => {
        /// Why a request isn't answered. The texts are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $meaning] $code,)*
        }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$code => $text,)* }
            }

            const fn status_code(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }

            /// One sentence for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning,)* }
            }

            /// What the caller can do, where the error itself doesn't say it better.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$code => $remedy,)* }
            }
        }
    };
}

codes! {
    BadRequest "bad-request" BAD_REQUEST
        "The head of the request, its query, its body or a header field can't be understood, or a field stands twice that may stand once."
        "Compare the request with /api/v1/openapi.json.";
    Unauthorized "unauthorized" UNAUTHORIZED
        "There is no token, or it is unknown or revoked."
        "Send `Authorization: Bearer TOKEN` with a token from `issuer token add`.";
    Forbidden "forbidden" FORBIDDEN
        "The token's role doesn't cover this."
        "Use a token of the role that details.needed names.";
    NoSuchRoute "no-such-route" NOT_FOUND
        "There is no such path."
        "/api/v1/openapi.json lists every path.";
    NoSuchSite "no-such-site" NOT_FOUND
        "No site has this name or id."
        "Add it with POST /api/v1/sites.";
    NoSuchCertificate "no-such-certificate" NOT_FOUND
        "No certificate is served for this name."
        "GET /api/v1/sites/NAME says what is missing.";
    NoSuchTenant "no-such-tenant" NOT_FOUND
        "There is no tenant of this name."
        "Make it with PUT /api/v1/tenants/NAME.";
    NoSuchBrake "no-such-brake" NOT_FOUND
        "This brake is not on."
        "GET /api/v1/brakes lists those that are.";
    MethodNotAllowed "method-not-allowed" METHOD_NOT_ALLOWED
        "The path has other methods."
        "Use one of those in the header Allow.";
    NameTaken "name-taken" CONFLICT
        "A name belongs to another site."
        "Remove it from the site that details.owner names, or leave it out.";
    SiteExists "site-exists" CONFLICT
        "The site is there already, with other settings."
        "Change it with PATCH /api/v1/sites/ID.";
    Paused "paused" CONFLICT
        "The site is paused: nothing is ordered for it."
        "POST /api/v1/sites/NAME/resume lets it go on.";
    TenantInUse "tenant-in-use" CONFLICT
        "Sites name the tenant; nothing was removed."
        "Give the sites another tenant, or none (PATCH with tenant null), or remove them.";
    MoreNames "more-names" CONFLICT
        "The site has more names than the one in the path; nothing was removed."
        "DELETE /api/v1/sites/ID removes it with all of them; PATCH with remove_names takes out one.";
    Changed "changed" CONFLICT
        "Somebody else changed the same thing in this moment; nothing was written."
        "Read it again, and repeat the request.";
    PreconditionFailed "precondition-failed" PRECONDITION_FAILED
        "It is not in the state that If-Match or If-None-Match demands; nothing was written."
        "Read it again with its ETag, and decide anew.";
    TooManyRemovals "too-many-removals" CONFLICT
        "The file lacks more than a tenth of the sites that files of its source have added, or holds none; nothing was changed."
        "If they are to be removed, add remove=NUMBER to the query, with the number of details.removed.";
    InProgress "in-progress" CONFLICT
        "A request with this idempotency key is being worked on, or was cut off a moment ago."
        "Repeat it after the seconds in the header Retry-After.";
    TooLarge "too-large" PAYLOAD_TOO_LARGE
        "The body is larger than 256 KiB, or a file larger than 256 MiB."
        "Divide it into several requests; a site has 2000 names at most.";
    HeadTooLarge "head-too-large" REQUEST_HEADER_FIELDS_TOO_LARGE
        "The head of the request has more than 32 KiB, or more than 96 fields."
        "Send fewer and shorter header fields.";
    TooSlow "too-slow" REQUEST_TIMEOUT
        "The head of the request did not come within five seconds."
        "Send it in one piece.";
    NotJson "not-json" UNSUPPORTED_MEDIA_TYPE
        "The body is not application/json."
        "Send JSON with `Content-Type: application/json`.";
    NotAFile "not-a-file" UNSUPPORTED_MEDIA_TYPE
        "The body is no file of sites."
        "Send NDJSON with `Content-Type: application/x-ndjson`, or TOML with `Content-Type: application/toml`.";
    InvalidFile "invalid-file" UNPROCESSABLE_ENTITY
        "Lines of the file are wrong; nothing was changed."
        "details.mistakes names the lines.";
    InvalidName "invalid-name" UNPROCESSABLE_ENTITY
        "A hostname breaks a rule of the CA."
        "details.rule names the rule.";
    InvalidSite "invalid-site" UNPROCESSABLE_ENTITY
        "What is wished of the site can't be."
        "Change what the message names.";
    UnknownCa "unknown-ca" UNPROCESSABLE_ENTITY
        "The CA is not configured, or can't be used as it is."
        "Name one of those in the message, or change the configuration of the issuer.";
    InvalidTenant "invalid-tenant" UNPROCESSABLE_ENTITY
        "This can't be a tenant, or its account."
        "Use 1 to 63 characters of a-z, A-Z, 0-9, -, _ and .";
    KeyReused "key-reused" UNPROCESSABLE_ENTITY
        "The idempotency key belongs to another request of the last 24 hours."
        "Use a new key for each request, and the same one only to repeat it.";
    Busy "busy" TOO_MANY_REQUESTS
        "Files of sites that are under way take as much as they may: four of a token, 256 MiB together; 1 GiB of all tokens."
        "Repeat the request after the seconds in the header Retry-After.";
    Damaged "damaged" INTERNAL_SERVER_ERROR
        "A record in the store can't be read."
        "The issuer's log names the record and the cause.";
    StoreUnavailable "store-unavailable" SERVICE_UNAVAILABLE
        "The store did not answer: what was asked may have been done or not."
        "Repeat the request after the seconds in the header Retry-After.";
    Timeout "timeout" SERVICE_UNAVAILABLE
        "It took longer than 30 seconds, a file longer than an hour; what was asked may have been done or not."
        "Repeat the request after the seconds in the header Retry-After.";
}

impl Code {
    pub fn status(self) -> u16 {
        self.status_code().as_u16()
    }

    /// Whether the same request can be answered otherwise a moment later.
    fn is_passing(self) -> bool {
        self.status_code().is_server_error() || matches!(self, Self::Changed | Self::InProgress | Self::Busy)
    }

    fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::StoreUnavailable | Self::Changed => Some(1),
            Self::InProgress | Self::Timeout | Self::Busy => Some(5),
            _ => None,
        }
    }
}

/// Why a request isn't answered, in the words of the case.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    message: String,
    details: Value,
    allow: Option<String>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: json!({}), allow: None }
    }

    #[must_use]
    pub(super) fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    pub(super) fn of_method(allow: String) -> Self {
        Self { allow: Some(allow), ..Self::new(Code::MethodNotAllowed, "this path has other methods") }
    }

    pub(super) fn answer(&self) -> Answer {
        let document = json!({ "error": {
            "code": self.code.as_str(),
            "message": self.message,
            "remedy": self.code.remedy(),
            "details": self.details,
        }});
        let mut answer = Answer::new(self.code.status_code(), &document);
        answer.passing = self.code.is_passing();
        answer.retry_after = self.code.retry_after_seconds();
        answer.allow.clone_from(&self.allow);
        answer
    }
}

/// The body of what is said of a head that HTTP itself refuses.
pub(super) fn of_head(status: u16) -> String {
    let (code, message) = match status {
        408 => (Code::TooSlow, "the head of the request took too long to come"),
        431 => (Code::HeadTooLarge, "the head of the request is too large"),
        _ => (
            Code::BadRequest,
            "the head of the request is not as HTTP demands: one Host, either Content-Length or Transfer-Encoding: chunked, once, and no control characters",
        ),
    };
    Refusal::new(code, message).answer().body
}

/// Logged here; the caller learns no more than that it may try again.
impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        // A program that asks again and again while the store is away has no line for each time.
        static TOLD: Seldom = Seldom::new();
        let tell = |unsaid| {
            tracing::error!(error = chain(&error), unsaid, "a request to the API met an error of the store");
        };
        match error {
            StoreError::Corrupt { .. } | StoreError::NewerSchema { .. } | StoreError::Unverified { .. } => {
                tell(0)
            }
            _ => TOLD.say(tell),
        }
        match error {
            StoreError::Conflict => {
                Self::new(Code::Changed, "the record was changed in this moment: nothing was written")
            }
            StoreError::Corrupt { .. } | StoreError::NewerSchema { .. } | StoreError::Unverified { .. } => {
                Self::new(Code::Damaged, "a record in the store can't be read")
            }
            _ => Self::new(Code::StoreUnavailable, "the store did not answer"),
        }
    }
}

impl From<SiteError> for Refusal {
    fn from(error: SiteError) -> Self {
        let message = error.to_string();
        match error {
            SiteError::Store(error) => error.into(),
            SiteError::Wish(error) => error.into(),
            SiteError::NotFound(name) => {
                Self::new(Code::NoSuchSite, message).with_details(json!({ "name": name }))
            }
            SiteError::Taken { name, owner, names, managed_by } => Self::new(Code::NameTaken, message)
                .with_details(
                    json!({ "name": name, "owner": owner, "owner_names": names, "owner_is": managed_by }),
                ),
            SiteError::Exists(site, differences) => Self::new(
                Code::SiteExists,
                format!("the site {site} is there already, with other settings ({differences})"),
            )
            .with_details(json!({ "site": site })),
            SiteError::Changed => Self::new(Code::Changed, message),
            SiteError::NothingBefore(site) => {
                Self::new(Code::NoSuchCertificate, message).with_details(json!({ "site": site }))
            }
        }
    }
}

impl From<WishError> for Refusal {
    fn from(error: WishError) -> Self {
        let message = chain(&error);
        let named: Vec<Value> = error
            .each()
            .iter()
            .filter_map(|one| match one {
                WishError::Name { name, error } => {
                    Some(json!({ "name": name, "rule": error.rule(), "message": error.to_string() }))
                }
                _ => None,
            })
            .collect();
        if let Some(first) = named.first() {
            let mut details = json!({ "name": first["name"], "rule": first["rule"] });
            if named.len() > 1 {
                details["names"] = json!(named);
            }
            return Self::new(Code::InvalidName, message).with_details(details);
        }
        let of_ca = error.each().iter().any(|one| matches!(one, WishError::Ca(_)));
        Self::new(if of_ca { Code::UnknownCa } else { Code::InvalidSite }, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_words_with_a_status_and_none_stands_twice() {
        let mut texts: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status_code().is_client_error() || code.status_code().is_server_error());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{code:?}");
            assert_eq!(code.status() == 503, code.status_code().is_server_error() && *code != Code::Damaged);
        }
    }

    #[test]
    fn a_head_that_is_none_has_a_body_of_the_documented_form() {
        for (status, code) in [(400, "bad-request"), (408, "too-slow"), (431, "head-too-large")] {
            let body: Value = serde_json::from_str(&of_head(status)).unwrap();
            assert_eq!(body["error"]["code"], code);
            let known = Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
            assert_eq!(known.status(), status);
        }
    }

    #[test]
    fn what_may_pass_is_not_kept() {
        assert!(Refusal::new(Code::StoreUnavailable, "").answer().to_keep().is_none());
        assert!(Refusal::new(Code::Changed, "").answer().to_keep().is_none());
        assert_eq!(Refusal::new(Code::NameTaken, "").answer().to_keep().unwrap().status, 409);
    }
}
