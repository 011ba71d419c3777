//! Scripts that run inside the store: what they check and what they write happens at once or not at all.

use crate::digest::hex;
use redis::Cmd;
use std::sync::LazyLock;

/// A script and the digest that the server knows it by.
pub(super) struct Script {
    text: &'static str,
    sha1: String,
}

impl Script {
    fn new(text: &'static str) -> Self {
        let sha1 = hex(&openssl::sha::sha1(text.as_bytes()));
        Self { text, sha1 }
    }

    pub(super) fn call(&self, keys: &[String], arguments: &[&[u8]]) -> Cmd {
        run("EVALSHA", &self.sha1, keys, arguments)
    }

    /// For a server that doesn't know the script: it does afterwards.
    pub(super) fn call_by_text(&self, keys: &[String], arguments: &[&[u8]]) -> Cmd {
        run("EVAL", self.text, keys, arguments)
    }
}

fn run(name: &str, script: &str, keys: &[String], arguments: &[&[u8]]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(script).arg(keys.len()).arg(keys);
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

macro_rules! scripts {
    ($($name:ident: $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)*
    };
}

scripts! {
    ADD_MEMBER: "add_member.lua",
    ACQUIRE_LEASE: "acquire_lease.lua",
    FAIL_ORDER: "fail_order.lua",
    PUBLISH: "publish.lua",
    RAISE_EPOCH: "raise_epoch.lua",
    RELEASE_LEASE: "release_lease.lua",
    RENEW_LEASE: "renew_lease.lua",
    REMOVE_RECORD: "remove_record.lua",
    REPLACE_RECORD: "replace_record.lua",
    STORE_CERTIFICATE: "store_certificate.lua",
    WRITE_ORDER: "write_order.lua",
    WRITE_SPEC: "write_spec.lua",
}
