//! The audit: who was given which private keys, and who asked for what isn't theirs.
//!
//! Every process that answers frontends writes a chain of its own. A line holds the digest of the line before it, so that none
//! can be changed, added or left out without its being seen; [`AuditCheck`] looks.

use super::CertificateId;
use crate::digest::sha256_hex;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What somebody did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuditAction {
    /// Was given private keys.
    ReadKey,
    /// Was given a client certificate of the internal CA.
    Enrol,
    /// Asked for what is not in its scope, or not within its rights.
    Denied,
}

/// One answer to a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// The frontend's name.
    pub who: String,
    /// What it showed: `token:` or `key:` and a SHA-256, hex.
    pub by: String,
    /// The address that it came from.
    pub from: String,
    pub action: AuditAction,
    /// Those that it was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<AuditedKey>,
    /// The path that was denied; the key that was enrolled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// A private key that was given out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AuditedKey {
    /// `GROUP.SLOT`.
    pub lineage: String,
    pub certificate: CertificateId,
    /// SHA-256 of the public key in DER, hex.
    pub spki_sha256: String,
}

/// An entry in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    pub chain: String,
    /// From 0 on.
    pub seq: u64,
    /// SHA-256 of the line before, hex. Of the first one of a chain: of the last line of the chain that it takes the place of,
    /// or empty.
    pub prev: String,
    pub at: Timestamp,
    /// Who writes.
    pub node: String,
    #[serde(flatten)]
    pub entry: AuditEntry,
}

/// A chain as far as it is written.
#[derive(Clone, Debug)]
pub struct AuditChain {
    id: String,
    node: String,
    seq: u64,
    prev: String,
}

impl AuditChain {
    /// A new one of `node`, in the place of one that ended with the line of digest `prev`. `id`: drawn.
    pub fn begin(id: String, node: String, prev: String) -> Self {
        Self { id, node, seq: 0, prev }
    }

    /// The next line, and the chain with it.
    ///
    /// # Errors
    /// [`serde_json::Error`]; never in practice.
    pub fn next(&self, at: Timestamp, entry: AuditEntry) -> Result<(String, Self), serde_json::Error> {
        let line = AuditLine {
            chain: self.id.clone(),
            seq: self.seq,
            prev: self.prev.clone(),
            at,
            node: self.node.clone(),
            entry,
        };
        let text = serde_json::to_string(&line)?;
        let next = Self { seq: self.seq + 1, prev: sha256_hex(text.as_bytes()), ..self.clone() };
        Ok((text, next))
    }

    /// The next line, as others refer to it.
    pub fn place(&self) -> String {
        format!("{}/{}", self.id, self.seq)
    }

    /// The digest of its last line.
    pub fn digest(&self) -> &str {
        &self.prev
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    #[error("a line can't be read: {0}")]
    Unreadable(String),
    #[error("chain {chain}: line {seq} is missing")]
    Missing { chain: String, seq: u64 },
    #[error("chain {chain}: line {seq} or the one before it is not what was written")]
    Altered { chain: String, seq: u64 },
}

/// Looks whether lines are what was written, in the order in which they were.
#[derive(Debug, Default)]
pub struct AuditCheck {
    chains: BTreeMap<String, Seen>,
    /// Chains of which the first lines are not there.
    pub begun_late: Vec<String>,
    /// Lines that count.
    pub lines: u64,
}

#[derive(Debug)]
struct Seen {
    seq: u64,
    digest: String,
    /// Lines that are there a second time, after a store that went back: how far they have come.
    again: Option<(u64, String)>,
}

impl AuditCheck {
    /// The next line; `None` where it is one that was there before.
    ///
    /// # Errors
    /// [`AuditFault`]; the lines after it are judged by what it says.
    pub fn take(&mut self, text: &str) -> Result<Option<AuditLine>, AuditFault> {
        let line: AuditLine = match serde_json::from_str(text) {
            Ok(line) => line,
            Err(_) if is_of_no_chain(text) => return Ok(None),
            Err(error) => return Err(AuditFault::Unreadable(error.to_string())),
        };
        let digest = sha256_hex(text.as_bytes());
        let chain = line.chain.clone();
        let altered = || AuditFault::Altered { chain: chain.clone(), seq: line.seq };
        let Some(seen) = self.chains.get_mut(&chain) else {
            if line.seq > 0 {
                self.begun_late.push(chain.clone());
            }
            self.chains.insert(chain, Seen { seq: line.seq, digest, again: None });
            self.lines += 1;
            return Ok(Some(line));
        };
        if line.seq > seen.seq {
            let (next, before) = (seen.seq + 1, std::mem::replace(&mut seen.digest, digest));
            let unfinished = seen.again.take().is_some();
            seen.seq = line.seq;
            self.lines += 1;
            return if line.seq > next {
                Err(AuditFault::Missing { chain, seq: next })
            } else if line.prev != before || unfinished {
                Err(altered())
            } else {
                Ok(Some(line))
            };
        }
        let follows = match &seen.again {
            Some((seq, before)) if line.seq == seq + 1 => line.prev == *before,
            _ => true,
        };
        let is_last = line.seq == seen.seq;
        let is_same = !is_last || digest == seen.digest;
        seen.again = if is_last { None } else { Some((line.seq, digest)) };
        if follows && is_same { Ok(None) } else { Err(altered()) }
    }

