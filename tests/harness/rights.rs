//! The users of the roles with the rights that the handbook gives them, for a Redis that the test has started.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::redis::Redis;

/// The password of every one of them.
pub const PASSWORD: &str = "of-the-role";

/// The line of a role's user in the handbook, without its password: the words after `on`.
pub fn of_role(role: &str) -> Result<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/handbook/durability.md");
    let page = std::fs::read_to_string(page).context("the handbook")?;
    let begin = format!("user {role} on >CHANGE-ME ");
    let line = page.lines().find_map(|line| line.strip_prefix(&begin)).with_context(|| role.to_owned())?;
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    ensure!(words.len() > 3, "{line}");
    Ok(words)
}

/// Makes the role's user, or changes it: with these words and no others.
pub async fn set(redis: &Redis, role: &str, words: &[String]) -> Result<()> {
    let password = format!(">{PASSWORD}");
    let mut line = vec!["ACL", "SETUSER", role, "reset", "on", &password];
    line.extend(words.iter().map(String::as_str));
    redis.command(&line).await.map(drop).with_context(|| line.join(" "))
}

/// Makes the users of all roles.
pub async fn grant(redis: &Redis, besides: &[&str]) -> Result<()> {
    for role in ["challenge", "certificates", "issuer"] {
        let mut words = of_role(role)?;
        words.extend(besides.iter().map(ToString::to_string));
        set(redis, role, &words).await?;
    }
    Ok(())
}

/// The lines of an ACL file: the roles', and a user `default` that the test looks in with.
pub fn acl_file() -> Result<String> {
    let mut lines = "user default on nopass ~* &* +@all\n".to_owned();
    for role in ["challenge", "certificates", "issuer"] {
        lines.push_str(&format!("user {role} on >{PASSWORD} {}\n", of_role(role)?.join(" ")));
    }
    Ok(lines)
}
