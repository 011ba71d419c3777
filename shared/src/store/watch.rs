//! The watchdog of a program that runs for long: what stands in the way of its work, found out by real commands.

use super::{
    Role, Store, StoreError,
    check::{evicting_policy, field},
    failover::Seen,
    halt::{Reason, Watcher},
};
use redis::cmd;
use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

/// Pause between two looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Looks after which who serves what is asked for again, whether there was a reason or not: a primary that was cut off
/// answers us as before.
const ASK_AGAIN_EVERY: u32 = 10;
/// Looks between two at settings that seldom change.
const SETTINGS_EVERY: u32 = 3;
/// Seconds after which a replica that has said nothing does not count.
const SILENT_REPLICA: u64 = 10;

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Obstacle {
    Silent = 1,
    Refusing,
    TakesNoWrites,
    TooFewReplicas,
    Emptied,
    Foreign,
    Evicting,
}

/// The obstacle that was found last.
#[derive(Default)]
pub(super) struct Standing(AtomicU8);

impl Standing {
    fn set(&self, obstacle: Option<Obstacle>) {
        self.0.store(obstacle.map_or(0, |obstacle| obstacle as u8), Ordering::Relaxed);
    }

    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        let found = self.0.load(Ordering::Relaxed);
        Obstacle::ALL.into_iter().find(|obstacle| *obstacle as u8 == found)
    }
}

impl Obstacle {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::Refusing,
        Self::TakesNoWrites,
        Self::TooFewReplicas,
        Self::Emptied,
        Self::Foreign,
        Self::Evicting,
    ];

    /// For `/readyz` and the log.
    pub const fn to_words(self) -> &'static str {
        match self {
            Self::Silent => "the store does not answer",
            Self::Refusing => "the store refuses this program",
            Self::TakesNoWrites => "the store takes no writes",
            Self::TooFewReplicas => "the store has fewer replicas than must confirm a write",
            Self::Emptied => "the store was emptied",
            Self::Foreign => "the store was sealed with keys that this program lacks",
            Self::Evicting => "the store may throw records away",
        }
    }

    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Refused(_)
            | StoreError::LacksRight(_)
            | StoreError::Credentials(_)
            | StoreError::Unsuitable(_) => Self::Refusing,
            StoreError::Unavailable(e) => {
                match super::error::first_of_pipeline(redis::RedisError::clone(e)).code() {
                    Some("OOM" | "READONLY" | "MISCONF" | "NOREPLICAS") => Self::TakesNoWrites,
                    _ => Self::Silent,
                }
            }
            _ => Self::Silent,
        }
    }
}

impl From<Reason> for Obstacle {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Emptied => Self::Emptied,
            Reason::Foreign => Self::Foreign,
            Reason::Evicting => Self::Evicting,
        }
    }
}

impl Store {
    /// Asks again and again, so that a store that can't be used is noticed within three seconds while nothing else is asked,
    /// its connection replaced, and a failover noticed. Never returns.
    pub async fn watch(&self) {
        let mut seen = Seen::default();
        let mut before = None;
        for turn in 1_u32.. {
            tokio::time::sleep(WATCH_EVERY).await;
            if let Some(layout) = self.link.servers.known() {
                layout.nodes().for_each(|node| node.close_what_idles());
                if turn % ASK_AGAIN_EVERY == 0 {
                    self.link.servers.doubt(&layout);
                }
            }
            let answer = self.look(&mut seen, turn % SETTINGS_EVERY == 0).await;
            let obstacle = match (&answer, self.halt.reason()) {
                // What stopped this program says more than that it was stopped.
                (Err(StoreError::Unsuitable(_)), Some(reason)) => Some(Obstacle::from(reason)),
                (Err(error), _) => Some(Obstacle::of(error)),
                (Ok(Some(obstacle)), _) => Some(*obstacle),
                (Ok(None), reason) => reason.map(Obstacle::from),
            };
            self.standing.set(obstacle);
            if obstacle != before {
                match (obstacle, &answer) {
                    (None, _) => tracing::info!("the store answers again"),
                    (Some(obstacle), Err(error)) => {
                        tracing::error!(error = crate::error::chain(error), "{}", obstacle.to_words());
                    }
                    (Some(obstacle), Ok(_)) => tracing::error!("{}", obstacle.to_words()),
                }
            }
            before = obstacle;
        }
    }

