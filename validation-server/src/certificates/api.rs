//! The answers: identity first, then the method, then what is asked for.

use super::{
    Certificates,
    adapters::{self, SecretsWanted},
    bundles::{self, Wanted},
    enrolment,
    etag::ETag,
    files::{file_with_key, public_file},
    identity,
    item::{Item, State},
    listing::Page,
    reader::{KeyReader, Reader, sender},
    refusal::Refusal,
    reports,
    route::{FileKind, Route, Target},
    scope::even_out,
    sightings::{self, Seen},
};
use actix_web::{
    HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        Method,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, TRANSFER_ENCODING},
    },
    web::{self, Bytes, Data},
};
use futures_util::Stream;
use jiff::Timestamp;
use serde::Serialize;
use serving::seldom::Seldom;
use shared::{
    domain::{AuditedKey, Certificate, CertificateId, DnsName, Leaf, NameSet, SiteId, Slot},
    error::chain,
    store::StoredSite,
    vault::Vault,
};
use std::{pin::Pin, time::Duration};
use tokio::time::Instant;

/// What is kept of a path in the audit, in bytes. A hostname has 253 at most.
const AUDITED_BYTES: usize = 400;

/// Names what had to be left out of an adapter's answer, as it can't be read.
const DAMAGED_HEADER: &str = "Signpost-Damaged";
const DAMAGED_NAMED: usize = 50;

/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// A file with a private key that somebody may have.
struct KeyFile<'a> {
    id: &'a CertificateId,
    certificate: &'a Certificate,
    leaf: &'a Leaf,
    site: &'a SiteId,
    slot: Slot,
}

