//! Orders (RFC 8555 sections 7.1.3 and 7.4).

use super::{
    account::{Account, AccountObject},
    answer::Answer,
    identifier::Identifier,
    problem::{Problem, ProblemKind},
    reading::{self, Wire},
    renewal_info::CertificateId,
    request_error::RequestError,
    timestamp,
    transport::reachable,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NewOrder {
    pub identifiers: Vec<Identifier>,
    /// One of the directory's `meta.profiles` (draft-ietf-acme-profiles).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The certificate of the same account that this one replaces (RFC 9773 section 5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CertificateId>,
}

/// An order as the CA has it (RFC 8555 section 7.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    #[serde(default, deserialize_with = "reading::or_default")]
    pub status: OrderStatus,
    #[serde(default, deserialize_with = "timestamp::lenient", skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    #[serde(default, deserialize_with = "reading::list")]
    pub identifiers: Vec<Identifier>,
    /// URLs, in an order of the CA's own choosing.
    #[serde(default, deserialize_with = "reading::urls")]
    pub authorizations: Vec<String>,
    /// Some CAs name it only where the order was placed.
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub finalize: Option<String>,
    /// There once the order is valid.
    #[serde(default, deserialize_with = "reading::url", skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Why the order failed. Often generic: the challenges of its authorizations know more.
    #[serde(default, deserialize_with = "reading::optional", skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    #[serde(default, deserialize_with = "reading::text", skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    #[serde(default, deserialize_with = "reading::optional", skip_serializing_if = "Option::is_none")]
    pub replaces: Option<CertificateId>,
}

impl Wire for Order {
    const MEMBERS: &'static [&'static str] = &["status", "authorizations", "finalize", "certificate"];
}

/// RFC 8555 section 7.1.6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderStatus {
    Pending,
    Ready,
    Processing,
    Valid,
    Invalid,
    /// A state that the RFC does not know, or none: look again later.
    #[default]
    #[serde(other)]
    Unknown,
}

impl Order {
    /// With URLs that can be asked for, and no others.
    fn resolved(mut self, base: &str) -> Self {
        self.authorizations = self.authorizations.iter().filter_map(|url| reachable(base, url)).collect();
        self.finalize = self.finalize.and_then(|url| reachable(base, &url));
        self.certificate = self.certificate.and_then(|url| reachable(base, &url));
        self
    }

    /// The same, as it is now; some CAs name its authorizations only where it was placed.
    fn completed(self, whole: Self) -> Self {
        let authorizations =
            if self.authorizations.is_empty() { whole.authorizations } else { self.authorizations };
        Self { authorizations, ..whole }
    }
}

/// The answer to a new order. The CA may return an open one for the same names instead of a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedOrder {
    /// Store it at once: later answers need not repeat it.
    pub url: String,
    /// [`Order::replaces`] says whether the CA has recorded what it replaces: an open order of before has not.
    pub order: Order,
    pub retry_after: Option<Duration>,
}

/// What is known of an order whose URL is not.
#[derive(Clone, Debug)]
pub struct LostOrder<'a> {
    pub identifiers: &'a [Identifier],
    /// Orders of the same names that are known: not one of these.
    pub known: &'a [String],
    pub profile: Option<&'a str>,
}

impl LostOrder<'_> {
    fn is(&self, order: &Order) -> bool {
        let sorted = |identifiers: &[Identifier]| {
            let mut sorted = identifiers.to_vec();
            sorted.sort();
            sorted
        };
        matches!(order.status, OrderStatus::Pending | OrderStatus::Ready)
            // Where that stood in the lost answer alone, nobody can go on with it.
            && order.finalize.is_some()
            && order.expires.is_none_or(|end| end > Timestamp::now())
            && order.profile.as_deref().zip(self.profile).is_none_or(|(its, wanted)| its == wanted)
            && sorted(&order.identifiers) == sorted(self.identifiers)
    }
}

/// The part of an account that says where its orders are.
#[derive(Deserialize)]
struct OrdersOf {
    #[serde(default, deserialize_with = "reading::url")]
    orders: Option<String>,
}

#[derive(Deserialize)]
struct OrderList {
    #[serde(default, deserialize_with = "reading::urls")]
    orders: Vec<String>,
}

impl Wire for OrdersOf {
    const MEMBERS: &'static [&'static str] = AccountObject::MEMBERS;
}

impl Wire for OrderList {
    const MEMBERS: &'static [&'static str] = &["orders"];
}

/// Pages of an account's list that are read, and orders on them that are looked at: the last ones.
const MOST_PAGES: usize = 20;
const MOST_LOOKED_AT: usize = 10;

