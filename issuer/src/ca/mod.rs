//! The certificate authorities that can be used: those that are shipped, and those of the configuration.
//!
//! What is known of a CA is data, never code. What its directory says goes before what stands here.

mod limits;
mod profile;
mod unconfigured;

pub use limits::CaLimits;
pub use profile::{CertificateProfile, Quirks, RequestRate};
pub use unconfigured::{Unconfigured, may_lack_sections, unconfigured};

use openssl::x509::X509;
use profile::Profile;
use shared::{
    config::{Ca as Section, Config},
    domain::{ChallengeType, DnsName, NameError, PublicSuffixes, Room},
};
use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::Duration,
};

const SHIPPED: [(&str, &str); 8] = [
    ("actalis", include_str!("profiles/actalis.toml")),
    ("google", include_str!("profiles/google.toml")),
    ("letsencrypt", include_str!("profiles/letsencrypt.toml")),
    ("letsencrypt-staging", include_str!("profiles/letsencrypt-staging.toml")),
    ("pebble", include_str!("profiles/pebble.toml")),
    ("sslcom-ecc", include_str!("profiles/sslcom-ecc.toml")),
    ("sslcom-rsa", include_str!("profiles/sslcom-rsa.toml")),
    ("zerossl", include_str!("profiles/zerossl.toml")),
];
/// What an operator copies for a CA of one's own.
pub const TEMPLATE: &str = include_str!("profiles/template.toml");
/// What all names of an order have together, where nothing else is known: with more, the request is larger than the 50,000
/// bytes that Boulder reads.
const NAME_BYTES: usize = 30_000;
/// A CA of one's own, on one's own network, answers at once.
const OWN_FIRST_POLL: Duration = Duration::from_millis(25);

/// A CA as it is used: its profile with the configuration on top.
#[derive(Clone, Debug)]
pub struct Ca {
    pub name: String,
    pub title: String,
    pub directory: String,
    pub trusted_roots: Vec<X509>,
    /// Whether it refuses names that are not public.
    pub public: bool,
    pub quirks: Quirks,
    pub limits: Arc<CaLimits>,
    /// When an order is first asked for after its last challenge was answered.
    pub first_poll: Duration,
    /// The address that requests come from, as the CA sees it.
    pub egress: String,
    pub section: Section,
}

