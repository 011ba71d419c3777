//! Whose names are that somebody asks for by hand: a group's that has all of them, nobody's, or no one's together.

use super::registry::SiteError;
use shared::{
    domain::{NameSet, SiteId},
    store::{NamePointer, Store, WantedSite},
};

/// Whom names belong to that are asked for in one certificate.
#[derive(Clone, Debug)]
pub enum Whose {
    /// A group of this site has all of them.
    Group(SiteId, Box<WantedSite>),
    /// Nobody's: the id of a site that is made for them.
    Nobody(SiteId),
}

impl Whose {
    /// The group that has them, or will.
    pub fn group(&self) -> &SiteId {
        match self {
            Self::Group(id, _) | Self::Nobody(id) => id,
        }
    }
}

/// Whom the names belong to, and what leads to it.
///
/// # Errors
/// [`SiteError::Taken`] where some of them are a site's that has not all of them in one certificate; the store's.
pub async fn whose(store: &Store, names: &NameSet) -> Result<(Whose, Vec<NamePointer>), SiteError> {
    let pointers = store.load_pointers(names.as_slice()).await?;
    let own_id = SiteId::of(names);
    let (mut owners, mut free): (Vec<WantedSite>, bool) = (Vec::new(), false);
    let mut taken = None;
    for (name, pointer) in names.iter().zip(&pointers) {
        // One that was made by a run that was killed has no pointer yet.
        let made = SiteId::of(&NameSet::one(name.clone()));
        let ids =
            [pointer.owner(), pointer.serving.as_ref().map(SiteId::site), Some(own_id.clone()), Some(made)];
        let mut owner = None;
        for id in ids.into_iter().flatten() {
            owner = store.load_wanted(&id).await?.filter(|wanted| wanted.site.names.contains(name));
            if owner.is_some() {
                break;
            }
        }
        match owner {
            Some(owner) => {
                taken.get_or_insert_with(|| SiteError::taken(name.clone(), &owner));
                if owners.iter().all(|known| known.id != owner.id) {
                    owners.push(owner);
                }
            }
            None => free = true,
        }
    }
    let Some(taken) = taken else {
        let is_given = store.load_wanted(&own_id).await?.is_some();
        let id = if is_given { SiteId::of_again(names) } else { own_id };
        return Ok((Whose::Nobody(id), pointers));
    };
    if let (Some(owner), 1, false) = (owners.pop(), owners.len() + 1, free) {
        let has_all = |group: &&NameSet| names.iter().all(|name| group.contains(name));
        if let Some((number, _)) = owner.groups.iter().find(|(_, group)| has_all(group)) {
            return Ok((Whose::Group(owner.id.group(*number), Box::new(owner)), pointers));
        }
    }
    Err(taken)
}
