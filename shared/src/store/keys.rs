//! The map of the keys. Everything begins with `sp:`; what one script touches shares a `{tag}`, so that it lives on one
//! node of a cluster.
//!
//! | key | type | holds |
//! |---|---|---|
//! | `sp:schema` | string | version of the layout |
//! | `sp:{pNN}:site:ID` | hash | a group of a site: `spec` (`retired` once it is no longer wanted), `lease*`, `cert:SLOT`, `prev:SLOT`, `kept:SLOT`, `next:SLOT`, `staged`, `revoked:SLOT`, `sched`, `rev`, `failure`, `cut`, `parked`, `alert`, `retry`, `force`, `hsts_from`, `hsts_held`, `seq`, `former`, `unkept`; of the first group also `groups`, `wrev` |
//! | `sp:epoch` | hash | `n`: failovers that were noticed; the replication id of each primary |
//! | `sp:{pNN}:order:ID:SLOT` | string | the open order of a lineage, JSON |
//! | `sp:{pNN}:cert:ID:CERT` | string | a certificate: leaf, sealed key, reference to its chain |
//! | `sp:{pNN}:leaf:SHA256` | string | the first leaf of a chain, DER: later ones are stored as what they are different in |
//! | `sp:{pNN}:sites` | sorted set | the ids of the partition's groups, in their order |
//! | `sp:{pNN}:due` | sorted set | groups by the moment when they are next looked at, ms |
//! | `sp:{pNN}:ready:CLASS` | sorted set | groups that are due, by deadline, s |
//! | `sp:{pNN}:renewals` | hash | by hour since 1970: groups whose next renewal is planned in it |
//! | `sp:{pNN}:failing`, `sp:{pNN}:parked` | sorted set | groups that an operator looks for, by since when, ms |
//! | `sp:{pNN}:waiting` | sorted set | groups that wait for a moment (a limit, the CA), by when they are next looked at, ms |
//! | `sp:waiting-known` | string | all that wait stand in `waiting`: what an earlier release has left is there, too |
//! | `sp:{pNN}:feed`, `sp:{pNN}:feed:CHUNK` | sorted sets | groups by the number of their last change, a hundred numbers to a chunk; the chunks there are |
//! | `sp:{pNN}:feed-state` | hash | `seq`: the number of the last change; `floor`: of the last one that is forgotten |
//! | `sp:{pNN}:retired` | sorted set | groups that are no longer wanted, by when they are deleted, s |
//! | `sp:{pNN}:gone` | sorted set | deleted groups whose record says that they were, by since when, ms |
//! | `sp:{pNN}:events` | stream | what happened to the partition's sites, newest 20,000; in `p00` also what belongs to no site |
//! | `sp:chain:SHA256` | string | a chain, PEM, each distinct one once |
//! | `sp:name:NAME` | string | `GROUP?SITE`: the group that serves a name, and the site that is to where it differs |
//! | `sp:failure:NAME` | string | what failed of a name whose site was removed, JSON; expires by itself |
//! | `sp:token:TOKEN` | string | a key authorization; expires by itself |
//! | `sp:delegations` | hash | by name: the target that its owner was told to delegate to, JSON |
//! | `sp:txt-journal` | sorted set | TXT records that are or may be there, JSON, by when they were noted, ms; gone once they are removed |
//! | `sp:account:CA:NAME` | string | an account, JSON, with its sealed keys |
//! | `sp:accounts` | set | `CA:NAME` of every account |
//! | `sp:{ca:NAME}:looking:ACCOUNT` | sorted set | orders whose challenges the CA is looking at, by when they are given up, ms |
//! | `sp:{ca:NAME}:at-work:ACCOUNT` | sorted set | orders that are worked on, where the CA bears only so many at once, by when they are given up, ms |
//! | `sp:{ca:NAME}:rollover:ACCOUNT` | string | who gives the account another key; expires by itself |
//! | `sp:{ca:NAME}:directory` | string | the CA's directory as last fetched; expires by itself |
//! | `sp:{ca:NAME}:known-directory` | string | the directory as it was known last |
//! | `sp:{ca:NAME}:chain-tops:SLOT` | set | where the chains of its certificates ended so far |
//! | `sp:{ca:NAME}:limits` | sorted set | buckets of the CA's limits that are half empty, by when they are full, µs |
//! | `sp:{ca:NAME}:limits-since` | string | since when the twin has counted, µs |
//! | `sp:{ca:NAME}:limit:BUCKET` | hash | a bucket: `t` (TAT), `n`, `s:CLASS`, `q:CLASS`, `c`; expires by itself |
//! | `sp:{ca:NAME}:asking:BUCKET`, `sp:{ca:NAME}:open:BUCKET` | sorted set | orders that are not answered yet, or that may still spend; expire by themselves |
//! | `sp:{ca:NAME}:pauses` | hash | by endpoint and address: a pause that the CA has asked for, JSON; expires by itself |
//! | `sp:{ca:NAME}:told:WHAT` | string | that something was told of the CA; for a day |
//! | `sp:{ca:NAME}:requests:BUCKET` | string | TAT of an endpoint and an address; expires by itself |
//! | `sp:frontend:NAME` | string | a frontend, JSON, with a MAC |
//! | `sp:frontend-key:SHA256` | string | the frontend that a client certificate's key or a token belongs to |
//! | `sp:frontend-report:NAME` | string | what a frontend said of itself last, JSON |
//! | `sp:frontends`, `sp:frontends-changed` | sorted set, string | the names of every frontend; how often one was changed |
//! | `sp:frontends-troubled` | hash | frontends that lag or are silent, since when, and whether the operator was told |
//! | `sp:internal-ca` | string | the fleet's own CA, JSON, with its sealed key |
//! | `sp:tenant:NAME`, `sp:tenants` | string, set | customers, JSON |
//! | `sp:brakes` | hash | what an operator has stopped |
//! | `sp:tls-policy` | string | what frontends speak, JSON, with a MAC; absent: the shipped policy |
//! | `sp:unverified` | hash | records that grant nothing because their MAC does not fit, and why: the operator was told |
//! | `sp:{sightings}:waiting`, `sp:{sightings}:by` | sorted set, hash | names that visitors came with, by when they are decided about, ms; the frontend that each was seen at |
//! | `sp:{sightings}:counts` | hash | by frontend: how many of them wait |
//! | `sp:{sightings}:denied`, `sp:{sightings}:denials` | sorted set, hash | names that were denied, by when that is forgotten, ms; until when each holds, how often, and why |
//! | `sp:{sightings}:spent:HOUR:TENANT` | string | names that became sites in an hour; expires by itself |
//! | `sp:{notify}:leader` | string | the node that tells the operator; expires by itself |
//! | `sp:{notify}:state` | hash | by receiver: how far it has been told, and the message that is on its way, JSON |
//! | `sp:{notify}:told:RECEIVER` | hash | by site: which of its failures the receiver was told, JSON; gone once it recovers |
//! | `sp:vault:canary`, `sp:vault:canary-next` | string | a known text, sealed; the second one while a key-encryption key takes another's place |
//! | `sp:vault:current` | string | the id of the key-encryption key that seals; absent: the first of each ring |
//! | `sp:vault:rotation` | string | how far a rotation has come, JSON; gone at its end |
//! | `sp:nodes` | hash | by node: which key-encryption keys it holds, and when it said so, JSON |
//! | `sp:{api}:tokens` | hash | tokens of the operators' API by their SHA-256, JSON, each with a MAC |
//! | `sp:{api}:used` | hash | when each of them was last used, unix seconds |
//! | `sp:idempotency:TOKEN:SHA256` | string | the answer to a request with an idempotency key, or that it is being worked on; expires by itself |
//! | `sp:damaged` | hash | by key: a record that can't be read, since when, and why, JSON |
//! | `sp:audit` | stream | who was given which key, until every issuer has copied it |
//! | `sp:audit-copies` | hash | by copy: how far it has come, JSON; `removed`: the last line that was taken out |