/// What a CA takes, as far as it is known without its roots: asked for each line of a file of sites.
#[derive(Clone, Debug)]
pub struct Terms {
    pub name: String,
    pub title: String,
    pub directory: String,
    /// See [`Ca::public`].
    pub public: bool,
    pub limits: Arc<CaLimits>,
    section: Section,
}

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("no CA is configured: add a section such as [ca.letsencrypt] with agree_to_terms = true")]
    NoneConfigured,
    #[error("there is no CA {name:?}: configured are {configured}")]
    Unknown { name: String, configured: String },
    #[error(
        "the CA {name:?}, which the site names, is not configured any more (configured are {configured}): put its section [ca.{name}] back, or move the sites that name it: `issuer site set --of-ca {name} --ca NAME`"
    )]
    Gone { name: String, configured: String },
    #[error("several CAs are configured and none has default = true: say which with --ca")]
    NoDefault,
    #[error("ca.{0}.directory is missing, and no CA of that name is shipped")]
    NoDirectory(String),
    #[error("the roots {path} can't be read")]
    Roots {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the limits file {path} can't be read")]
    LimitsRead {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the limits file {path} can't be used: {what}")]
    Limits { path: PathBuf, what: String },
}

impl CaError {
    /// Of a name that a stored site has, and nobody has typed.
    pub(crate) fn of_site(self) -> Self {
        match self {
            Self::Unknown { name, configured } => Self::Gone { name, configured },
            other => other,
        }
    }
}

impl Ca {
    /// The CA of that name, or the default one.
    ///
    /// # Errors
    /// [`CaError`] with what to configure.
    pub fn of(config: &Config, name: Option<&str>) -> Result<Self, CaError> {
        let (name, section, directory, profile) = find(config, name)?;
        let first_poll = section.first_poll_ms.map(Duration::from_millis);
        Ok(Self {
            name: name.clone(),
            title: title(name, profile),
            trusted_roots: roots(section)?,
            public: is_public(section, profile),
            quirks: profile.map_or_else(Quirks::default, |profile| profile.quirks),
            limits: CaLimits::of(profile, section.limits_file.as_deref())?,
            first_poll: first_poll
                .or_else(|| profile.map(|profile| Duration::from_millis(profile.first_poll_ms)))
                .unwrap_or(OWN_FIRST_POLL),
            directory,
            egress: config.issuer.egress_address.clone(),
            section: section.clone(),
        })
    }

    /// Everything that is wrong with a section of the configuration.
    pub(crate) fn problems(config: &Config, name: &str) -> Vec<CaError> {
        let Some((_, section)) = config.ca.get_key_value(name) else { return Vec::new() };
        let found = find(config, Some(name));
        let profile = found.as_ref().ok().and_then(|(_, _, _, profile)| *profile);
        let limits = CaLimits::of(profile, section.limits_file.as_deref()).map(drop);
        [found.map(drop), roots(section).map(drop), limits].into_iter().filter_map(Result::err).collect()
    }

    /// The CA that a stored site names.
    ///
    /// # Errors
    /// [`CaError::Gone`] where it is not configured any more; else as [`Ca::of`].
    pub fn of_site(config: &Config, name: &str) -> Result<Self, CaError> {
        Self::of(config, Some(name)).map_err(CaError::of_site)
    }

    /// What one certificate of this profile takes; `None` is the CA's own choice of a profile.
    pub fn room(&self, profile: Option<&str>) -> Room {
        room(&self.section, &self.limits, profile)
    }
}

impl Terms {
    /// Of the CA of that name, or the default one.
    ///
    /// # Errors
    /// [`CaError`] with what to configure.
    pub fn of(config: &Config, name: Option<&str>) -> Result<Self, CaError> {
        let (name, section, directory, profile) = find(config, name)?;
        Ok(Self {
            name: name.clone(),
            title: title(name, profile),
            directory,
            public: is_public(section, profile),
            limits: CaLimits::of(profile, section.limits_file.as_deref())?,
            section: section.clone(),
        })
    }

    /// See [`CaLimits::check_name`]; without a profile, by the one that the configuration asks for.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check_name(
        &self,
        suffixes: &PublicSuffixes,
        name: &DnsName,
        profile: Option<&str>,
        challenge: ChallengeType,
    ) -> Result<(), NameError> {
        let profile = profile.or(self.section.profile.as_deref());
        self.limits.check_name(suffixes, name, self.public, profile, challenge)
    }

    /// The profile that is asked for where a site has none of its own.
    pub fn usual_profile(&self) -> Option<String> {
        self.section.profile.clone()
    }

    /// What becomes of orders with a profile that it is not known to have; `None` where it has it, or may. `seen` are those of its
    /// directory, where it was fetched.
    pub fn lacks_profile(&self, profile: &str, seen: Option<&[String]>) -> Option<String> {
        let described: Vec<String> = self.limits.profiles.keys().cloned().collect();
        let known = seen.unwrap_or(&described);
        if known.is_empty() || known.iter().any(|name| name == profile) {
            return None;
        }
        let becomes = if self.section.profile_required {
            "its orders wait until it has, since ca.NAME.profile_required is set"
        } else {
            "its certificates are ordered without one"
        };
        let known = known.join(", ");
        Some(format!("{} is not known to have a profile {profile:?}: it has {known}; {becomes}", self.title))
    }

    /// Whether it is known which draft of dns-persist-01 it speaks.
    pub fn speaks_dns_persist(&self) -> bool {
        self.section.dns_persist.is_some()
    }

    /// See [`Ca::room`]; without a profile, by the one that the configuration asks for.
    pub fn room(&self, profile: Option<&str>) -> Room {
        room(&self.section, &self.limits, profile.or(self.section.profile.as_deref()))
    }
}

