//! A test in a network namespace of its own: every port and address is free there, and nothing leads out of it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Set in the half of a test that runs inside.
const INSIDE: &str = "SIGNPOST_TESTS_INSIDE";

/// Brings the loopback device up with the addresses of the first argument, puts a resolver at 127.0.0.1 into a private
/// /etc/resolv.conf, and goes on as the command that follows.
const SET_UP: &str = r#"
ip link set lo up
for address in $1; do ip address add "$address" dev lo; done
resolvers=$(mktemp)
printf 'nameserver 127.0.0.1\n' >"$resolvers"
mount --bind "$resolvers" /etc/resolv.conf
rm "$resolvers"
shift
exec "$@"
"#;

/// Whether this is the half of the test that runs inside. Called from outside, it runs the test named `test` (its full
/// path, as the test runner lists it) again, inside a namespace with `addresses`, and answers `false` once that has
/// passed. Takes root.
///
/// # Errors
/// When the half inside has failed, with what it said; when there is no namespace to be had.
pub fn inside(test: &str, addresses: &[&str]) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--", "bash", "-euc", SET_UP, "set-up"])
        .arg(addresses.join(" "))
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .output()
        .context("unshare and ip make the namespace: apt-get install util-linux iproute2")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "inside the namespace (root alone can make one): {said}");
    ensure!(said.contains("1 passed"), "{test} is not the name of a test: {said}");
    Ok(false)
}