impl Account {
    /// Places an order. [`NewOrder::replaces`] is left out where the directory has no `renewalInfo`.
    ///
    /// # Errors
    /// [`RequestError`] when the order is refused. Subproblems name the identifiers to leave out. Where it
    /// [may be about `replaces`](RequestError::may_blame_replaces), the same order is to be placed without.
    pub async fn new_order(&self, wanted: &NewOrder) -> Result<PlacedOrder, RequestError> {
        let directory = self.client().directory().await?;
        let without = NewOrder { replaces: None, ..wanted.clone() };
        let sent = if directory.renewal_info.is_some() { wanted } else { &without };
        let reply = self.post(&directory.new_order, sent).await?;
        let url = reachable(&reply.url, reply.location()?)
            .ok_or_else(|| reply.malformed("an order whose URL can't be asked for".to_owned()))?;
        let order = match reply.object().map(|order: Order| order.resolved(&reply.url)) {
            Ok(order) if order.finalize.is_some() => order,
            // The order itself knows the rest. Where it can't be had now, its URL is what counts.
            placed => match (placed, self.fetch_order(&url).await) {
                (Ok(placed), Ok(whole)) => placed.completed(whole.value),
                (Ok(placed), Err(_)) => placed,
                (Err(_), Ok(whole)) => whole.value,
                (Err(error), Err(_)) => return Err(error),
            },
        };
        Ok(PlacedOrder { url, order, retry_after: reply.retry_after })
    }

    /// An order of this account that nobody has heard of: the answer to newOrder was lost. It is looked for in the account's
    /// list (RFC 8555 section 7.1.2.1), among the last ones. `None` also where the CA keeps no such list.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn find_order(&self, lost: &LostOrder<'_>) -> Result<Option<PlacedOrder>, RequestError> {
        let account: OrdersOf = self.post_as_get(&self.url(), None).await?.object()?;
        let mut next = account.orders.and_then(|url| reachable(&self.url(), &url));
        let mut urls: Vec<String> = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some(page) = next.take() else { break };
            let reply = self.post_as_get(&page, None).await?;
            let listed = reply.object::<OrderList>()?.orders;
            urls.extend(listed.iter().filter_map(|url| reachable(&page, url)));
            next = reply.links("next").next();
        }
        for url in urls.into_iter().rev().filter(|url| !lost.known.contains(url)).take(MOST_LOOKED_AT) {
            let Ok(Answer { value: order, retry_after }) = self.fetch_order(&url).await else { continue };
            if lost.is(&order) {
                return Ok(Some(PlacedOrder { url, order, retry_after }));
            }
        }
        Ok(None)
    }

    /// The order as it is now.
    ///
    /// # Errors
    /// [`RequestError`]; [`RequestError::is_gone`] where it expired and was purged.
    pub async fn fetch_order(&self, order_url: &str) -> Result<Answer<Order>, RequestError> {
        let answer: Answer<Order> = self.fetch_object(order_url).await?;
        Ok(answer.map(|order| order.resolved(order_url)))
    }

    /// Asks for the certificate (RFC 8555 section 7.4). The answer is often `processing`: fetch the order until it is
    /// valid. After any error fetch the order too, before it is taken for failed: the CA may have gone on.
    ///
    /// # Errors
    /// [`RequestError`]; of kind `orderNotReady` where the order is not, or no longer, ready; of kind `badCSR` or
    /// `badPublicKey` where another key or CSR is needed.
    pub async fn finalize(&self, finalize_url: &str, csr_der: &[u8]) -> Result<Answer<Order>, RequestError> {
        let csr = serde_json::json!({"csr": URL_SAFE_NO_PAD.encode(csr_der)});
        let reply = self.post(finalize_url, &csr).await?;
        let order: Order = reply.object()?;
        Ok(Answer { value: order.resolved(finalize_url), retry_after: reply.retry_after })
    }
}

impl RequestError {
    /// Whether an error of an order that said `replaces` may be about that (RFC 9773 section 5 names `alreadyReplaced`; CAs
    /// have refused the field with other types too). It can't be told for sure, and one more request costs less than a
    /// certificate that is never renewed.
    pub fn may_blame_replaces(&self) -> bool {
        let Some(problem) = self.problem() else { return false };
        match problem.kind() {
            ProblemKind::AlreadyReplaced
            | ProblemKind::Conflict
            | ProblemKind::Malformed
            | ProblemKind::Unauthorized => true,
            ProblemKind::ServerInternal => {
                problem.detail.as_ref().is_some_and(|text| text.contains("replaces"))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acme::request_error::Refusal;

    /// RFC 8555 section 7.1.3.
    const EXAMPLE: &str = r#"{
        "status": "valid",
        "expires": "2016-01-20T14:09:07.99Z",
        "identifiers": [
            {"type": "dns", "value": "www.example.org"},
            {"type": "dns", "value": "example.org"}
        ],
        "notBefore": "2016-01-01T00:00:00Z",
        "notAfter": "2016-01-08T00:00:00Z",
        "authorizations": [
            "https://example.com/acme/authz/PAniVnsZcis",
            "https://example.com/acme/authz/r4HqLzrSrpI"
        ],
        "finalize": "https://example.com/acme/order/TOlocE8rfgo/finalize",
        "certificate": "https://example.com/acme/cert/jWCdfHVGY2M"
    }"#;

    #[test]
    fn the_example_is_read_and_survives_storage() {
        let order: Order = serde_json::from_str(EXAMPLE).unwrap();
        assert_eq!(order.status, OrderStatus::Valid);
        assert_eq!(order.expires.unwrap().to_string(), "2016-01-20T14:09:07.99Z");
        assert_eq!(order.identifiers, [Identifier::dns("www.example.org"), Identifier::dns("example.org")]);
        assert_eq!(order.authorizations.len(), 2);
        assert_eq!(order.certificate.as_deref(), Some("https://example.com/acme/cert/jWCdfHVGY2M"));
        let stored = serde_json::to_string(&order).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&stored).unwrap(), order);
    }