use crate::domain::{CertificateId, Class, DnsName, Partition, SiteId, Slot};

pub(super) const SCHEMA: &str = "sp:schema";
pub(super) const EPOCH: &str = "sp:epoch";
pub(super) const ACCOUNTS: &str = "sp:accounts";
pub(super) const FRONTENDS: &str = "sp:frontends";
pub(super) const FRONTENDS_CHANGED: &str = "sp:frontends-changed";
pub(super) const FRONTENDS_TROUBLED: &str = "sp:frontends-troubled";
pub(super) const INTERNAL_CA: &str = "sp:internal-ca";
pub(super) const CANARY: &str = "sp:vault:canary";
pub(super) const DAMAGED: &str = "sp:damaged";
pub(super) const TENANTS: &str = "sp:tenants";
pub(super) const BRAKES: &str = "sp:brakes";
pub(super) const UNVERIFIED: &str = "sp:unverified";
pub(super) const TLS_POLICY: &str = "sp:tls-policy";
pub(super) const SIGHTINGS_WAITING: &str = "sp:{sightings}:waiting";
pub(super) const SIGHTINGS_BY: &str = "sp:{sightings}:by";
pub(super) const SIGHTINGS_COUNTS: &str = "sp:{sightings}:counts";
pub(super) const SIGHTINGS_DENIED: &str = "sp:{sightings}:denied";
pub(super) const SIGHTINGS_DENIALS: &str = "sp:{sightings}:denials";
pub(super) const NEXT_CANARY: &str = "sp:vault:canary-next";
pub(super) const CURRENT_KEK: &str = "sp:vault:current";
pub(super) const ROTATION: &str = "sp:vault:rotation";
pub(super) const NODES: &str = "sp:nodes";
pub(super) const AUDIT: &str = "sp:audit";
pub(super) const WAITING_KNOWN: &str = "sp:waiting-known";
pub(super) const AUDIT_COPIES: &str = "sp:audit-copies";
pub(super) const API_TOKENS: &str = "sp:{api}:tokens";
pub(super) const API_TOKENS_USED: &str = "sp:{api}:used";
pub(super) const NOTIFY_LEADER: &str = "sp:{notify}:leader";
pub(super) const NOTIFY_STATE: &str = "sp:{notify}:state";

