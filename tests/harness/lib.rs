//! What stories are told with: real servers, each a value that ends its own child when it is dropped.
//!
//! | module | gives |
//! |---|---|
//! | [`ports`], [`pki`], [`process`], [`deadline`] | free loopback addresses, a small CA, children, polling |
//! | [`pebble`], [`mock_dns`] | Debian's ACME test server and the DNS it asks |
//! | [`ca_limits`] | what Let's Encrypt's limiter would refuse |
//! | [`ca_proxy`] | stands before Pebble: keeps it from deadlocking, counts, attributes, injects faults |
//! | [`second_ca`] | another ACME server, with renewal information and profiles |
//! | [`caddy_ca`] | a third one, a private CA without terms, profiles and renewal information |
//! | [`namespace`] | a test in a network namespace of its own, where port 80 and private addresses are its own |
//! | [`raw_http`] | requests that no client library would send |
//! | [`redis`], [`redis_proxy`], [`resp`] | a real Redis, and a proxy that stalls, cuts, counts and reacts to what it sees |
//! | [`clock`] | a clock that is wrong |
//! | [`rights`] | the users of the roles, as the handbook has them |
//! | [`sentinel`], [`cluster`] | several of them, whose primaries are killed and replaced |
//! | [`nginx`] | a real nginx from a configuration that the test gives |
//! | [`signpost`], [`stage`] | the programs under test, as a user runs them; the whole scene around them |
//! | [`campaign`] | a run of many names that something disturbs |
//! | [`daemon`] | the daemon in a scene, and what an operator sees of its work |
//! | [`pull`] | a frontend that asks the certificate API |
//! | [`pypi`] | programs that Debian has too old or not at all |
//! | [`stored`] | what the store holds, opened through the vault |
//! | [`webhook_receiver`], [`mail_server`] | somebody who is told: a webhook, a mail server |
//! | [`year`] | a million certificates over a year, by the rule that chooses the moments of renewals |
//! | [`bare_acme`] | an ACME client of a few lines that shares nothing with ours |
//!
//! A server that isn't installed is an error that names the apt package, never a skipped test.

pub mod bare_acme;
pub mod bind;
pub mod ca_limits;
pub mod ca_proxy;
pub mod caddy_ca;
pub mod campaign;
pub mod clock;
pub mod cluster;
pub mod daemon;
pub mod deadline;
pub mod mail_server;
pub mod mock_dns;
pub mod namespace;
pub mod nginx;
pub mod pebble;
pub mod pki;
pub mod ports;
pub mod process;
pub mod pull;
pub mod pypi;
pub mod raw_http;
pub mod redis;
pub mod redis_proxy;
pub mod resp;
pub mod rights;
pub mod second_ca;
pub mod sentinel;
pub mod signpost;
pub mod stage;
pub mod stored;
pub mod webhook_receiver;
pub mod year;