/// A CA that nobody has described is one's own, unless the configuration says otherwise.
fn is_public(section: &Section, profile: Option<&Profile>) -> bool {
    section.public.unwrap_or_else(|| profile.is_some_and(|profile| profile.public))
}

fn title(name: &str, profile: Option<&Profile>) -> String {
    profile.map_or_else(|| name.to_owned(), |profile| profile.title.clone())
}

fn room(section: &Section, limits: &CaLimits, profile: Option<&str>) -> Room {
    let of_profile = profile.and_then(|name| limits.profiles.get(name));
    let known = of_profile.map_or(limits.names_per_certificate, |profile| profile.names);
    let bytes = of_profile.and_then(|profile| profile.name_bytes).or(limits.name_bytes);
    Room {
        names: section.names_per_certificate.map_or(known, |most| most.min(known)).max(1),
        bytes: bytes.unwrap_or(NAME_BYTES),
    }
}

/// The section of that name or the default one, the directory, and the shipped profile where it is the same CA's.
fn find<'a>(
    config: &'a Config,
    name: Option<&str>,
) -> Result<(&'a String, &'a Section, String, Option<&'static Profile>), CaError> {
    let (name, section) = match name {
        Some(name) => config.ca.get_key_value(name).ok_or_else(|| CaError::Unknown {
            name: name.to_owned(),
            configured: config.ca.keys().cloned().collect::<Vec<_>>().join(", "),
        })?,
        None => match config.ca.iter().find(|(_, section)| section.default) {
            Some(found) => found,
            None if config.ca.len() > 1 => return Err(CaError::NoDefault),
            None => config.ca.iter().next().ok_or(CaError::NoneConfigured)?,
        },
    };
    let profile = profile(name);
    let directory = section
        .directory
        .clone()
        .or_else(|| profile.map(|profile| profile.directory.clone()))
        .ok_or_else(|| CaError::NoDirectory(name.clone()))?;
    // A section that points elsewhere is another CA, whatever its name.
    let profile = profile.filter(|profile| profile.directory == directory);
    Ok((name, section, directory, profile))
}

fn profile(name: &str) -> Option<&'static Profile> {
    static PROFILES: LazyLock<BTreeMap<&str, Profile>> = LazyLock::new(|| {
        let parse = |text| toml::from_str(text).expect("shipped profiles parse: a unit test reads them");
        SHIPPED.iter().map(|(name, text)| (*name, parse(text))).collect()
    });
    PROFILES.get(name)
}