/// What has come in an hour (since 1970), of a tenant; of all where it is empty.
pub(super) fn sightings_spent(tenant: &str, hour: i64) -> String {
    format!("sp:{{sightings}}:spent:{hour}:{tenant}")
}

pub(super) fn site(id: &SiteId) -> String {
    format!("sp:{{{}}}:site:{id}", id.partition())
}

/// Of what a queue holds, whether that is a site's id or not.
pub(super) fn site_in(partition: Partition, id: &str) -> String {
    format!("sp:{{{partition}}}:site:{id}")
}

pub(super) fn order(id: &SiteId, slot: Slot) -> String {
    format!("sp:{{{}}}:order:{id}:{slot}", id.partition())
}

pub(super) fn certificate(id: &SiteId, certificate: &CertificateId) -> String {
    format!("sp:{{{}}}:cert:{id}:{certificate}", id.partition())
}

pub(super) fn sites(partition: Partition) -> String {
    format!("sp:{{{partition}}}:sites")
}

pub(super) fn due(partition: Partition) -> String {
    format!("sp:{{{partition}}}:due")
}

pub(super) fn ready(partition: Partition, class: Class) -> String {
    format!("sp:{{{partition}}}:ready:{}", class.letter())
}

pub(super) fn renewals(partition: Partition) -> String {
    format!("sp:{{{partition}}}:renewals")
}

pub(super) fn failing(partition: Partition) -> String {
    format!("sp:{{{partition}}}:failing")
}

pub(super) fn parked(partition: Partition) -> String {
    format!("sp:{{{partition}}}:parked")
}

pub(super) fn waiting(partition: Partition) -> String {
    format!("sp:{{{partition}}}:waiting")
}

pub(super) fn retired(partition: Partition) -> String {
    format!("sp:{{{partition}}}:retired")
}

pub(super) fn gone(partition: Partition) -> String {
    format!("sp:{{{partition}}}:gone")
}

pub(super) fn feed(partition: Partition) -> String {
    format!("sp:{{{partition}}}:feed")
}

