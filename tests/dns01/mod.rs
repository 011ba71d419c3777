//! Names that are proved in the DNS: real nameservers, dynamic updates, secondaries that lag, and kills in between.
//!
//! - `zone`: a primary with a secondary, a resolver, and the scene around them;
//! - `drafts`: dns-account-01 and dns-persist-01, which Pebble does not know: its proxy offers them in the place of dns-01;
//! - `odd_servers`: a nameserver that is gone, a wildcard's alias, a zone cut;
//! - `issued`: wildcards and apexes by BIND and Knot, two orders at once, kills, `auto`; `providers`: webhook, exec, acme-dns.

mod drafts;
mod issued;
mod odd_servers;
mod providers;
mod zone;
