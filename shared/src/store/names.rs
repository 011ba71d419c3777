//! Names: which group serves one, and which site it is kept for until it is served.

use super::{Store, StoreError, keys, scripts};
use crate::domain::{DnsName, SiteId};
use redis::cmd;

/// Whom a name belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePointer {
    /// The group that serves it.
    pub serving: Option<SiteId>,
    /// The site that it is kept for, where no group of it serves the name yet.
    pub wanting: Option<SiteId>,
    raw: String,
}

impl NamePointer {
    /// The site that it belongs to: the one that it is kept for goes before the one that still serves it.
    pub fn owner(&self) -> Option<SiteId> {
        self.wanting.clone().or_else(|| self.serving.as_ref().map(SiteId::site))
    }
}

impl Store {
    /// The group that serves a name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn site_of(&self, name: &DnsName) -> Result<Option<SiteId>, StoreError> {
        Ok(self.load_pointer(name).await?.serving)
    }

    /// The group that serves a name: its own, or that of the wildcard which covers it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn site_serving(&self, name: &DnsName) -> Result<Option<SiteId>, StoreError> {
        let names: Vec<DnsName> = [name.clone()].into_iter().chain(name.covering_wildcard()).collect();
        Ok(self.load_pointers(&names).await?.into_iter().find_map(|pointer| pointer.serving))
    }

    /// # Errors
    /// [`StoreError`]; a name that nobody has points nowhere.
    pub async fn load_pointer(&self, name: &DnsName) -> Result<NamePointer, StoreError> {
        let key = keys::name(name);
        let value: Option<String> = self.link.query(cmd("GET").arg(&key)).await?;
        parse(&key, value)
    }

    /// The pointers of many names, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_pointers(&self, names: &[DnsName]) -> Result<Vec<NamePointer>, StoreError> {
        self.load_each_pointer(names).await?.into_iter().collect()
    }

    /// The same; one that can't be read is an error of that one.
    ///
    /// # Errors
    /// [`StoreError`] where the store can't say.
    pub async fn load_each_pointer(
        &self,
        names: &[DnsName],
    ) -> Result<Vec<Result<NamePointer, StoreError>>, StoreError> {
        let keys: Vec<String> = names.iter().map(keys::name).collect();
        let values = self.read_texts(&keys).await?;
        Ok(keys.iter().zip(values).map(|(key, value)| parse(key, value?)).collect())
    }

    /// Keeps a name for a site, in the place of what was read.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else has got it in the meantime.
    pub async fn keep_name(
        &self,
        name: &DnsName,
        before: &NamePointer,
        site: &SiteId,
    ) -> Result<(), StoreError> {
        let serving = before.serving.as_ref().map(SiteId::to_string).unwrap_or_default();
        let value = format!("{serving}?{site}");
        let arguments = [before.raw.as_bytes(), value.as_bytes()];
        self.confirmed.script(&scripts::REPLACE_RECORD, &[keys::name(name)], &arguments).await
    }

    /// Lets names lead to a group: called after its certificate was published, never before. Names that were given to
    /// another site in the meantime stay there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn point_names(&self, names: &[DnsName], id: &SiteId) -> Result<(), StoreError> {
        let site = id.site();
        let arguments = [id.as_str().as_bytes(), site.as_str().as_bytes()];
        for name in names {
            let _: i64 = self.confirmed.script(&scripts::POINT_NAME, &[keys::name(name)], &arguments).await?;
        }
        Ok(())
    }

    /// Names no longer lead to a site (or to this group of it), and are no longer kept for it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_names(
        &self,
        names: &[DnsName],
        site: &SiteId,
        group: Option<&SiteId>,
    ) -> Result<(), StoreError> {
        let group = group.map(SiteId::to_string).unwrap_or_default();
        let arguments = [site.as_str().as_bytes(), group.as_bytes()];
        for name in names {
            let _: i64 =
                self.confirmed.script(&scripts::RELEASE_NAME, &[keys::name(name)], &arguments).await?;
        }
        Ok(())
    }
}

fn parse(key: &str, value: Option<String>) -> Result<NamePointer, StoreError> {
    let raw = value.unwrap_or_default();
    let (serving, wanting) = raw.split_once('?').unwrap_or((raw.as_str(), ""));
    let id = |text: &str| -> Result<Option<SiteId>, StoreError> {
        if text.is_empty() {
            return Ok(None);
        }
        SiteId::parse(text).map(Some).ok_or_else(|| StoreError::corrupt(key, format!("no site id: {text:?}")))
    };
    Ok(NamePointer { serving: id(serving)?, wanting: id(wanting)?, raw: raw.clone() })
}
