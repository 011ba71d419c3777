//! One server that keys live on, and the connections to it.

use super::{StoreError, link::DEADLINE};
use crate::config::HostPort;
use arc_swap::ArcSwap;
use redis::{
    AsyncConnectionConfig, Client, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// Confirmed writes to one server at once: as many as a node has workers, usually. The server writes to its disk once for all
/// that wait in the same moment.
const MOST: usize = 64;
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

pub(super) struct Node {
    /// `None` for a server that its URL alone names.
    pub(super) address: Option<HostPort>,
    client: Client,
    current: ArcSwap<ConnectionManager>,
    healthy: AtomicBool,
    idle: Mutex<Vec<MultiplexedConnection>>,
    pub(super) places: Semaphore,
}

impl Node {
    /// Connects when it is first used.
    pub(super) fn new(address: Option<HostPort>, client: Client) -> Result<Self, StoreError> {
        let manager = manager(&client).map_err(StoreError::Url)?;
        Ok(Self {
            address,
            client,
            current: ArcSwap::from_pointee(manager),
            healthy: AtomicBool::new(true),
            idle: Mutex::default(),
            places: Semaphore::new(MOST),
        })
    }

    /// Whether the last command was answered.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// The connection that heals itself.
    pub(super) fn manager(&self) -> Arc<ConnectionManager> {
        self.current.load_full()
    }

    /// Puts a new connection in the place of `used`, unless somebody else has.
    pub(super) fn replace(&self, used: &Arc<ConnectionManager>) {
        if Arc::ptr_eq(&self.current.load(), used)
            && let Ok(fresh) = manager(&self.client)
        {
            self.current.compare_and_swap(used, Arc::new(fresh));
        }
    }

    /// A connection for confirmed writes: it never reconnects.
    pub(super) async fn connection(&self) -> Result<MultiplexedConnection, RedisError> {
        if let Some(connection) = self.idle.lock().expect("nothing panics while holding it").pop() {
            return Ok(connection);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Keeps a connection that did its work.
    pub(super) fn give_back(&self, connection: MultiplexedConnection) {
        self.idle.lock().expect("nothing panics while holding it").push(connection);
    }

    /// Where one connection broke, the idle ones are broken too, most likely.
    pub(super) fn forget_idle(&self) {
        self.idle.lock().expect("nothing panics while holding it").clear();
    }
}

fn manager(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(DEADLINE))
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(50))
        .set_max_delay(Duration::from_millis(100));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
