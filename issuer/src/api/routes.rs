//! The table of routes. What is served, who may ask, what the OpenAPI document says: all from here.

use super::{
    authorized::{Admin, Demand, Public, Read, Write},
    brakes, certificates, events, files, fleet, forecast, limits, openapi,
    refusal::Code,
    server::{BASE, answering, other_methods},
    sites, status, tenants, tls_policy, tokens,
};
use actix_web::{
    HttpRequest,
    http::Method,
    web::{self, ServiceConfig},
};
use shared::domain::ApiRole;

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    pub method: &'static str,
    /// Below `/api/v1`.
    pub path: &'static str,
    /// The least role that is let in; `None`: no token is needed.
    pub role: Option<ApiRole>,
    pub described: Described,
}

/// What the document says of a route.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    pub id: &'static str,
    pub summary: &'static str,
    /// Parameters of the query, each with its meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// The schema of the body, and whether there must be one.
    pub body: Option<(&'static str, bool)>,
    /// Whether the body is a file of sites.
    pub takes_file: bool,
    /// Each status with the schema of its body.
    pub answers: &'static [(u16, &'static str)],
    refusals: &'static [Code],
}

const fn described(
    id: &'static str,
    summary: &'static str,
    answers: &'static [(u16, &'static str)],
) -> Described {
    Described { id, summary, query: &[], body: None, takes_file: false, answers, refusals: &[] }
}

impl Described {
    const fn query(mut self, query: &'static [(&'static str, &'static str)]) -> Self {
        self.query = query;
        self
    }

    const fn body(mut self, schema: &'static str) -> Self {
        self.body = Some((schema, true));
        self
    }

    const fn optional_body(mut self, schema: &'static str) -> Self {
        self.body = Some((schema, false));
        self
    }

    const fn file(mut self) -> Self {
        self.takes_file = true;
        self
    }

    const fn refusals(mut self, refusals: &'static [Code]) -> Self {
        self.refusals = refusals;
        self
    }
}

impl Route {
    /// Whether repetitions are known by an idempotency key.
    pub fn is_change(&self) -> bool {
        self.method != "GET"
    }

    /// Whether `If-Match` is heeded: what it changes has an `ETag`.
    pub fn takes_if_match(&self) -> bool {
        matches!(self.method, "PUT" | "PATCH" | "DELETE")
    }

    /// Whether `If-None-Match: *` is heeded: it can make what is not there yet.
    pub fn takes_if_none_match(&self) -> bool {
        self.method == "PUT" || self.described.answers.iter().any(|(status, _)| *status == 201)
    }

    /// Every code that it may refuse a request with.
    pub fn refusals(&self) -> Vec<Code> {
        let mut codes = self.described.refusals.to_vec();
        if self.role.is_some() {
            codes.extend([Code::Unauthorized, Code::Forbidden]);
            codes.extend([Code::Damaged, Code::StoreUnavailable, Code::Timeout]);
        }
        if self.is_change() {
            codes.extend([
                Code::BadRequest,
                Code::InProgress,
                Code::KeyReused,
                Code::TooLarge,
                if self.described.takes_file { Code::NotAFile } else { Code::NotJson },
            ]);
            codes.extend(self.described.takes_file.then_some(Code::Busy));
        }
        // Of its query, or its headers.
        codes.extend([Code::BadRequest, Code::HeadTooLarge, Code::TooSlow]);
        if self.takes_if_match() || self.takes_if_none_match() {
            codes.push(Code::PreconditionFailed);
        }
        codes.push(if self.described.takes_file { Code::NotAFile } else { Code::NotJson });
        codes.sort_by_key(|code| (code.status(), code.as_str()));
        codes.dedup();
        codes
    }
}

/// The route of a request that the table has led to a handler.
pub(super) fn find(request: &HttpRequest) -> Option<&'static Route> {
    let pattern = request.match_pattern()?;
    let path = pattern.strip_prefix(BASE)?;
    ROUTES.iter().find(|route| route.path == path && route.method == request.method().as_str())
}

