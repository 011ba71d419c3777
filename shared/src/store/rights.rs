//! The rights of each role in Redis: what the embedded store grants, and what is asked for before a program goes to work.

use super::{Role, Store, StoreError, check::lacking_for};
use redis::cmd;

/// The rules of a role's user, as an ACL file has them. The role that faces the world reads tokens and nothing else.
pub(super) const fn granted(role: Role) -> &'static str {
    match role {
        Role::Challenge => "resetkeys %R~sp:token:* resetchannels -@all +get +hello +auth +info",
        Role::Certificates => {
            "resetkeys %R~sp:schema %R~sp:epoch %R~sp:vault:* %R~sp:{p*}:site:* %R~sp:{p*}:cert:* %R~sp:{p*}:leaf:* %R~sp:{p*}:sites \
             %R~sp:{p*}:feed* %R~sp:chain:* %R~sp:name:* %R~sp:tls-policy %RW~sp:{sightings}:* %R~sp:frontends %RW~sp:frontends-changed \
             %RW~sp:frontend:* %RW~sp:frontend-key:* %W~sp:frontend-report:* %RW~sp:internal-ca %RW~sp:audit \
             %W~sp:nodes resetchannels -@all +get +set +hset +hget +hmget +hgetall +zrangebylex +zrangebyscore +zrange +zadd +zcard +zscore +zrem +hdel +xadd +xlen \
             +del +incr +eval +evalsha +hello +auth +info +time +wait"
        }
        Role::Issuer => {
            "resetkeys ~sp:* resetchannels +@all -@dangerous -@blocking -keys -scan +info +wait +config|get +acl|getuser"
        }
    }
}

/// What a role may besides in the embedded store, where one of its commands looks after the server itself.
pub(super) const fn granted_where_embedded(role: Role) -> &'static str {
    match role {
        Role::Challenge => " +ping",
        Role::Certificates => "",
        Role::Issuer => " +shutdown",
    }
}

