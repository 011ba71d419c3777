//! The public suffix list that is used: the operator's file, read again when it changes, or the shipped one.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use shared::{config::Config, domain::PublicSuffixes};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// How often the file is looked at.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// An older list counts new registries' customers as one.
const OLD_DAYS: i64 = 90;

struct Known {
    looked: Instant,
    /// When the file was written that the list is from.
    written: Option<SystemTime>,
    list: Arc<PublicSuffixes>,
}

static SHIPPED: LazyLock<Arc<PublicSuffixes>> = LazyLock::new(|| Arc::new(PublicSuffixes::shipped()));
static FILES: Mutex<BTreeMap<PathBuf, Known>> = Mutex::new(BTreeMap::new());

/// The list of now. A file that can't be read leaves the one before in use.
pub fn current(config: &Config) -> Arc<PublicSuffixes> {
    let Some(path) = &config.issuer.public_suffix_file else { return Arc::clone(&SHIPPED) };
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    let before = files.get(path);
    if let Some(known) = before.filter(|known| known.looked.elapsed() < LOOKED_AT) {
        return Arc::clone(&known.list);
    }
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let list = match before {
        Some(known) if known.written == written => Arc::clone(&known.list),
        _ => read(path).unwrap_or_else(|what| {
            tracing::error!(path = %path.display(), what, "the public suffix list can't be used: the one before is");
            before.map_or_else(|| Arc::clone(&SHIPPED), |known| Arc::clone(&known.list))
        }),
    };
    files.insert(path.clone(), Known { looked: Instant::now(), written, list: Arc::clone(&list) });
    list
}

/// What an operator should know of the list: that it is old, or that the file can't be used.
pub fn warning(config: &Config, now: Timestamp) -> Option<String> {
    if let Some(path) = &config.issuer.public_suffix_file
        && let Err(what) = read(path)
    {
        return Some(format!("issuer.public_suffix_file {}: {what}", path.display()));
    }
    let list = current(config);
    let days = age_days(list.version(), now)?;
    (days > OLD_DAYS).then(|| {
        format!(
            "the public suffix list is {days} days old: get a newer one from https://publicsuffix.org/list/public_suffix_list.dat and name it as issuer.public_suffix_file"
        )
    })
}

fn read(path: &Path) -> Result<Arc<PublicSuffixes>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    PublicSuffixes::parse(&text).map(Arc::new).map_err(|error| error.to_string())
}

/// `2026-11-20_08-11-12_UTC`
fn age_days(version: &str, now: Timestamp) -> Option<i64> {
    let published: Date = version.get(..10)?.parse().ok()?;
    let published = published.to_zoned(TimeZone::UTC).ok()?.timestamp();
    Some(now.duration_since(published).as_hours() / 24)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::domain::DnsName;

    const LIST: &str = "// VERSION: 2026-01-02_03-04-05_UTC\n// ===BEGIN ICANN DOMAINS===\ncom\n// ===END ICANN DOMAINS===\n\
                        // ===BEGIN PRIVATE DOMAINS===\nhoster.com\n// ===END PRIVATE DOMAINS===\n";

    #[test]
    fn a_file_takes_the_place_of_the_shipped_list() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list.dat");
        std::fs::write(&path, LIST).unwrap();
        let text = format!("[issuer]\npublic_suffix_file = {path:?}\n");
        let config = Config::parse(&text, Path::new("x"), &[]).unwrap();
        let name = DnsName::parse("www.shop.hoster.com").unwrap();
        assert_eq!(current(&config).registered_domain(&name), "shop.hoster.com");
        let shipped = current(&Config::parse("", Path::new("x"), &[]).unwrap());
        assert_eq!(shipped.registered_domain(&name), "hoster.com");
        let in_june: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        assert!(warning(&config, in_june).unwrap().contains("is 150 days old"));
        let in_march: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
        assert_eq!(warning(&config, in_march), None);
        std::fs::write(&path, "<html>not found</html>").unwrap();
        assert!(warning(&config, in_march).unwrap().contains("not a public suffix list"));
        // What was read before is used on.
        assert_eq!(current(&config).registered_domain(&name), "shop.hoster.com");
    }

    #[test]
    fn the_shipped_list_knows_its_date() {
        let version = SHIPPED.version().to_owned();
        assert!(age_days(&version, Timestamp::now()).is_some(), "{version}");
    }
}
