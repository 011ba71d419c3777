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
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha1).arg(keys.len()).arg(keys);
        for argument in arguments {
            command.arg(*argument);
        }
        command
    }

    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.text);
        command
    }
}

macro_rules! scripts {
    ($($name:ident: $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file))));)*
    };
}

scripts! {
    ACQUIRE_LEASE: "acquire_lease.lua",
    FAIL_ORDER: "fail_order.lua",
    PUBLISH: "publish.lua",
    RELEASE_LEASE: "release_lease.lua",
    RENEW_LEASE: "renew_lease.lua",
    REMOVE_RECORD: "remove_record.lua",
    REPLACE_RECORD: "replace_record.lua",
    REWRAP_ORDER: "rewrap_order.lua",
    REWRAP_RECORDS: "rewrap_records.lua",
    SEALED_SITES: "sealed_sites.lua",
    STORE_CERTIFICATE: "store_certificate.lua",
    WRITE_ORDER: "write_order.lua",
    WRITE_SPEC: "write_spec.lua",
}