/// Answers the first of some commands that its caller may not run, and runs none of them. Their words are separated by blanks.
/// A server that doesn't know the question has its answer all the same.
const FIRST_LACKING: &str = "\
if not redis.acl_check_cmd then return false end
for _, question in ipairs(ARGV) do
  local words = {}
  for word in string.gmatch(question, '%S+') do words[#words + 1] = word end
  local known, may = pcall(redis.acl_check_cmd, unpack(words))
  if known and not may then return question end
end
return false";

/// Every command and every kind of key that the role `certificates` needs.
const OF_CERTIFICATES: &[&str] = &[
    "GET sp:schema",
    "HGET sp:epoch n",
    "GET sp:vault:canary",
    "HMGET sp:{p00}:site:0 spec",
    "HGETALL sp:{p00}:site:0",
    "GET sp:{p00}:cert:0:0",
    "GET sp:{p00}:leaf:0",
    "ZRANGEBYLEX sp:{p00}:sites - +",
    "ZRANGEBYSCORE sp:{p00}:feed 0 1",
    "GET sp:chain:0",
    "GET sp:name:0",
    "GET sp:tls-policy",
    "ZADD sp:{sightings}:0 1 0",
    "ZCARD sp:{sightings}:0",
    "ZSCORE sp:{sightings}:0 0",
    "ZREM sp:{sightings}:0 0",
    "HDEL sp:{sightings}:0 0",
    "ZRANGE sp:frontends 0 1",
    "GET sp:frontends-changed",
    "INCR sp:frontends-changed",
    "GET sp:frontend:0",
    "SET sp:frontend:0 0",
    "GET sp:frontend-key:0",
    "SET sp:frontend-key:0 0",
    "DEL sp:frontend-key:0",
    "SET sp:frontend-report:0 0",
    "GET sp:internal-ca",
    "SET sp:internal-ca 0",
    "XADD sp:audit * 0 0",
    "XLEN sp:audit",
    "HSET sp:nodes 0 0",
    "EVALSHA 0 0",
    "INFO replication",
    "TIME",
    "WAIT 0 0",
];

/// Every command that an issuer needs, each once.
const OF_ISSUER: &[&str] = &[
    "DECR sp:0",
    "DEL sp:0",
    "EVALSHA 0 0",
    "EXISTS sp:0",
    "EXPIRE sp:0 1",
    "GET sp:0",
    "HDEL sp:0 0",
    "HGET sp:0 0",
    "HGETALL sp:0",
    "HINCRBY sp:0 0 1",
    "HKEYS sp:0",
    "HLEN sp:0",
    "HMGET sp:0 0",
    "HRANDFIELD sp:0",
    "HSET sp:0 0 0",
    "HSETNX sp:0 0 0",
    "INCR sp:0",
    "INFO replication",
    "MGET sp:0",
    "PEXPIRE sp:0 1",
    "PEXPIREAT sp:0 1",
    "PTTL sp:0",
    "SADD sp:0 0",
    "SCARD sp:0",
    "SET sp:0 0",
    "SETRANGE sp:0 0 0",
    "SMEMBERS sp:0",
    "STRLEN sp:0",
    "TIME",
    "UNLINK sp:0",
    "WAIT 0 0",
    "XADD sp:0 * 0 0",
    "XLEN sp:0",
    "XRANGE sp:0 - +",
    "XREVRANGE sp:0 + -",
    "XTRIM sp:0 MAXLEN 1",
    "ZADD sp:0 1 0",
    "ZCARD sp:0",
    "ZCOUNT sp:0 0 1",
    "ZRANGE sp:0 0 1",
    "ZRANGEBYLEX sp:0 - +",
    "ZRANGEBYSCORE sp:0 0 1",
    "ZREM sp:0 0",
    "ZREMRANGEBYSCORE sp:0 0 1",
    "ZREVRANGE sp:0 0 1",
    "ZSCORE sp:0 0",
];

impl Store {
    /// Makes sure that this program's user may do all that its role does.
    ///
    /// # Errors
    /// [`StoreError::LacksRight`] with the first command that it may not run, or that it can't be asked.
    pub(super) async fn check_rights(&self) -> Result<(), StoreError> {
        let questions = match self.role {
            // It may run no script. Its one command is tried instead.
            Role::Challenge => return self.probe_reading("sp:token:startup-check").await,
            Role::Certificates => OF_CERTIFICATES,
            Role::Issuer => OF_ISSUER,
        };
        let mut ask = cmd("EVAL");
        ask.arg(FIRST_LACKING).arg(0).arg(questions);
        if self.link.servers.are_many() {
            ask.arg("ASKING").arg("CLUSTER SLOTS");
        }
        for (_, answer) in self.link.ask_each::<Option<String>>(&ask).await? {
            if let Some(lacking) = answer.map_err(lacking_for("EVAL"))? {
                return Err(StoreError::LacksRight(format!("`{lacking}`")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, path::Path};

    const HANDBOOK: &str = include_str!("../../../deploy/handbook/durability.md");

    /// The words of a user's line, whatever blanks are between them.
    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn the_handbook_has_the_rights_that_the_embedded_store_grants() {
        for role in Role::ALL {
            let begin = format!("user {} on >CHANGE-ME ", role.as_str());
            let line = HANDBOOK.lines().find_map(|line| line.strip_prefix(&begin)).expect("the role's line");
            assert_eq!(words(line), words(granted(role)), "{role:?}");
            for word in words(granted_where_embedded(role)) {
                assert!(
                    HANDBOOK.contains(&format!("`{word}`")),
                    "the handbook does not say that {role:?} has {word}"
                );
            }
        }
        assert!(HANDBOOK.contains("\nuser default off resetpass ~* &* +@all\n"));
    }

    /// Every command that the source names, in Rust and in Lua, is one that an issuer is asked for.
    #[test]
    fn an_issuer_is_asked_for_every_command_of_the_source() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
        let mut source = String::new();
        for folder in [folder.clone(), folder.join("scripts")] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let text = std::fs::read_to_string(path).unwrap();
                    source.push_str(text.split("#[cfg(test)]").next().unwrap_or_default());
                }
            }
        }
        let mut named = BTreeSet::new();
        for begin in ["cmd(\"", "call('", "read('", "run('"] {
            let after = source.split(begin).skip(1);
            named.extend(after.filter_map(|rest| rest.split(['"', '\'']).next()));
        }
        // Not of every role or every kind of store, or allowed to everybody.
        for word in ["ACL", "ASKING", "CLUSTER", "CONFIG", "EVAL", "HELLO", "SENTINEL", "SHUTDOWN"] {
            assert!(named.remove(word), "{word} is not used any more");
        }
        // How every script is called.
        named.insert("EVALSHA");
        let asked: BTreeSet<&str> =
            OF_ISSUER.iter().filter_map(|question| question.split(' ').next()).collect();
        assert_eq!(named, asked);
    }
}
