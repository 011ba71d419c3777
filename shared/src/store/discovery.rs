//! Asking who serves which keys: Sentinels for the primary of a service, nodes of a Cluster for its slots.

use super::{StoreError, dial::Dial};
use crate::config::HostPort;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Value,
    aio::MultiplexedConnection, cmd,
};
use std::{collections::HashMap, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long one of those who are asked may take: name, TCP, TLS, login and answer are seven round trips.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
/// How long the rest is waited for once most have answered: one of them may know of a later failover.
const STRAGGLERS: Duration = Duration::from_millis(100);
/// After this the next node of a Cluster is asked, too: one that is cut off says nothing at all.
const NEXT_ONE_AFTER: Duration = Duration::from_millis(300);

/// The Sentinels that watch a service.
pub(super) struct Sentinels {
    pub(super) dial: Dial,
    pub(super) addresses: Vec<HostPort>,
    pub(super) service: String,
}

/// What the Sentinels say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) primary: HostPort,
    /// Who may be promoted; `None` where it can't be told.
    pub(super) replicas: Option<Vec<Replica>>,
}

/// A replica, as far as a promotion goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// Its `replica-priority`.
    pub(super) priority: u64,
    /// Whether the Sentinels hear of it: one that they don't confirms nothing either.
    pub(super) is_up: bool,
}

/// What one of them says.
#[derive(Debug)]
struct Answer {
    epoch: u64,
    primary: HostPort,
    replicas: Option<Vec<Replica>>,
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
    pub(super) async fn ask(&self) -> Result<Watched, StoreError> {
        let mut asked: FuturesUnordered<_> =
            self.addresses.iter().map(|address| self.ask_one(address)).collect();
        let (mut found, mut error) = (Vec::new(), None);
        let mut until = Instant::now() + ANSWER_DEADLINE * 2;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            match answer {
                Ok(answer) => found.push(answer),
                Err(e) => error = Some(e),
            }
            if found.len() * 2 > self.addresses.len() {
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        if let Some(latest) = latest(found) {
            return Ok(latest);
        }
        match error {
            Some(e) if e.to_string().contains("No such master") => Err(StoreError::Unsuitable(format!(
                "the Sentinels know no service {:?}: store.url ends with its name, as in `sentinel monitor NAME ...`",
                self.service
            ))),
            Some(e) => Err(e.into()),
            None => Err(StoreError::Unavailable(
                RedisError::from((ErrorKind::EmptySentinelList, "no Sentinel was asked")).into(),
            )),
        }
    }

    async fn ask_one(&self, address: &HostPort) -> Result<Answer, RedisError> {
        within_time(address, async {
            let mut connection = connect(&self.dial, address).await?;
            let mut both = Pipeline::new();
            both.cmd("SENTINEL").arg("MASTER").arg(&self.service);
            both.cmd("SENTINEL").arg("REPLICAS").arg(&self.service);
            let answers: Vec<Result<Value, RedisError>> =
                both.ignore_errors().query_async(&mut connection).await?;
            let mut answers = answers.into_iter();
            let mut next = || {
                let missing = || (ErrorKind::UnexpectedReturnType, "a Sentinel left an answer out").into();
                answers.next().unwrap_or_else(|| Err(missing()))
            };
            let (primary, replicas) = (next(), next());
            let (epoch, primary) = parse_primary(primary?)?;
            let replicas = replicas.ok().and_then(|replicas| parse_replicas(replicas).ok());
            Ok(Answer { epoch, primary, replicas })
        })
        .await
    }
}

/// Of the answers of the highest epoch one that names the address that is named most often.
fn latest(mut found: Vec<Answer>) -> Option<Watched> {
    let epoch = found.iter().map(|answer| answer.epoch).max()?;
    found.retain(|answer| answer.epoch == epoch);
    let named = |wanted: &HostPort| found.iter().filter(|answer| answer.primary == *wanted).count();
    // One that may say what the replicas' priorities are knows more.
    let best = found.iter().max_by_key(|answer| (named(&answer.primary), answer.replicas.is_some()))?;
    Some(Watched { primary: best.primary.clone(), replicas: best.replicas.clone() })
}

/// The slots, as the first node of a Cluster says that answers.
pub(super) async fn ask_for_slots(dial: &Dial, nodes: &[HostPort]) -> Result<Vec<Range>, StoreError> {
    let mut left = nodes.iter();
    let mut asked = FuturesUnordered::new();
    let mut last_error = None;
    loop {
        if let Some(node) = left.next() {
            asked.push(ask_node_for_slots(dial, node));
        }
        let patience = if left.len() > 0 { NEXT_ONE_AFTER } else { ANSWER_DEADLINE * 2 };
        tokio::select! {
            Some(answer) = asked.next() => match answer {
                Ok(ranges) => return Ok(ranges),
                Err(error) => last_error = Some(error),
            },
            () = sleep(patience), if left.len() > 0 => {}
            else => break,
        }
        if asked.is_empty() && left.len() == 0 {
            break;
        }
    }
    Err(last_error.unwrap_or_else(|| {
        StoreError::Unavailable(
            RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node of the Cluster is known"))
                .into(),
        )
    }))
}

async fn ask_node_for_slots(dial: &Dial, node: &HostPort) -> Result<Vec<Range>, StoreError> {
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
        return Err(StoreError::Unavailable(
            RedisError::from((ErrorKind::Client, "no node serves any slot yet")).into(),
        ));
    }
    Ok(ranges)
}