pub(super) fn feed_chunk(partition: Partition, chunk: u64) -> String {
    format!("sp:{{{partition}}}:feed:{chunk}")
}

pub(super) fn feed_state(partition: Partition) -> String {
    format!("sp:{{{partition}}}:feed-state")
}

pub(super) fn events(partition: Partition) -> String {
    format!("sp:{{{partition}}}:events")
}

pub(super) fn chain(sha256_hex: &str) -> String {
    format!("sp:chain:{sha256_hex}")
}

pub(super) fn template(partition: Partition, chain_sha256_hex: &str) -> String {
    format!("sp:{{{partition}}}:leaf:{chain_sha256_hex}")
}

pub(super) fn name(name: &DnsName) -> String {
    format!("sp:name:{name}")
}

pub(super) fn failure(name: &DnsName) -> String {
    format!("sp:failure:{name}")
}

pub(super) fn token(token: &str) -> String {
    format!("sp:token:{token}")
}

pub(super) fn delegations() -> String {
    "sp:delegations".to_owned()
}

pub(super) fn txt_journal() -> String {
    "sp:txt-journal".to_owned()
}

pub(super) fn account(ca: &str, name: &str) -> String {
    format!("sp:account:{ca}:{name}")
}

pub(super) fn tenant(name: &str) -> String {
    format!("sp:tenant:{name}")
}

pub(super) fn looking(ca: &str, account: &str) -> String {
    format!("sp:{{ca:{ca}}}:looking:{account}")
}

pub(super) fn at_work(ca: &str, account: &str) -> String {
    format!("sp:{{ca:{ca}}}:at-work:{account}")
}

pub(super) fn rollover(ca: &str, account: &str) -> String {
    format!("sp:{{ca:{ca}}}:rollover:{account}")
}

pub(super) fn directory(ca: &str) -> String {
    format!("sp:{{ca:{ca}}}:directory")
}

pub(super) fn known_directory(ca: &str) -> String {
    format!("sp:{{ca:{ca}}}:known-directory")
}

pub(super) fn chain_tops(ca: &str, slot: Slot) -> String {
    format!("sp:{{ca:{ca}}}:chain-tops:{slot}")
}

pub(super) fn pauses(ca: &str) -> String {
    format!("sp:{{ca:{ca}}}:pauses")
}

pub(super) fn told_of_ca(ca: &str, what: &str) -> String {
    format!("sp:{{ca:{ca}}}:told:{what}")
}

pub(super) fn limits(ca: &str) -> String {
    format!("sp:{{ca:{ca}}}:limits")
}

pub(super) fn limits_since(ca: &str) -> String {
    format!("sp:{{ca:{ca}}}:limits-since")
}

pub(super) fn limit_asking(ca: &str, bucket: &str) -> String {
    format!("sp:{{ca:{ca}}}:asking:{bucket}")
}

pub(super) fn limit_requests(ca: &str, bucket: &str) -> String {
    format!("sp:{{ca:{ca}}}:requests:{bucket}")
}

pub(super) fn limit_open(ca: &str, bucket: &str) -> String {
    format!("sp:{{ca:{ca}}}:open:{bucket}")
}

pub(super) fn limit_bucket(ca: &str, bucket: &str) -> String {
    format!("sp:{{ca:{ca}}}:limit:{bucket}")
}

pub(super) fn frontend(name: &str) -> String {
    format!("sp:frontend:{name}")
}

pub(super) fn frontend_report(name: &str) -> String {
    format!("sp:frontend-report:{name}")
}

pub(super) fn frontend_key(sha256_hex: &str) -> String {
    format!("sp:frontend-key:{sha256_hex}")
}

/// What the MAC of a token is bound to: its field in [`API_TOKENS`].
pub(super) fn api_token(sha256_hex: &str) -> String {
    format!("{API_TOKENS}:{sha256_hex}")
}

pub(super) fn idempotency(token: &str, sha256_hex: &str) -> String {
    format!("sp:idempotency:{token}:{sha256_hex}")
}

pub(super) fn told(receiver: &str) -> String {
    format!("sp:{{notify}}:told:{receiver}")
}