    /// How many chains there are.
    pub fn chains(&self) -> usize {
        self.chains.len()
    }

    /// What is wrong at the end.
    pub fn finish(&self) -> impl Iterator<Item = AuditFault> {
        let unfinished = self.chains.iter().filter_map(|(chain, seen)| Some((chain, seen.again.as_ref()?.0)));
        unfinished.map(|(chain, seq)| AuditFault::Missing { chain: chain.clone(), seq: seq + 1 })
    }
}

/// Written before there were chains: it says who did what, and nothing of its place.
fn is_of_no_chain(text: &str) -> bool {
    let fields: Option<BTreeMap<String, String>> = serde_json::from_str(text).ok();
    fields.is_some_and(|fields| fields.keys().eq(["action", "from", "what", "who"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(who: &str) -> AuditEntry {
        AuditEntry {
            who: who.into(),
            by: "token:00".into(),
            from: "192.0.2.1".into(),
            action: AuditAction::ReadKey,
            keys: vec![AuditedKey {
                lineage: "01.ecdsa".into(),
                certificate: CertificateId::of(b"leaf"),
                spki_sha256: "ab".into(),
            }],
            what: None,
        }
    }

    fn lines(id: &str, count: usize) -> Vec<String> {
        let mut chain = AuditChain::begin(id.into(), "certs-1".into(), String::new());
        let mut lines = Vec::new();
        for number in 0..count {
            let (line, next) = chain.next(Timestamp::UNIX_EPOCH, entry(&format!("edge-{number}"))).unwrap();
            lines.push(line);
            chain = next;
        }
        lines
    }

    fn check(lines: &[&str]) -> (AuditCheck, Vec<AuditFault>) {
        let mut check = AuditCheck::default();
        let mut faults: Vec<_> = lines.iter().filter_map(|line| check.take(line).err()).collect();
        faults.extend(check.finish());
        (check, faults)
    }

    fn refs(lines: &[String]) -> Vec<&str> {
        lines.iter().map(String::as_str).collect()
    }

    #[test]
    fn what_was_written_is_whole_also_where_two_write_and_where_lines_came_twice() {
        let (a, b) = (lines("a", 4), lines("b", 3));
        let mixed = [&a[0], &b[0], &a[1], &b[1], &b[2], &a[2], &a[1], &a[2], &a[3]].map(String::as_str);
        let (check, faults) = check(&mixed);
        assert_eq!((faults, check.lines, check.chains()), (vec![], 7, 2));
        assert!(check.begun_late.is_empty());
    }

    #[test]
    fn what_was_changed_left_out_or_put_in_is_seen() {
        let whole = lines("a", 4);
        let changed = whole[1].replace("edge-1", "edge-9");
        let forged = whole[1].replace("edge-1", "edge-7");
        let altered = |seq| AuditFault::Altered { chain: "a".into(), seq };
        let missing = |seq| AuditFault::Missing { chain: "a".into(), seq };
        let whole = refs(&whole);
        let faults = |lines: &[&str]| check(lines).1;
        assert_eq!(faults(&[whole[0], &changed, whole[2], whole[3]]), [altered(2)]);
        assert_eq!(faults(&[whole[0], whole[2], whole[3]]), [missing(1)]);
        assert_eq!(faults(&[whole[0], whole[1], whole[2], &forged, whole[3]]), [altered(3)]);
        assert_eq!(faults(&[whole[0], whole[1], whole[2], &forged]), [missing(2)]);
        assert_eq!(faults(&[whole[0], whole[1], &forged]), [altered(1)]);
        assert!(matches!(&faults(&["{}"])[..], [AuditFault::Unreadable(_)]));
        let old = r#"{"action":"read-key","from":"192.0.2.1","what":"01.ecdsa","who":"edge-1"}"#;
        assert_eq!(faults(&[whole[0], old, whole[1]]), [], "one of before there were chains");
        let (late, faults) = check(&whole[2..]);
        assert_eq!((late.begun_late, faults), (vec!["a".to_owned()], vec![]));
    }
}
