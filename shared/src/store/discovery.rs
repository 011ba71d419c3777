//! Asking who serves which keys: Sentinels for the primary of a service, nodes of a Cluster for its slots.

use super::{StoreError, dial::Dial};
use crate::config::HostPort;
use futures_util::future::join_all;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, Value, cmd};
use std::{collections::HashMap, time::Duration};

/// How long one of those who are asked may take: less than a command's deadline, so that another can be asked.
const ANSWER_DEADLINE: Duration = Duration::from_millis(400);

/// The Sentinels that watch a service.
pub(super) struct Sentinels {
    pub(super) dial: Dial,
    pub(super) addresses: Vec<HostPort>,
    pub(super) service: String,
}

/// Slots that one primary serves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) primary: HostPort,
}

impl Sentinels {
    /// The primary, as most of the Sentinels say that know of the latest failover: the one that leads it counts it before it
    /// names the successor.
    pub(super) async fn primary(&self) -> Result<HostPort, StoreError> {
        let mut question = cmd("SENTINEL");
        question.arg("MASTER").arg(&self.service);
        let answers =
            join_all(self.addresses.iter().map(|address| ask(&self.dial, address, &question))).await;
        let (mut found, mut error) = (Vec::new(), None);
        for answer in answers {
            match answer.and_then(|value| parse_primary(value).map_err(RedisError::from)) {
                Ok(primary) => found.push(primary),
                Err(e) => error = Some(e),
            }
        }
        if let Some(primary) = latest(found) {
            return Ok(primary);
        }
        match error {
            Some(e) if e.to_string().contains("No such master") => Err(StoreError::Unsuitable(format!(
                "the Sentinels know no service {:?}: store.url ends with its name, as in `sentinel monitor NAME ...`",
                self.service
            ))),
            Some(e) => Err(e.into()),
            None => {
                Err(StoreError::Unavailable((ErrorKind::EmptySentinelList, "no Sentinel was asked").into()))
            }
        }
    }
}

/// Of the addresses of the highest epoch the one that is named most often.
fn latest(found: Vec<(u64, HostPort)>) -> Option<HostPort> {
    let epoch = found.iter().map(|(epoch, _)| *epoch).max()?;
    let named =
        |wanted: &HostPort| found.iter().filter(|(of, primary)| *of == epoch && primary == wanted).count();
    let most = found.iter().filter(|(of, _)| *of == epoch).max_by_key(|(_, primary)| named(primary))?;
    Some(most.1.clone())
}

/// The slots, as one node of a Cluster knows them.
pub(super) async fn ask_for_slots(dial: &Dial, node: &HostPort) -> Result<Vec<Range>, StoreError> {
    let mut question = cmd("CLUSTER");
    question.arg("SLOTS");
    let answer = ask(dial, node, &question).await.map_err(|e| {
        if e.to_string().contains("cluster support disabled") {
            StoreError::Unsuitable(format!(
                "the Redis at {node} is no part of a Cluster: name it with redis:// in store.url"
            ))
        } else {
            e.into()
        }
    })?;
    let ranges = parse_slots(answer, node).map_err(|e| StoreError::corrupt("CLUSTER SLOTS", e))?;
    if ranges.is_empty() {
        return Err(StoreError::Unavailable((ErrorKind::Client, "no node serves any slot yet").into()));
    }
    Ok(ranges)
}

/// Asks over a connection of its own, and gives up early.
async fn ask(dial: &Dial, address: &HostPort, question: &Cmd) -> Result<Value, RedisError> {
    let client = dial.client(address).map_err(|e| match e {
        StoreError::Url(e) => e,
        other => (ErrorKind::InvalidClientConfig, "the address can't be used", other.to_string()).into(),
    })?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_DEADLINE))
        .set_response_timeout(Some(ANSWER_DEADLINE));
    let asked = async {
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        question.query_async(&mut connection).await
    };
    tokio::time::timeout(ANSWER_DEADLINE, asked)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time", format!("from {address}")).into()))
}

/// The configuration epoch, which grows with every failover, and the address.
fn parse_primary(answer: Value) -> Result<(u64, HostPort), redis::ParsingError> {
    let fields = HashMap::<String, String>::from_redis_value(answer)?;
    let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
    let found = || {
        let port = u16::try_from(number("port")?).ok()?;
        let host = fields.get("ip").filter(|host| !host.is_empty())?.clone();
        Some((number("config-epoch").unwrap_or(0), HostPort { host, port }))
    };
    found().ok_or_else(|| redis::ParsingError::from("a Sentinel named no address"))
}

fn parse_slots(answer: Value, asked: &HostPort) -> Result<Vec<Range>, redis::ParsingError> {
    Vec::<Vec<Value>>::from_redis_value(answer)?
        .into_iter()
        .map(|range| {
            let mut fields = range.into_iter();
            let mut next = || fields.next().unwrap_or(Value::Nil);
            let first = u16::from_redis_value(next())?;
            let last = u16::from_redis_value(next())?;
            let mut primary = Vec::<Value>::from_redis_value(next())?.into_iter();
            let host = Option::<String>::from_redis_value(primary.next().unwrap_or(Value::Nil))?;
            let port = u16::from_redis_value(primary.next().unwrap_or(Value::Nil))?;
            // A node that doesn't know its own name is where it was asked.
            let host = host.filter(|host| !host.is_empty() && host != "?");
            let host = host.unwrap_or_else(|| asked.host.clone());
            Ok(Range { first, last, primary: HostPort { host, port } })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn slots_are_read_with_the_address_that_was_asked_where_a_node_does_not_know_its_own() {
        let node =
            |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(vec![])]);
        let answer = Value::Array(vec![
            Value::Array(vec![
                Value::Int(0),
                Value::Int(99),
                node(text("10.0.0.1"), 7000),
                node(text("x"), 1),
            ]),
            Value::Array(vec![Value::Int(100), Value::Int(16383), node(Value::Nil, 7001)]),
        ]);
        let asked = HostPort { host: "asked".into(), port: 9 };
        let at = |host: &str, port| HostPort { host: host.into(), port };
        assert_eq!(
            parse_slots(answer, &asked).unwrap(),
            [
                Range { first: 0, last: 99, primary: at("10.0.0.1", 7000) },
                Range { first: 100, last: 16383, primary: at("asked", 7001) },
            ]
        );
        assert!(parse_slots(text("x"), &asked).is_err());
    }

    #[test]
    fn the_latest_failover_counts_and_then_the_majority() {
        let at = |port| HostPort { host: "h".into(), port };
        assert_eq!(latest(vec![(1, at(1)), (2, at(2)), (1, at(1))]), Some(at(2)));
        // The leader counts the failover and still names the dead one.
        assert_eq!(latest(vec![(2, at(1)), (2, at(2)), (2, at(2))]), Some(at(2)));
        assert_eq!(latest(Vec::new()), None);
    }

    #[test]
    fn a_primary_is_read_with_its_epoch() {
        let fields = [("name", "store"), ("ip", "10.0.0.1"), ("port", "6379"), ("config-epoch", "7")];
        let map =
            |fields: &[(&str, &str)]| Value::Map(fields.iter().map(|(k, v)| (text(k), text(v))).collect());
        let (epoch, primary) = parse_primary(map(&fields)).unwrap();
        assert_eq!((epoch, primary.to_string().as_str()), (7, "10.0.0.1:6379"));
        assert!(parse_primary(map(&fields[..2])).is_err());
    }
}
