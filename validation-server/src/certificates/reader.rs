//! What a request may see. Nothing is answered without a [`Reader`], and no key leaves without a [`KeyReader`]: both are
//! made here, of a frontend that was just looked up, and nowhere else.

use super::{audit::Asker, identity, item::Item, refusal::Refusal, scope};
use actix_web::HttpRequest;
use jiff::Timestamp;
use shared::{
    domain::{DnsName, Frontend, FrontendName, Leaf, Right, Site},
    error::chain,
    store::{FollowedGroup, Store},
};

/// Somebody who may read of the certificates in a scope.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    frontend: Frontend,
    identity: identity::Identity,
    scope_version: String,
    /// The address that the request came from.
    from: String,
}

/// One who may also be given their private keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyReader<'a>(&'a Reader);

impl Reader {
    /// Whoever sent the request.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] for nobody that is known, [`Refusal::Store`] when that can't be looked up.
    pub(crate) async fn of(request: &HttpRequest, store: &Store) -> Result<Self, Refusal> {
        let identity = identity::of(request)?;
        Self::look_up(identity, sender(request), store).await
    }

    /// The same one as it is now: a request may wait for long.
    ///
    /// # Errors
    /// As [`Reader::of`].
    pub(crate) async fn again(&self, store: &Store) -> Result<Self, Refusal> {
        Self::look_up(self.identity.clone(), self.from.clone(), store).await
    }

    async fn look_up(identity: identity::Identity, from: String, store: &Store) -> Result<Self, Refusal> {
        let frontend = identity.frontend(store).await?;
        settle_on_key(&frontend, &identity, store).await;
        let scope_version = frontend.scope_version();
        Ok(Self { frontend, identity, scope_version, from })
    }

    /// The frontend's name.
    pub(crate) fn name(&self) -> &str {
        self.frontend.name.as_str()
    }

    /// As it is written down.
    pub(crate) fn asker(&self) -> Asker {
        Asker { name: self.name().to_owned(), identity: self.identity.clone(), from: self.from.clone() }
    }

    /// Another one whenever the frontend may see other things.
    pub(crate) fn scope_version(&self) -> &str {
        &self.scope_version
    }

    /// What it may also be given keys of.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]: to somebody without the right there are no keys.
    pub(crate) fn with_keys(&self) -> Result<KeyReader<'_>, Refusal> {
        if self.frontend.may(Right::ReadKey) { Ok(KeyReader(self)) } else { Err(Refusal::NotFound) }
    }

    /// What it sees of a group.
    pub(crate) fn items(&self, group: &FollowedGroup, now: Timestamp) -> Vec<Item> {
        Item::of_group(&self.frontend, group, now)
    }

    /// Whether a group is in its scope.
    pub(crate) fn sees(&self, group: &FollowedGroup) -> bool {
        group.wanted.as_ref().is_some_and(|wanted| scope::sees_site(&self.frontend, &wanted.site))
    }

    /// Whether a group was in its scope when it had followed the changes up to `number`, and may be known to it since.
    pub(crate) fn saw(&self, group: &FollowedGroup, number: u64) -> bool {
        group.was_seen(&self.frontend.scope, number)
    }

    /// Whether one certificate of a site is in its scope.
    pub(crate) fn sees_certificate(&self, site: &Site, leaf: &Leaf) -> bool {
        scope::sees_certificate(&self.frontend, site, leaf)
    }

    pub(crate) fn sees_site(&self, site: &Site) -> bool {
        scope::sees_site(&self.frontend, site)
    }

    pub(crate) fn frontend_name(&self) -> &FrontendName {
        &self.frontend.name
    }

    pub(crate) fn may_sight_names(&self) -> bool {
        self.frontend.may(Right::Sight)
    }

    /// Whether it may ask for a name that no site has: one that matches its patterns.
    pub(crate) fn may_sight(&self, name: &DnsName) -> bool {
        self.may_sight_names() && self.covers(name)
    }

    /// Whether a name matches its patterns.
    pub(crate) fn covers(&self, name: &DnsName) -> bool {
        self.frontend.scope.covers(std::slice::from_ref(name), &[])
    }

    /// What its canaries are.
    pub(crate) fn tags(&self) -> &[String] {
        &self.frontend.scope.tags
    }
}

/// A key that is used for the first time ends the one before it. Where that can't be written now, the next request tries again.
async fn settle_on_key(frontend: &Frontend, identity: &identity::Identity, store: &Store) {
    if let identity::Identity::Key(key) = identity
        && frontend.next_spki_sha256.as_ref() == Some(key)
        && let Err(error) = store.change_frontend(&frontend.name, |frontend| frontend.settle_on(key)).await
    {
        let frontend = frontend.name.as_str();
        tracing::warn!(error = chain(&error), frontend, "the former key of a frontend can't be ended yet");
    }
}

/// The address that a request came from.
pub(crate) fn sender(request: &HttpRequest) -> String {
    request.peer_addr().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default()
}

impl std::ops::Deref for KeyReader<'_> {
    type Target = Reader;
    fn deref(&self) -> &Reader {
        self.0
    }
}
