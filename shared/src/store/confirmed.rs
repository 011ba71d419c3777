//! Connections for writes that the CA is about to be told of.
//!
//! None of them reconnects by itself: a `WAIT` on a new connection would count nothing and confirm everything. Each write
//! and its confirmation go out together, on the same connection; one that failed is thrown away.

use super::{StoreError, link::DEADLINE, scripts::Script};
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, Value, aio::MultiplexedConnection};
use std::{sync::Mutex, time::Duration};
use tokio::sync::Semaphore;

/// As many as a node has workers, usually: the server writes to its disk once for all that wait in the same moment.
const MOST: usize = 64;

pub(super) struct ConfirmedPool {
    client: Client,
    idle: Mutex<Vec<MultiplexedConnection>>,
    places: Semaphore,
    replicas: u32,
}

impl ConfirmedPool {
    pub(super) fn new(client: Client, replicas: u32) -> Self {
        Self { client, idle: Mutex::default(), places: Semaphore::new(MOST), replicas }
    }

    /// Runs a script. It has happened, on as many replicas as are required, when this returns `Ok`; when it returns an
    /// error it may have happened all the same, so the script must be safe to repeat.
    pub(super) async fn script<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[&[u8]],
    ) -> Result<T, StoreError> {
        let mut call = Pipeline::new();
        call.add_command(script.call(keys, arguments));
        let value = match self.write(call.clone()).await {
            Err(StoreError::Refused(e)) if e.code() == Some("NOSCRIPT") => {
                let mut load = Pipeline::new();
                load.add_command(script.load()).ignore();
                call.cmd_iter().for_each(|command| {
                    load.add_command(command.clone());
                });
                self.write(load).await?
            }
            answer => answer?,
        };
        T::from_redis_value(value).map_err(|e| StoreError::corrupt("reply", e))
    }

    /// Runs a pipeline whose last value is returned.
    pub(super) async fn write(&self, mut pipeline: Pipeline) -> Result<Value, StoreError> {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        if self.replicas > 0 {
            pipeline.cmd("WAIT").arg(self.replicas).arg(wait_ms());
        }
        let attempt = async {
            let mut connection = self.connection().await?;
            let values: Vec<Value> = pipeline.query_async(&mut connection).await?;
            self.idle.lock().expect("nothing panics while holding it").push(connection);
            Ok::<_, StoreError>(values)
        };
        let mut values =
            tokio::time::timeout(DEADLINE, attempt).await.map_err(|_| StoreError::Timeout(DEADLINE))??;
        if self.replicas > 0 {
            let got = match values.pop() {
                Some(Value::Int(got)) => u32::try_from(got).unwrap_or(0),
                _ => 0,
            };
            if got < self.replicas {
                return Err(StoreError::Unconfirmed { wanted: self.replicas, got });
            }
        }
        Ok(values.pop().unwrap_or(Value::Nil))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        if let Some(connection) = self.idle.lock().expect("nothing panics while holding it").pop() {
            return Ok(connection);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(Duration::from_secs(1)))
            .set_response_timeout(Some(DEADLINE));
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

/// How long the server may wait for its replicas: less than the command's deadline, so that its count is heard.
fn wait_ms() -> u64 {
    u64::try_from(DEADLINE.as_millis()).expect("a deadline of seconds") * 2 / 3
}