macro_rules! routes {
    ($($path:literal { $($method:ident $role:ident $handler:path, $described:expr;)* })*) => {
        /// Every route, in the order of the document.
        pub const ROUTES: &[Route] = &[$($(
            Route { method: stringify!($method), path: $path, role: <$role as Demand>::ROLE, described: $described },
        )*)*];

        /// Serves the routes. A handler that demands another role than the table says doesn't compile.
        pub(super) fn configure(to: &mut ServiceConfig) {
            $(to.service(
                web::resource($path)
                    $(.route(answering::<$role, _, _>(Method::$method, $handler)))*
                    .default_service(other_methods([$(stringify!($method)),*].join(", "))),
            );)*
        }
    };
}

const PAGE: &[(&str, &str)] = &[
    ("after", "the field `next` of the page before"),
    ("limit", "sites of a page, 1 to 1000; 100 where it is not said"),
    ("tag", "only sites with this tag"),
    ("tenant", "only sites of this tenant"),
    ("state", "only sites in this state: paused, failing, parked, waiting, pending, issued"),
];
const EVENTS: &[(&str, &str)] = &[
    ("after", "the field `cursor` of the page before; without it, the newest events"),
    ("limit", "events of a page, 1 to 1000; 100 where it is not said"),
    ("kind", "only events of this kind, or of several with commas in between"),
];
const FORECAST: &[(&str, &str)] = &[
    ("ca", "as if all were ordered from this CA"),
    ("profile", "as if all had this profile of the CA"),
    ("lifetime_hours", "as if certificates lived that long"),
    ("sites", "as if there were so many certificates"),
    ("new_per_day", "as if so many came new on each day"),
];
const SHOWN: (&str, &str) =
    ("limit", "changes and mistakes that are listed at most, 100 where it is not said; all are counted");
const SOURCE: (&str, &str) = (
    "source",
    "only sites that files of this source have added are changed or removed; `default` where it is not said",
);
const REMOVE: (&str, &str) = (
    "remove",
    "how many sites may be removed, where they are more than a tenth of the source's or the file holds none",
);
const OF_NEW: &[Code] = &[
    Code::SiteExists,
    Code::NameTaken,
    Code::Changed,
    Code::InvalidName,
    Code::InvalidSite,
    Code::UnknownCa,
];
const OF_CHANGE: &[Code] = &[
    Code::NoSuchSite,
    Code::NameTaken,
    Code::Changed,
    Code::InvalidName,
    Code::InvalidSite,
    Code::UnknownCa,
];