/// Asks over a connection of its own.
async fn ask(dial: &Dial, address: &HostPort, question: &Cmd) -> Result<Value, RedisError> {
    within_time(address, async {
        let mut connection = connect(dial, address).await?;
        question.query_async(&mut connection).await
    })
    .await
}

async fn connect(dial: &Dial, address: &HostPort) -> Result<MultiplexedConnection, RedisError> {
    let client = dial.client(address).map_err(|e| match e {
        StoreError::Url(e) => e,
        other => (ErrorKind::InvalidClientConfig, "the address can't be used", other.to_string()).into(),
    })?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER_DEADLINE))
        .set_response_timeout(Some(ANSWER_DEADLINE));
    client.get_multiplexed_async_connection_with_config(&config).await
}

async fn within_time<T>(
    address: &HostPort,
    asked: impl Future<Output = Result<T, RedisError>>,
) -> Result<T, RedisError> {
    timeout(ANSWER_DEADLINE, asked)
        .await
        .unwrap_or_else(|_| Err((ErrorKind::Io, "no answer in time", format!("from {address}")).into()))
}

/// How many replicas may confirm although they are not the ones that would be promoted: Sentinel never promotes those of
/// priority 0, and goes by the priority before it goes by what a replica has received. One that is away may come back.
pub(super) fn unlikely_successors(replicas: &[Replica]) -> usize {
    let best = replicas.iter().map(|replica| replica.priority).filter(|priority| *priority > 0).min();
    replicas.iter().filter(|replica| replica.is_up && best != Some(replica.priority)).count()
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

fn parse_replicas(answer: Value) -> Result<Vec<Replica>, redis::ParsingError> {
    let parse = |fields: HashMap<String, String>| {
        let flags = fields.get("flags").map_or("", String::as_str);
        let is_up = !flags.contains("s_down") && !flags.contains("disconnected");
        let priority = fields.get("slave-priority").and_then(|text| text.parse().ok());
        let priority = priority.ok_or_else(|| redis::ParsingError::from("a replica without a priority"))?;
        Ok(Replica { priority, is_up })
    };
    Vec::<HashMap<String, String>>::from_redis_value(answer)?.into_iter().map(parse).collect()
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
        let found = |answers: &[(u64, u16)]| {
            let answer =
                |(epoch, port): &(u64, u16)| Answer { epoch: *epoch, primary: at(*port), replicas: None };
            latest(answers.iter().map(answer).collect()).map(|watched| watched.primary)
        };
        assert_eq!(found(&[(1, 1), (2, 2), (1, 1)]), Some(at(2)));
        // The leader counts the failover and still names the dead one.
        assert_eq!(found(&[(2, 1), (2, 2), (2, 2)]), Some(at(2)));
        assert_eq!(found(&[]), None);
    }

    #[test]
    fn replicas_are_read_with_their_priority() {
        let replica = |flags: &str, priority: &str| {
            let fields = [("name", "r"), ("flags", flags), ("slave-priority", priority)];
            Value::Map(fields.iter().map(|(k, v)| (text(k), text(v))).collect())
        };
        let answer = Value::Array(vec![replica("slave", "100"), replica("s_down,slave", "1")]);
        let read = [Replica { priority: 100, is_up: true }, Replica { priority: 1, is_up: false }];
        assert_eq!(parse_replicas(answer).unwrap(), read);
    }

    #[test]
    fn only_the_preferred_replicas_are_likely_to_be_promoted() {
        let up = |priority| Replica { priority, is_up: true };
        let away = |priority| Replica { priority, is_up: false };
        for (replicas, unlikely) in [
            (vec![], 0),
            (vec![up(100), up(100)], 0),
            (vec![up(100), up(0)], 1),
            (vec![up(10), up(100), up(100)], 2),
            (vec![up(0), up(0)], 2),
            // It may come back in the moment of the failover, without what was confirmed.
            (vec![away(10), up(100)], 1),
            // One that is gone for good confirms nothing, and stands in nobody's way.
            (vec![up(100), away(0)], 0),
        ] {
            assert_eq!(unlikely_successors(&replicas), unlikely, "{replicas:?}");
        }
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