/// Answers any request.
pub(crate) async fn answer(
    request: HttpRequest,
    payload: web::Payload,
    role: Data<Certificates>,
) -> HttpResponse {
    // Anybody can ask while the store is away.
    static TOLD: Seldom = Seldom::new();
    let route = Route::parse(request.path(), request.query_string());
    let label = route.label();
    let mut payload = payload.into_inner();
    let response = match role.answer(&request, &mut payload, route).await {
        Ok(response) => response,
        Err(refusal) => {
            match &refusal {
                Refusal::Store(error) => TOLD.say(|unsaid| {
                    tracing::warn!(error = chain(error), unsaid, "a request can't be answered");
                }),
                Refusal::Damaged(_) | Refusal::Unaudited(_) => {
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
    async fn answer(
        &self,
        request: &HttpRequest,
        payload: &mut Payload,
        route: Route,
    ) -> Result<HttpResponse, Refusal> {
        let vault = self.vault.get().ok_or(Refusal::Starting)?;
        if route == Route::Certificate {
            return self.own_certificate_of(request, payload).await;
        }
        let reader = Reader::of(request, &self.store).await?;
        let methods = route.methods();
        check_method(request, methods)?;
        if methods != "POST" && has_body(request) {
            return Err(Refusal::Mistaken("a body is not expected".to_owned()));
        }
        match route {
            Route::List { after, limit } => {
                let page = Page::load(&self.store, &reader, after, limit).await?;
                document(request, &page)
            }
            Route::One(target) => self.one(request, &reader, &target).await,
            Route::File(target, slot, kind) => self.file(request, &reader, &target, slot, kind, vault).await,
            Route::Changes { cursor, limit, wait } => {
                let _place = self.waiting.enter(reader.name())?;
                let connection = request.conn_data::<serving::Connection>();
                let cursor = cursor.map(|cursor| *cursor);
                plain(&self.changes(&reader, cursor, limit, wait, connection).await?)
            }
            Route::Bundles => {
                let Ok(keys) = reader.with_keys() else { return Err(self.deny(request, &reader)) };
                let wanted = Wanted::parse(&body(payload, bundles::BODY_BYTES).await?)?;
                let lines = self.bundles(keys, &wanted, vault).await?;
                Ok(HttpResponse::Ok()
                    .insert_header((CACHE_CONTROL, "no-store"))
                    .insert_header((CONTENT_TYPE, "application/x-ndjson"))
                    .body(lines))
            }
            Route::Ask(name) => self.ask(&reader, name.as_ref()).await,
            Route::Traefik => {
                let Ok(keys) = reader.with_keys() else { return Err(self.deny(request, &reader)) };
                if is_head(request) {
                    return Ok(head_of_secret("application/json", None));
                }
                Ok(secret(self.traefik(keys, vault).await?))
            }
            Route::Caddy => {
                let Ok(keys) = reader.with_keys() else { return Err(self.deny(request, &reader)) };
                if is_head(request) {
                    return Ok(head_of_secret("application/json", None));
                }
                Ok(secret(self.caddy(request, keys, vault).await?))
            }
            Route::Secrets => {
                let Ok(keys) = reader.with_keys() else { return Err(self.deny(request, &reader)) };
                let wanted = SecretsWanted::parse(&body(payload, adapters::SECRETS_BYTES).await?)?;
                match self.secrets(keys, &wanted, vault).await {
                    Ok(Some(secrets)) => Ok(secret(secrets)),
                    Ok(None) => {
                        Ok(HttpResponse::NotModified().insert_header((CACHE_CONTROL, "no-store")).finish())
                    }
                    Err(Refusal::NotFound) => Err(self.deny(request, &reader)),
                    Err(refusal) => Err(refusal),
                }
            }
            Route::Haproxy(target, slot) => {
                let slot = match slot {
                    Some(slot) => slot,
                    None => {
                        let stored = self.seen(request, &reader, &target).await?;
                        match self.first_slot(&reader, stored.id).await {
                            Err(Refusal::NotFound) => return Err(self.deny(request, &reader)),
                            slot => slot?,
                        }
                    }
                };
                self.file(request, &reader, &target, slot, FileKind::Bundle, vault).await
            }
            Route::Status => {
                let report = body(payload, reports::BODY_BYTES).await?;
                self.note_report(&reader, &report).await?;
                Ok(HttpResponse::NoContent().insert_header((CACHE_CONTROL, "no-store")).finish())
            }
            Route::Sightings => {
                if !reader.may_sight_names() {
                    return Err(self.deny(request, &reader));
                }
                let seen = Seen::parse(&body(payload, sightings::BODY_BYTES).await?)?;
                plain(&self.sightings(&reader, &seen).await?)
            }
            Route::Mistaken(mistake) => Err(Refusal::Mistaken(mistake.to_owned())),
            Route::Nowhere | Route::Certificate => Err(Refusal::NotFound),
        }
    }

    /// 200 for a name of the frontend that has a certificate, or is to get one and does not fail; 403 for all others. Never 200
    /// because nobody knows.
    async fn ask(&self, reader: &Reader, name: Option<&DnsName>) -> Result<HttpResponse, Refusal> {
        let allowed = match name {
            Some(name) => self
                .stored(&Target::Name(name.clone()))
                .await?
                .is_some_and(|stored| reader.sees_site(&stored.site) && is_served_or_pending(&stored)),
            None => false,
        };
        let mut answer = if allowed { HttpResponse::Ok() } else { HttpResponse::Forbidden() };
        Ok(answer.insert_header((CACHE_CONTROL, "no-store")).finish())
    }

    /// Who asks need not be allowed anything else yet.
    async fn own_certificate_of(
        &self,
        request: &HttpRequest,
        payload: &mut Payload,
    ) -> Result<HttpResponse, Refusal> {
        let identity = identity::of(request)?;
        let name = identity.enrolled_name(&self.store).await?;
        check_method(request, Route::Certificate.methods())?;
        let csr = body(payload, enrolment::BODY_BYTES).await?;
        plain(&self.certify(&identity, &name, &sender(request), &csr).await?)
    }

    async fn one(
        &self,
        request: &HttpRequest,
        reader: &Reader,
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
        let id = self.seen(request, reader, target).await?.id;
        let group = self.store.load_followed(&[id]).await?.pop().ok_or(Refusal::NotFound)?;
        let Some(stored) = &group.wanted else { return Err(Refusal::absent(&group)) };
        let mut items = reader.items(&group, Timestamp::now());
        if items.is_empty() && group.damaged.is_some() {
            return Err(Refusal::absent(&group));
        }
        if items.is_empty() && !stored.serving.current.is_empty() {
            return Err(self.deny(request, reader));
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
        reader: &Reader,
        target: &Target,
        slot: Slot,
        kind: FileKind,
        vault: &Vault,
    ) -> Result<HttpResponse, Refusal> {
        let stored = self.seen(request, reader, target).await?;
        let (id, certificate, leaf) = self.certificate(reader, &stored, target, slot).await?;
        if !reader.sees_certificate(&stored.site, &leaf) {
            return Err(self.deny(request, reader));
        }
        let etag = ETag::of_file(&id, kind.as_str());
        let content = if kind.holds_key() {
            let Ok(keys) = reader.with_keys() else { return Err(self.deny(request, reader)) };
            if etag.is_known_to(request.headers()) {
                return Ok(not_modified(&etag));
            }
            if is_head(request) {
                return Ok(head_of_secret(kind.content_type(), Some(&etag)));
            }
            let key = KeyFile { id: &id, certificate: &certificate, leaf: &leaf, site: &stored.id, slot };
            self.key_file(keys, &key, kind, vault).await?
        } else {
            if etag.is_known_to(request.headers()) {
                return Ok(not_modified(&etag));
            }
            public_file(&certificate, kind)?
        };
        Ok(found(&etag, kind.content_type(), content))
    }

    async fn key_file(
        &self,
        reader: KeyReader<'_>,
        key: &KeyFile<'_>,
        kind: FileKind,
        vault: &Vault,
    ) -> Result<Bytes, Refusal> {
        let content = file_with_key(key.certificate, key.leaf, key.site, key.slot, kind, vault)?;
        // Before the key leaves: what can't be written down doesn't happen.
        let given = AuditedKey {
            lineage: format!("{}.{}", key.site, key.slot),
            certificate: key.id.clone(),
            spki_sha256: key.leaf.spki_sha256.clone(),
        };
        self.audit.read_keys(&reader.asker(), vec![given]).await?;
        self.counters.key_reads.inc();
        Ok(content)
    }

    /// What a target has in a slot, for this frontend.
    async fn certificate(
        &self,
        reader: &Reader,
        stored: &StoredSite,
        target: &Target,
        slot: Slot,
    ) -> Result<(CertificateId, Certificate, Leaf), Refusal> {
        let serving = &stored.serving;
        let given = match target {
            Target::Item(item) if item.kept => serving.kept.clone(),
            _ => serving.given_to(reader.tags()),
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

    /// The site of a target that the frontend sees. One that it doesn't see and one that isn't there are told apart by nothing:
    /// not by the answer, nor by what the store is asked, nor by what is written to the audit.
    async fn seen(
        &self,
        request: &HttpRequest,
        reader: &Reader,
        target: &Target,
    ) -> Result<StoredSite, Refusal> {
        let begun = Instant::now();
        let found = self.stored(target).await?.filter(|stored| reader.sees_site(&stored.site));
        if found.is_none() {
            even_out(begun).await;
        }
        match found {
            Some(stored) => Ok(stored),
            // What its patterns cover is no secret, and asked for again and again until it is there.
            None if matches!(target, Target::Name(name) if reader.covers(name)) => Err(Refusal::NotFound),
            _ => Err(self.deny(request, reader)),
        }
    }

    /// The site of a target. Where a name leads nowhere, a site is asked for all the same.
    async fn stored(&self, target: &Target) -> Result<Option<StoredSite>, Refusal> {
        let (id, is_known) = match target {
            Target::Item(item) => (item.group.clone(), true),
            Target::Name(name) => match self.store.site_serving(name).await? {
                Some(id) => (id, true),
                None => (SiteId::of(&NameSet::one(name.clone())), false),
            },
        };
        Ok(self.store.load_site(&id).await?.filter(|_| is_known))
    }

    /// What is not this frontend's does not exist for it. The audit is written beside the answer, so that the answer
    /// doesn't wait for it.
    fn deny(&self, request: &HttpRequest, reader: &Reader) -> Refusal {
        self.counters.denials.inc();
        if let Ok(place) = std::sync::Arc::clone(&self.denials).try_acquire_owned() {
            let (audit, asker) = (self.audit.clone(), reader.asker());
            // A path is printable ASCII by the time it gets here.
            let path: String = request.path().chars().take(AUDITED_BYTES).collect();
            tokio::spawn(async move {
                if let Err(error) = audit.denied(&asker, path).await {
                    let frontend = asker.name;
                    tracing::warn!(error = chain(&error), frontend, "a denied request is not in the audit");
                }
                drop(place);
            });
        }
        Refusal::NotFound
    }
}

fn is_served_or_pending(stored: &StoredSite) -> bool {
    let fails = stored.failure.is_some() || stored.parked.is_some() || stored.site.paused.is_some();
    !stored.serving.current.is_empty() || !fails
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

fn check_method(request: &HttpRequest, methods: &'static str) -> Result<(), Refusal> {
    let is_answered = methods.split(", ").any(|method| request.method() == method);
    if is_answered { Ok(()) } else { Err(Refusal::Method(methods)) }
}

fn is_head(request: &HttpRequest) -> bool {
    request.method() == Method::HEAD
}

/// The answer to a question for something with keys in it that asks for no content: no key is opened for it, and none is given
/// out. How long it would be is not said.
fn head_of_secret(content_type: &'static str, etag: Option<&ETag>) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((CONTENT_TYPE, content_type));
    if let Some(etag) = etag {
        response.insert_header((ETAG, etag.as_str()));
    }
    response
        .message_body(actix_web::body::None::new())
        .map(|response| response.map_into_boxed_body())
        .unwrap_or_else(|_| HttpResponse::InternalServerError().finish())
}

fn has_body(request: &HttpRequest) -> bool {
    let headers = request.headers();
    headers.contains_key(TRANSFER_ENCODING)
        || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

/// A body of at most `limit` bytes, within a time that a sleeping client has no part in.
async fn body(payload: &mut Payload, limit: usize) -> Result<Vec<u8>, Refusal> {
    let read = async {
        let mut body = Vec::new();
        while let Some(chunk) =
            std::future::poll_fn(|context| Pin::new(&mut *payload).poll_next(context)).await
        {
            let chunk = chunk.map_err(|_| Refusal::Mistaken("the body broke off".to_owned()))?;
            if body.len() + chunk.len() > limit {
                return Err(Refusal::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(BODY_PATIENCE, read).await.map_err(|_| Refusal::TooSlow)?
}

/// A JSON document with keys in it.
fn secret(answer: adapters::Answer) -> HttpResponse {
    let mut response = HttpResponse::Ok();
    response.insert_header((CACHE_CONTROL, "no-store")).insert_header((CONTENT_TYPE, "application/json"));
    if !answer.damaged.is_empty() {
        // The first ones: a header has to end somewhere.
        let named: Vec<&str> = answer.damaged.iter().take(DAMAGED_NAMED).map(String::as_str).collect();
        response.insert_header((DAMAGED_HEADER, named.join(", ")));
    }
    response.body(answer.document)
}

/// A JSON document that is another one each time.
fn plain(value: &impl Serialize) -> Result<HttpResponse, Refusal> {
    let content = serde_json::to_vec(value).map_err(|e| Refusal::Damaged(e.into()))?;
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_TYPE, "application/json"))
        .body(content))
}
