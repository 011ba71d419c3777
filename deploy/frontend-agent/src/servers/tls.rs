//! The centre's TLS policy in each server's own words.

use shared::domain::{TlsPolicy, TlsVersion};

const TLS_12: &str = "TLSv1.2";
const TLS_13: &str = "TLSv1.3";

pub(super) fn of_nginx(policy: &TlsPolicy) -> String {
    let ciphers = with_ciphers(policy, |names| format!("ssl_ciphers {names};\n"));
    format!(
        "ssl_protocols {};\n{ciphers}ssl_conf_command Ciphersuites {};\nssl_ecdh_curve {};\nssl_prefer_server_ciphers {};\n",
        versions(policy, "", TLS_12, TLS_13),
        policy.ciphersuites.join(":"),
        groups(policy),
        on_or_off(policy),
    )
}

pub(super) fn of_haproxy(policy: &TlsPolicy) -> String {
    let ciphers = with_ciphers(policy, |names| format!("  ssl-default-bind-ciphers {names}\n"));
    let least = if policy.min_version == TlsVersion::Tls12 { TLS_12 } else { TLS_13 };
    let choice = if policy.prefer_server_ciphers { "" } else { " prefer-client-ciphers" };
    format!(
        "global\n  ssl-default-bind-options ssl-min-ver {least}{choice}\n{ciphers}  ssl-default-bind-ciphersuites {}\n  ssl-default-bind-curves {}\n",
        policy.ciphersuites.join(":"),
        groups(policy),
    )
}

pub(super) fn of_apache(policy: &TlsPolicy) -> String {
    let ciphers = with_ciphers(policy, |names| format!("SSLCipherSuite {names}\n"));
    format!(
        "SSLProtocol -all {}\n{ciphers}SSLCipherSuite TLSv1.3 {}\nSSLOpenSSLConfCmd Curves {}\nSSLHonorCipherOrder {}\n",
        versions(policy, "+", TLS_12, TLS_13),
        policy.ciphersuites.join(":"),
        groups(policy),
        on_or_off(policy),
    )
}

/// For the inside of a `tls` directive. Caddy has its own suites for TLS 1.3.
pub(super) fn of_caddy(policy: &TlsPolicy) -> String {
    let names: Vec<&str> = policy.groups.iter().map(|group| group.caddy_name()).collect();
    let ciphers = match policy.min_version {
        TlsVersion::Tls12 => format!("ciphers {}\n", policy.ciphers.join(" ")),
        TlsVersion::Tls13 => String::new(),
    };
    let least = if policy.min_version == TlsVersion::Tls12 { "tls1.2" } else { "tls1.3" };
    format!("protocols {least} tls1.3\n{ciphers}curves {}\n", names.join(" "))
}

fn with_ciphers(policy: &TlsPolicy, line: impl Fn(&str) -> String) -> String {
    match policy.openssl_ciphers().join(":").as_str() {
        "" => String::new(),
        names => line(names),
    }
}

fn versions(policy: &TlsPolicy, prefix: &str, older: &str, newer: &str) -> String {
    match policy.min_version {
        TlsVersion::Tls12 => format!("{prefix}{older} {prefix}{newer}"),
        TlsVersion::Tls13 => format!("{prefix}{newer}"),
    }
}

fn groups(policy: &TlsPolicy) -> String {
    policy.groups.iter().map(|group| group.openssl_name()).collect::<Vec<_>>().join(":")
}

const fn on_or_off(policy: &TlsPolicy) -> &'static str {
    if policy.prefer_server_ciphers { "on" } else { "off" }
}