routes! {
    "/sites" {
        GET Read sites::list, described("listSites", "Sites in the order of their ids.", &[(200, "SitePage")]).query(PAGE);
        POST Write sites::add,
            described("addSite", "Add a site. One that is there as it is wished is left as it is.", &[(201, "Change"), (200, "Change")])
            .body("SiteWish").refusals(OF_NEW);
    }
    "/sites/{site}" {
        GET Read sites::show, described("showSite", "A site, by one of its names or by its id.", &[(200, "Site")])
            .refusals(&[Code::NoSuchSite]);
        PATCH Write sites::change, described("changeSite", "Change what the body names of a site.", &[(200, "Change")])
            .body("SitePatch").refusals(OF_CHANGE);
        DELETE Write sites::remove,
            described("removeSite", "Remove a site: its certificates are deleted after the grace time.", &[(200, "Change")])
            .refusals(&[Code::NoSuchSite, Code::MoreNames, Code::Changed]);
    }
    "/sites/{site}/pause" {
        POST Write sites::pause, described("pauseSite", "Order nothing for a site; what is served is served on.", &[(200, "Change")])
            .refusals(OF_CHANGE);
    }
    "/sites/{site}/resume" {
        POST Write sites::resume, described("resumeSite", "End the pause of a site.", &[(200, "Change")])
            .refusals(OF_CHANGE);
    }
    "/sites/{site}/retry" {
        POST Write sites::retry, described("retrySite", "Try now what fails or waits of a site.", &[(202, "Nudged")])
            .refusals(&[Code::NoSuchSite, Code::Paused]);
    }
    "/sites/{site}/renew" {
        POST Write sites::renew, described("renewSite", "Renew the certificates of a site whatever their age.", &[(202, "Nudged")])
            .refusals(&[Code::NoSuchSite, Code::Paused]);
    }
    "/sites/{site}/rollback" {
        POST Write sites::roll_back,
            described("rollBackSite", "Serve the certificates before the present ones again, and leave them alone for a day.", &[(200, "RolledBack")])
            .query(&[("hold_hours", "how long nothing is ordered, 8760 at most; 24 where it is not said")])
            .refusals(&[Code::NoSuchSite, Code::NoSuchCertificate, Code::Changed]);
    }
    "/plan" {
        POST Read files::plan,
            described("planFile", "What a file of every site that is wanted of a source would change. Changes nothing.", &[(200, "Applied")])
            .file().query(&[SHOWN, SOURCE]).refusals(&[Code::InvalidFile]);
    }
    "/apply" {
        POST Write files::apply,
            described("applyFile", "Make the sites of a source what its file says. Cut off anywhere, the same file does what is left.", &[(200, "Applied")])
            .file().query(&[SHOWN, SOURCE, REMOVE]).refusals(&[Code::InvalidFile, Code::TooManyRemovals]);
    }
    "/retry" {
        POST Write sites::retry_all, described("retryAll", "Try everything now that fails or is parked.", &[(202, "Nudged")]);
    }
    "/certificates/{name}" {
        GET Read certificates::show,
            described("showCertificates", "What is served for a name. Never a private key.", &[(200, "Certificates")])
            .refusals(&[Code::NoSuchCertificate, Code::InvalidName]);
    }
    "/status" {
        GET Read status::show, described("showStatus", "How much is wanted, due and failing; brakes and troubles.", &[(200, "Status")]);
    }
    "/fleet" {
        GET Read fleet::show, described("showFleet", "What each frontend serves, what not yet, and since when.", &[(200, "Fleet")]);
    }
    "/limits" {
        GET Read limits::show, described("showLimits", "What is left of the CAs' limits: of the accounts', and of each that is half used up.", &[(200, "Limits")])
            .refusals(&[Code::UnknownCa]);
    }
    "/forecast" {
        GET Read forecast::show, described("showForecast", "What the next 90 days bring: renewals by hour, orders by day, what they leave of the limits, and memory.", &[(200, "Forecast")])
            .query(FORECAST).refusals(&[Code::UnknownCa]);
    }
    "/events" {
        GET Read events::list, described("listEvents", "What happened.", &[(200, "EventPage")]).query(EVENTS);
    }
    "/brakes" {
        GET Read brakes::list, described("listBrakes", "Brakes that are on.", &[(200, "Brakes")]);
    }
    "/brakes/{what}/{scope}" {
        PUT Admin brakes::set,
            described("setBrake", "Stop issuance or publication, for `all`, `ca:NAME` or `tag:TAG`.", &[(200, "Brake"), (201, "Brake")])
            .optional_body("BrakeWish").refusals(&[Code::NoSuchBrake, Code::UnknownCa]);
        DELETE Admin brakes::release, described("releaseBrake", "Let what was stopped go on.", &[(200, "Brake")])
            .refusals(&[Code::NoSuchBrake]);
    }
    "/tenants" {
        GET Read tenants::list, described("listTenants", "Every tenant.", &[(200, "Tenants")]);
    }
    "/tenants/{tenant}" {
        GET Read tenants::show, described("showTenant", "A tenant.", &[(200, "Tenant")]).refusals(&[Code::NoSuchTenant]);
        PUT Admin tenants::put, described("putTenant", "Make a tenant, or replace its settings.", &[(200, "Tenant"), (201, "Tenant")])
            .body("TenantWish").refusals(&[Code::Changed, Code::InvalidTenant]);
        DELETE Admin tenants::remove, described("removeTenant", "Forget a tenant that no site names.", &[(200, "Tenant")])
            .refusals(&[Code::NoSuchTenant, Code::TenantInUse, Code::Changed]);
    }
    "/tls-policy" {
        GET Read tls_policy::show, described("showTlsPolicy", "The TLS versions, ciphers and groups that all frontends speak, and what the canaries try.", &[(200, "TlsPolicies")]);
        PUT Admin tls_policy::set, described("setTlsPolicy", "Have frontends speak something else, the canaries first: they take it with their next question for changes.", &[(200, "TlsPolicies")])
            .body("TlsPolicy");
    }
    "/tokens" {
        GET Admin tokens::list, described("listTokens", "Every token of the API, without the tokens themselves.", &[(200, "Tokens")]);
    }
    "/openapi.json" {
        GET Public openapi::show, described("showOpenapi", "This document.", &[(200, "Document")]);
    }
}