fn roots(section: &Section) -> Result<Vec<X509>, CaError> {
    let Some(path) = &section.trusted_roots_file else { return Ok(Vec::new()) };
    let error = |source: io::Error| CaError::Roots { path: path.clone(), source };
    let found = X509::stack_from_pem(&std::fs::read(path).map_err(error)?).map_err(|e| error(e.into()))?;
    if found.is_empty() { Err(error(io::Error::other("it holds no certificate"))) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("x"), &[]).unwrap()
    }

    #[test]
    fn shipped_profiles_parse_and_know_their_directory() {
        for (name, _) in SHIPPED {
            let ca = Ca::of(&config(&format!("[ca.{name}]\n")), None).unwrap();
            assert!(ca.directory.starts_with("https://"), "{name}");
            assert_eq!(ca.public, name != "pebble", "{name}");
            assert_eq!(ca.limits.check(), Ok(()), "{name}");
        }
    }

    #[test]
    fn a_profile_says_how_many_names_it_takes() {
        let ca = Ca::of(&config("[ca.letsencrypt]\n"), None).unwrap();
        let names = |profile| ca.room(profile).names;
        assert_eq!((names(None), names(Some("shortlived")), names(Some("unheard-of"))), (100, 25, 100));
    }

    #[test]
    fn a_profile_that_is_lacking_is_said() {
        let of = |text: &str| Terms::of(&config(text), None).unwrap();
        let known = of("[ca.letsencrypt]\n");
        let seen = ["classic".to_owned(), "eternal".to_owned()];
        assert_eq!(known.lacks_profile("shortlived", None), None);
        assert_eq!(known.lacks_profile("eternal", Some(&seen)), None, "what it says itself goes before");
        assert!(known.lacks_profile("eternal", None).unwrap().contains("classic, shortlived, tlsserver"));
        assert!(known.lacks_profile("shortlived", Some(&seen)).unwrap().ends_with("ordered without one"));
        assert_eq!(known.lacks_profile("shortlived", Some(&[])), None, "it describes none, and may have it");
        let required = of("[ca.letsencrypt]\nprofile_required = true\n");
        assert!(required.lacks_profile("eternal", None).unwrap().contains("wait until it has"));
    }

    #[test]
    fn a_limits_file_replaces_what_it_names_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("limits.toml");
        let of = |text: &str| {
            // Each file is read once.
            let file = folder.path().join(format!("{}.toml", shared::digest::sha256_hex(text.as_bytes())));
            std::fs::write(&file, text).unwrap();
            Ca::of(&config(&format!("[ca.letsencrypt]\nlimits_file = {file:?}\n")), None)
        };
        let missing = Ca::of(&config(&format!("[ca.letsencrypt]\nlimits_file = {file:?}\n")), None);
        assert!(missing.unwrap_err().to_string().contains("can't be read"));
        let template = of(TEMPLATE).unwrap();
        assert_eq!((template.limits.limits.len(), template.limits.profiles.len()), (1, 1));
        let granted = "[accounts.default.new-orders-per-account]\nburst = 1000\ncount = 1000\nperiod_seconds = 604800.0\n";
        let ca = of(granted).unwrap();
        assert_eq!(ca.limits.limits.len(), 7);
        let limit = &ca.limits.limits["new-orders-per-account"];
        assert_eq!(ca.limits.rate_of_account("new-orders-per-account", limit, "default").burst, 1000);
        assert_eq!(ca.limits.rate_of_account("new-orders-per-account", limit, "other").burst, 300);
        for (text, expected) in [
            (granted.replace("new-orders", "old-orders"), "old-orders-per-account is no limit"),
            (granted.replace("burst = 1000", "burst = 0"), "must be more than 0"),
            ("[requests.newnonce]\nper_second = 1.0\nburst = 1\n".to_owned(), "newnonce is no endpoint"),
            ("same_set_days = -1.0\n".to_owned(), "same_set_days"),
            ("[limits.x]\ncounts = \"sheep\"\n".to_owned(), "unknown variant"),
            ("limit = 3\n".to_owned(), "unknown field"),
        ] {
            let error = of(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_section_of_another_directory_is_another_ca() {
        let own = config("[ca.letsencrypt]\ndirectory = \"https://127.0.0.1/dir\"\n");
        let ca = Ca::of(&own, None).unwrap();
        assert_eq!((ca.public, ca.first_poll), (false, OWN_FIRST_POLL));
        let said = config("[ca.mine]\ndirectory = \"https://ca.example/dir\"\npublic = true\n");
        assert!(Ca::of(&said, None).unwrap().public);
        let said = config("[ca.letsencrypt]\npublic = false\n");
        assert!(!Ca::of(&said, None).unwrap().public);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, name, expected) in [
            ("", None, "no CA is configured"),
            ("[ca.a]\n", None, "ca.a.directory is missing"),
            ("[ca.google]\n[ca.zerossl]\n", None, "none has default"),
            ("[ca.google]\n", Some("b"), "configured are google"),
        ] {
            let error = Ca::of(&config(text), name).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
