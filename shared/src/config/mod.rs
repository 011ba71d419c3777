//! The one TOML file of all programs. Every value has a default, and each can be overridden from the environment as
//! `SIGNPOST_SECTION__KEY`.

mod load;
mod mistakes;
mod notify;
mod origin;
mod sections;

pub use load::{Config, ConfigError, DEFAULT_PATH};
pub use mistakes::Mistake;
pub use notify::{Interval, InvalidInterval, LeastSeverity};
pub use origin::{Origin, OriginOf};
pub use sections::{
    Agent, Ca, Certificates, Challenge, Frontends, Issuer, LogFormat, Notify, Program, SelfCheck,
    StoreSection, Telemetry, TelemetryListen,
};