    /// What stands in the way of this program's work; `None` also before [`Store::watch`] has looked.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let unanswered = || (!self.link.servers.are_healthy()).then_some(Obstacle::Silent);
        self.standing.obstacle().or_else(unanswered)
    }

    /// Asks every primary who it is, and does, without any effect, what this role does.
    async fn look(&self, seen: &mut Seen, settings: bool) -> Result<Option<Obstacle>, StoreError> {
        if self.halt.reason() == Some(Reason::Emptied) {
            seen.forget_records();
        }
        let mut fewest = u32::MAX;
        let answers = self.link.ask_each::<String>(cmd("INFO").arg("replication")).await?;
        seen.keep(&answers.iter().map(|(slot, _)| *slot).collect::<Vec<_>>());
        for (slot, answer) in answers {
            match answer {
                Ok(info) if field(&info, "role") == Some("slave") => {
                    fewest = 0;
                    if let Ok(layout) = self.link.servers.layout().await {
                        self.link.servers.doubt(&layout);
                    }
                }
                Ok(info) => {
                    fewest = fewest.min(replicas_that_answer(&info));
                    if let Some(id) = field(&info, "master_replid") {
                        self.note(seen, slot, id).await;
                    }
                }
                // A user without this right has its answer all the same.
                Err(StoreError::Refused(error)) if error.code() == Some("NOPERM") => {}
                Err(error) => return Err(error),
            }
        }
        // Before anything that writes: what was stopped for the policy goes on by this alone.
        if settings && self.role != Role::Challenge {
            self.look_at_policy().await?;
        }
        match self.role {
            Role::Challenge => self.probe_where_refused().await?,
            Role::Certificates => self.probe_audit().await?,
            Role::Issuer => self.probe_writing().await?,
        }
        // Rights are taken away from a program that runs, too.
        if self.role != Role::Challenge {
            self.check_rights().await?;
        }
        let wanted = self.confirmed.replicas_to_wait_for();
        Ok((self.role == Role::Issuer && fewest < wanted).then_some(Obstacle::TooFewReplicas))
    }

    /// The server answers: whether it gives out tokens, those who ask for them find out. What they were refused is tried until
    /// it is granted.
    async fn probe_where_refused(&self) -> Result<(), StoreError> {
        let Some(layout) = self.link.servers.known() else { return Ok(()) };
        if layout.nodes().any(|node| node.was_refused()) {
            self.probe_reading("sp:token:startup-check").await?;
            layout.nodes().for_each(|node| node.set_refused(false));
        }
        Ok(())
    }

    /// One that was told to evict meanwhile is noticed before it does much harm.
    async fn look_at_policy(&self) -> Result<(), StoreError> {
        let mut reason = None;
        for (_, answer) in self.link.ask_each::<String>(cmd("INFO").arg("memory")).await? {
            if evicting_policy(&answer?).is_some() {
                reason = Some(Reason::Evicting);
            }
        }
        if self.halt.set(Watcher::Policy, reason)
            && let Some(reason) = reason
        {
            tracing::error!("{}", reason.to_words());
        }
        Ok(())
    }

    /// Whether the audit could be written, without writing a line of it: without that no key is given out.
    async fn probe_audit(&self) -> Result<(), StoreError> {
        let mut probe = cmd("XADD");
        probe.arg("sp:{sightings}:startup-check").arg("NOMKSTREAM").arg("*").arg("a").arg(1);
        self.link.query::<Option<String>>(&probe).await.map(drop)
    }
}

/// Replicas that have what was written until a moment ago.
fn replicas_that_answer(info: &str) -> u32 {
    let replicas = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online"));
    let lag = |line: &str| line.trim().split_once("lag=")?.1.split(',').next()?.parse::<u64>().ok();
    let count = replicas.filter(|line| lag(line).is_none_or(|lag| lag <= SILENT_REPLICA)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_are_silent_or_not_yet_there_do_not_count() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:4\r\n\
                    slave0:ip=127.0.0.1,port=1,state=online,offset=1,lag=0\r\n\
                    slave1:ip=127.0.0.1,port=2,state=wait_bgsave,offset=0,lag=0\r\n\
                    slave2:ip=127.0.0.1,port=3,state=online,offset=1,lag=40\r\n\
                    slave3:ip=127.0.0.1,port=4,state=online,offset=1,lag=1,io-thread=0\r\nmaster_replid:x\r\n";
        assert_eq!(replicas_that_answer(info), 2);
    }

    #[test]
    fn every_obstacle_is_told_from_the_others() {
        let standing = Standing::default();
        assert_eq!(standing.obstacle(), None);
        for obstacle in Obstacle::ALL {
            standing.set(Some(obstacle));
            assert_eq!(standing.obstacle(), Some(obstacle));
        }
    }

    #[test]
    fn what_the_server_answers_decides_what_stands_in_the_way() {
        let server = |text: &str| {
            let mut bytes = format!("-{text}\r\n").into_bytes();
            let value = redis::parse_redis_value(&std::mem::take(&mut bytes)).unwrap();
            Obstacle::of(&StoreError::from(value.extract_error().unwrap_err()))
        };
        assert_eq!(server("READONLY You can't write against a read only replica."), Obstacle::TakesNoWrites);
        assert_eq!(server("OOM command not allowed"), Obstacle::TakesNoWrites);
        assert_eq!(server("WRONGPASS invalid username-password pair"), Obstacle::Refusing);
        assert_eq!(server("NOPERM this user has no permissions"), Obstacle::Refusing);
        assert_eq!(server("LOADING Redis is loading the dataset in memory"), Obstacle::Silent);
        assert_eq!(server("ERR max number of clients reached"), Obstacle::Silent);
    }
}
