//! The answers: identity first, then the method, then what is asked for.

use super::{
    Certificates,
    etag::ETag,
    files::{file_with_key, public_file},
    identity,
    item::{Item, State},
    listing::Page,
    refusal::Refusal,
    route::{FileKind, Route, Target},
    scope,
};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, TRANSFER_ENCODING},
    },
    web::{Bytes, Data},
};
use jiff::Timestamp;
use serde::Serialize;
use shared::{
    domain::{Certificate, CertificateId, Frontend, Leaf, Right, Slot},
    error::chain,
    store::{AuditEntry, StoredSite},
    vault::Vault,
};

/// What is kept of a path in the audit, in bytes. A hostname has 253 at most.
const AUDITED_BYTES: usize = 400;

/// Answers any request.
pub(crate) async fn answer(request: HttpRequest, role: Data<Certificates>) -> HttpResponse {
    let route = Route::parse(request.path(), request.query_string());
    let label = route.label();
    let response = match role.answer(&request, route).await {
        Ok(response) => response,
        Err(refusal) => {
            match &refusal {
                Refusal::Store(error) => tracing::warn!(error = chain(error), "a request can't be answered"),
                Refusal::Damaged(_) => {
                    tracing::error!(error = chain(&refusal), "a request can't be answered")
                }
                _ => {}
            }
            refusal.response()
        }
    };
    role.counters.request(label, response.status().as_u16());
    response
}