    #[test]
    fn a_failed_order_and_an_unknown_state_are_read() {
        let failed = r#"{"status":"invalid","expires":"soon","finalize":"https://a/f","authorizations":[],
            "error":{"type":"urn:ietf:params:acme:error:caa","detail":"CAA forbids"},"profile":"classic",
            "replaces":"aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"}"#;
        let order: Order = serde_json::from_str(failed).unwrap();
        assert_eq!((order.status, order.expires), (OrderStatus::Invalid, None));
        assert_eq!(order.error.unwrap().kind(), ProblemKind::Caa);
        assert_eq!(order.replaces.unwrap().as_str(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
        let odd: Order = serde_json::from_str(r#"{"status":"held","finalize":"https://a/f"}"#).unwrap();
        assert_eq!(odd.status, OrderStatus::Unknown);
        let bare: Order = serde_json::from_str(r#"{"status":"valid"}"#).unwrap();
        assert_eq!((bare.status, bare.finalize), (OrderStatus::Valid, None));
    }

    #[test]
    fn one_odd_member_does_not_spoil_the_others() {
        let odd = r#"{"status":"ready","expires":null,"identifiers":[{"type":"dns","value":"a.example"},7,null],
            "authorizations":null,"finalize":"https://a/f","certificate":null,"error":"none","profile":{},"replaces":[],
            "notBefore":null,"new":[1]}"#;
        let order: Order = serde_json::from_str(odd).unwrap();
        assert_eq!(order.status, OrderStatus::Ready);
        assert_eq!((order.identifiers.len(), order.authorizations.len()), (1, 0));
        assert_eq!(order.finalize.as_deref(), Some("https://a/f"));
        assert_eq!((order.certificate, order.error, order.profile, order.replaces), (None, None, None, None));
        let stateless: Order = serde_json::from_str(r#"{"status":null}"#).unwrap();
        assert_eq!(stateless.status, OrderStatus::Unknown);
    }

    #[test]
    fn urls_that_nobody_can_ask_for_are_none() {
        let odd = r#"{"status":"ready","finalize":"/f/1","certificate":"http://ca.example/c/1",
            "authorizations":["https://ca.example/a/1","/a/2","ftp://ca.example/a/3"]}"#;
        let order: Order = serde_json::from_str(odd).unwrap();
        let order = order.resolved("https://ca.example/o/1");
        assert_eq!(order.finalize.as_deref(), Some("https://ca.example/f/1"));
        assert_eq!(order.authorizations, ["https://ca.example/a/1", "https://ca.example/a/2"]);
        assert_eq!(order.certificate, None);
    }

    #[test]
    fn an_order_says_no_more_than_it_must() {
        let order = NewOrder { identifiers: vec![Identifier::dns("A.example")], ..NewOrder::default() };
        assert_eq!(
            serde_json::to_string(&order).unwrap(),
            r#"{"identifiers":[{"type":"dns","value":"a.example"}]}"#
        );
    }

    #[test]
    fn errors_that_may_be_about_replaces_are_known() {
        let blames = |kind: &str, detail: &str| {
            let refusal = Refusal {
                status: 400,
                problem: Problem {
                    type_urn: Some(format!("urn:ietf:params:acme:error:{kind}")),
                    detail: Some(detail.to_owned()),
                    ..Problem::default()
                },
                retry_after: None,
                help: None,
                terms_of_service: None,
                location: None,
            };
            RequestError::Problem(Box::new(refusal)).may_blame_replaces()
        };
        for kind in ["alreadyReplaced", "conflict", "malformed", "unauthorized"] {
            assert!(blames(kind, "x"), "{kind}");
        }
        assert!(blames("serverInternal", "Could not validate ARI 'replaces' field"));
        for kind in ["serverInternal", "rateLimited", "rejectedIdentifier"] {
            assert!(!blames(kind, "x"), "{kind}");
        }
    }
}
