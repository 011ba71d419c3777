//! Names that are proved in the DNS: real nameservers, dynamic updates, secondaries that lag, and kills in between.
//!
//! - `zone`: a primary with a secondary, a resolver, and the scene around them;
//! - `issued`: wildcards and apexes by BIND and Knot, two orders at once, kills, `auto`; `providers`: webhook, exec, acme-dns.

mod issued;
mod providers;
mod zone;
