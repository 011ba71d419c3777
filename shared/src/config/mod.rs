//! The one TOML file of all programs. Every value has a default, and each can be overridden from the environment as
//! `SIGNPOST_SECTION__KEY`.

mod address_prefix;
mod agent;
mod contradictions;
mod dns;
mod inspection;
mod load;
mod mistakes;
mod notify;
mod origin;
mod places;
mod sections;
mod sightings;
mod store_url;

pub use address_prefix::{AddressPrefix, InvalidPrefix};
pub use agent::{
    Agent, AgentApache, AgentCaddy, AgentFiles, AgentHaproxy, AgentHook, AgentLocal, AgentNginx,
};
pub use dns::{Dns, DnsPersistDraft, DnsProvider, TsigAlgorithm};
pub use inspection::Inspection;
pub use load::{Config, ConfigError, DEFAULT_PATH};
pub use mistakes::{Mistake, with_suggestion};
pub use notify::{Interval, InvalidInterval, LeastSeverity};
pub use origin::{Origin, OriginOf};
pub use sections::{
    Audit, Ca, Canary, Certificates, Challenge, Frontends, Issuer, LogFormat, Notify, Program, SelfCheck,
    StoreSection, Telemetry, TelemetryListen,
};
pub use sightings::Sightings;
pub use store_url::{ClusterUrl, HostPort, Secret, SentinelUrl, StoreUrl, StoreUrlError};
