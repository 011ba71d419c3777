//! Scripts that run inside the store: what they check and what they write happens at once or not at all.

use crate::digest::hex;
use redis::Cmd;
use std::sync::LazyLock;

/// A script and the digest that the server knows it by.
pub(super) struct Script {
    text: String,
    sha1: String,
}

/// What a script begins with that runs in a full store, too.
const FREEING: &str = "#!lua flags=allow-oom\n";
/// What every script begins with that writes more than one key.
const ALL_OR_NOTHING: &str = include_str!("scripts/all_or_nothing.lua");
/// What every script of the schedule begins with, behind that.
const SCHEDULE: &str = include_str!("scripts/schedule.lua");
/// What every script of the limits' twin begins with, behind that.
const LIMITS: &str = include_str!("scripts/limits.lua");

impl Script {
    fn new(text: &str) -> Self {
        let text = text.to_owned();
        let sha1 = hex(&openssl::sha::sha1(text.as_bytes()));
        Self { text, sha1 }
    }

    /// One that only removes, or gives back what it holds: it runs in a full store, too, or there would be no way out.
    fn freeing(text: &str) -> Self {
        Self::new(&format!("{FREEING}{text}"))
    }

    /// One that writes all or nothing, and only removes.
    fn whole_freeing(text: &str) -> Self {
        Self::new(&format!("{FREEING}{ALL_OR_NOTHING}\n{text}"))
    }

    /// One of the schedule that only removes, or gives back what it holds.
    fn of_schedule_freeing(text: &str) -> Self {
        Self::new(&format!("{FREEING}{ALL_OR_NOTHING}\n{SCHEDULE}\n{text}"))
    }

    /// One that writes all or nothing.
    fn whole(text: &str) -> Self {
        Self::new(&format!("{ALL_OR_NOTHING}\n{text}"))
    }

    /// One that moves a group in the schedule.
    fn of_schedule(text: &str) -> Self {
        Self::whole(&format!("{SCHEDULE}\n{text}"))
    }

    /// One of the limits' twin.
    fn of_limits(text: &str) -> Self {
        Self::whole(&format!("{LIMITS}\n{text}"))
    }

    pub(super) fn call(&self, keys: &[String], arguments: &[&[u8]]) -> Cmd {
        run("EVALSHA", &self.sha1, keys, arguments)
    }

    /// For a server that doesn't know the script: it does afterwards.
    pub(super) fn call_by_text(&self, keys: &[String], arguments: &[&[u8]]) -> Cmd {
        run("EVAL", &self.text, keys, arguments)
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
    ($make:path, $($name:ident: $file:literal),* $(,)?) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| $make(include_str!(concat!("scripts/", $file))));)*
    };
}

scripts! {
    Script::new,
    COMMIT_NOTIFY_STATE: "commit_notify_state.lua",
    ADD_MEMBER: "add_member.lua",
    BEGIN_LOOKING: "begin_looking.lua",
    CLEAR_CHUNK: "clear_chunk.lua",
    FAIL_ORDER: "fail_order.lua",
    HOLD_ROLLOVER: "hold_rollover.lua",
    NOTE_AUDIT_REMOVED: "note_audit_removed.lua",
    PAUSE: "pause.lua",
    POINT_NAME: "point_name.lua",
    PUT_API_TOKEN: "put_api_token.lua",
    RELEASE_ROLLOVER: "release_rollover.lua",
    RELEASE_NOTIFY_LEAD: "release_notify_lead.lua",
    RENEW_NOTIFY_LEAD: "renew_notify_lead.lua",
    RAISE_EPOCH: "raise_epoch.lua",
    REPLACE_FIELD: "replace_field.lua",
    REPLACE_RECORD: "replace_record.lua",
    RESTORE_FEED: "restore_feed.lua",
    REWRAP_ORDER: "rewrap_order.lua",
    REWRAP_RECORDS: "rewrap_records.lua",
    SEALED_SITES: "sealed_sites.lua",
    STORE_CERTIFICATE: "store_certificate.lua",
    TAKE_PLACE: "take_place.lua",
    WRITE_ORDER: "write_order.lua",
}

scripts! {
    Script::whole,
    CLAIM_SIGHTINGS: "claim_sightings.lua",
    SIGHT: "sight.lua",
}

scripts! {
    Script::of_schedule,
    ACQUIRE_LEASE: "acquire_lease.lua",
    ADOPT_INTO_FEED: "adopt_into_feed.lua",
    MEND_SCHEDULE: "mend_schedule.lua",
    NUDGE: "nudge.lua",
    PUBLISH: "publish.lua",
    PUT_SITE: "put_site.lua",
    SAY_AGAIN: "say_again.lua",
    SETTLE: "settle.lua",
    TAKE_OVER: "take_over.lua",
    WRITE_SPEC: "write_spec.lua",
}

scripts! {
    Script::whole_freeing,
    END_SIGHTING: "end_sighting.lua",
}

scripts! {
    Script::freeing,
    END_MARK: "end_mark.lua",
    RELEASE_NAME: "release_name.lua",
    REMOVE_RECORD: "remove_record.lua",
}

scripts! {
    Script::of_schedule_freeing,
    CLAIM: "claim.lua",
    DELETE_GROUP: "delete_group.lua",
    RELEASE_LEASE: "release_lease.lua",
    REMOVE_SITE: "put_site.lua",
    RENEW_LEASE: "renew_lease.lua",
}

scripts! {
    Script::of_limits,
    ASK_LIMITS: "ask_limits.lua",
    PACE_REQUEST: "pace_request.lua",
    SETTLE_LIMITS: "settle_limits.lua",
}