impl Certificates {
    async fn answer(&self, request: &HttpRequest, route: Route) -> Result<HttpResponse, Refusal> {
        let vault = self.vault.get().ok_or(Refusal::Starting)?;
        let frontend = identity::of(request, &self.store).await?;
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Err(Refusal::Method);
        }
        if has_body(request) {
            return Err(Refusal::Mistaken("a body is not expected"));
        }
        match route {
            Route::List { after, limit } => {
                let page = Page::load(&self.store, &frontend, after, limit).await?;
                document(request, &page)
            }
            Route::One(target) => self.one(request, &frontend, &target).await,
            Route::File(target, slot, kind) => {
                self.file(request, &frontend, &target, slot, kind, vault).await
            }
            Route::Mistaken(mistake) => Err(Refusal::Mistaken(mistake)),
            Route::Nowhere => Err(Refusal::NotFound),
        }
    }

    async fn one(
        &self,
        request: &HttpRequest,
        frontend: &Frontend,
        target: &Target,
    ) -> Result<HttpResponse, Refusal> {
        #[derive(Serialize)]
        struct One<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            name: Option<&'a str>,
            state: State,
            #[serde(flatten)]
            item: Item,
        }
        let stored = self.site(target).await?;
        let mut items = Item::load(&self.store, frontend, &stored, Timestamp::now()).await?;
        if items.is_empty() && !stored.serving.current.is_empty() {
            return Err(self.deny(request, frontend));
        }
        let name = match target {
            Target::Name(name) => Some(name.as_str()),
            Target::Item(_) => None,
        };
        let asked_for = |item: &Item| match target {
            Target::Item(id) => item.id() == id,
            Target::Name(name) => item.is_for(name),
        };
        let at = match items.iter().position(asked_for) {
            Some(at) => at,
            // A name that leads here is shown what there is.
            None if name.is_some() && !items.is_empty() => 0,
            None => return Err(Refusal::NotFound),
        };
        let item = items.swap_remove(at);
        document(request, &One { name, state: item.state(), item })
    }

    async fn file(
        &self,
        request: &HttpRequest,
        frontend: &Frontend,
        target: &Target,
        slot: Slot,
        kind: FileKind,
        vault: &Vault,
    ) -> Result<HttpResponse, Refusal> {
        let stored = self.site(target).await?;
        if !scope::sees_site(frontend, &stored.site) {
            return Err(self.deny(request, frontend));
        }
        let (id, certificate, leaf) = self.certificate(frontend, &stored, target, slot).await?;
        let in_scope = scope::sees_certificate(frontend, &stored.site, &leaf);
        if !in_scope || (kind.holds_key() && !frontend.may(Right::ReadKey)) {
            return Err(self.deny(request, frontend));
        }
        let etag = ETag::of_file(&id, kind.as_str());
        if etag.is_known_to(request.headers()) {
            return Ok(not_modified(&etag));
        }
        let content = if kind.holds_key() {
            let content = file_with_key(&certificate, &leaf, &stored.id, slot, kind, vault)?;
            // Before the key leaves: what can't be written down doesn't happen.
            let what = format!("{}.{slot} {id} {}", stored.id, leaf.spki_sha256);
            let (who, from) = (frontend.name.as_str(), peer(request));
            self.store.audit(AuditEntry { who, from: &from, action: "read-key", what: &what }).await?;
            self.counters.key_reads.inc();
            content
        } else {
            public_file(&certificate, kind)?
        };
        Ok(found(&etag, kind.content_type(), content))
    }

    /// What a target has in a slot, for this frontend.
    async fn certificate(
        &self,
        frontend: &Frontend,
        stored: &StoredSite,
        target: &Target,
        slot: Slot,
    ) -> Result<(CertificateId, Certificate, Leaf), Refusal> {
        let serving = &stored.serving;
        let given = match target {
            Target::Item(item) if item.kept => serving.kept.clone(),
            _ => serving.given_to(&frontend.scope.tags),
        };
        let found = self.load(stored, given.get(&slot)).await?.ok_or(Refusal::NotFound)?;
        if let Target::Name(name) = target
            && !found.2.covers(name)
            && let Some(kept) = self.load(stored, serving.kept.get(&slot)).await?
            && kept.2.covers(name)
            && kept.2.is_valid_at(Timestamp::now())
        {
            return Ok(kept);
        }
        Ok(found)
    }

    async fn load(
        &self,
        stored: &StoredSite,
        id: Option<&CertificateId>,
    ) -> Result<Option<(CertificateId, Certificate, Leaf)>, Refusal> {
        let Some(id) = id else { return Ok(None) };
        let certificate = self.store.load_certificate(&stored.id, id).await?.ok_or_else(|| {
            Refusal::Damaged(format!("certificate {id} of site {} is not there", stored.id).into())
        })?;
        let leaf = certificate.leaf().map_err(|e| Refusal::Damaged(e.into()))?;
        Ok(Some((id.clone(), certificate, leaf)))
    }

    async fn site(&self, target: &Target) -> Result<StoredSite, Refusal> {
        let id = match target {
            Target::Item(item) => Some(item.group.clone()),
            Target::Name(name) => self.store.site_of(name).await?,
        };
        match id {
            Some(id) => self.store.load_site(&id).await?.ok_or(Refusal::NotFound),
            None => Err(Refusal::NotFound),
        }
    }

    /// What is not this frontend's does not exist for it. The audit is written beside the answer, so that the answer
    /// doesn't wait for it.
    fn deny(&self, request: &HttpRequest, frontend: &Frontend) -> Refusal {
        self.counters.denials.inc();
        if let Ok(place) = std::sync::Arc::clone(&self.denials).try_acquire_owned() {
            let store = self.store.clone();
            let (who, from) = (frontend.name.clone(), peer(request));
            // A path is printable ASCII by the time it gets here.
            let what: String = request.path().chars().take(AUDITED_BYTES).collect();
            tokio::spawn(async move {
                let entry = AuditEntry { who: who.as_str(), from: &from, action: "denied", what: &what };
                if let Err(error) = store.audit(entry).await {
                    tracing::warn!(
                        error = chain(&error),
                        frontend = who.as_str(),
                        "a denied request is not in the audit"
                    );
                }
                drop(place);
            });
        }
        Refusal::NotFound
    }
}

/// A JSON document with its tag, or 304.
fn document(request: &HttpRequest, value: &impl Serialize) -> Result<HttpResponse, Refusal> {
    let content = serde_json::to_vec(value).map_err(|e| Refusal::Damaged(e.into()))?;
    let etag = ETag::of_content(&content);
    if etag.is_known_to(request.headers()) {
        return Ok(not_modified(&etag));
    }
    Ok(found(&etag, "application/json", content.into()))
}

fn found(etag: &ETag, content_type: &'static str, content: Bytes) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((ETAG, etag.as_str()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_TYPE, content_type))
        .body(content)
}

fn not_modified(etag: &ETag) -> HttpResponse {
    HttpResponse::NotModified()
        .insert_header((ETAG, etag.as_str()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .finish()
}

fn has_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

fn peer(request: &HttpRequest) -> String {
    request.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default()
}
