//! One node tells at a time: a key that expires by itself says which.

use shared::{
    digest::hex,
    store::{Owner, Store, StoreError},
};
use std::time::{Duration, Instant};

/// This node's right to tell, as long as the store says so.
#[derive(Clone)]
pub(super) struct Lead {
    store: Store,
    token: String,
    length: Duration,
}

impl Lead {
    /// `None` while another node tells.
    pub(super) async fn acquire(store: &Store, length: Duration) -> Result<Option<Self>, StoreError> {
        let mut random = [0; 8];
        openssl::rand::rand_bytes(&mut random)
            .expect("the system's random generator works, or no key could be made");
        let token = format!("{}/{}", Owner::this_process(), hex(&random));
        let acquired = store.acquire_notify_lead(&token, length).await?;
        Ok(acquired.then(|| Self { store: store.clone(), token, length }))
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Asks the store, before something is told, whether this node may.
    pub(super) async fn confirm(&self) -> Result<(), StoreError> {
        self.store.renew_notify_lead(&self.token, self.length).await
    }

    /// Renews until it is lost.
    pub(super) async fn keep(&self) {
        let mut confirmed = Instant::now();
        loop {
            tokio::time::sleep(self.length / 3).await;
            let asked = Instant::now();
            match self.confirm().await {
                Ok(()) => confirmed = asked,
                Err(StoreError::Fenced) => return,
                Err(_) if confirmed.elapsed() >= self.length => return,
                Err(_) => {}
            }
        }
    }

    pub(super) async fn release(&self) {
        // Where the store is away it ends by itself.
        let _ = self.store.release_notify_lead(&self.token).await;
    }
}
