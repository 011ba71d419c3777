//! Who signs: an account's key and its URL. Another program may have given the account another key.

use super::account_key::AccountKey;
use std::{fmt::Debug, pin::Pin, sync::Arc};

/// A key, and the URL of the account that it is of.
#[derive(Clone, Debug)]
pub struct Identity {
    pub key: AccountKey,
    pub url: Arc<str>,
}

/// Knows an account as it is now.
pub trait Keeper: Debug + Send + Sync {
    /// What takes the place of an identity that the CA has refused; `None`: nothing newer is known.
    fn newer<'a>(
        &'a self,
        refused: &'a Identity,
    ) -> Pin<Box<dyn Future<Output = Option<Identity>> + Send + 'a>>;
}

impl Identity {
    /// Whether both are the same account with the same key.
    pub fn is(&self, other: &Self) -> bool {
        self.url == other.url && self.key.thumbprint() == other.key.thumbprint()
    }
}
