//! Which of a Cluster's 16384 slots a command belongs to. (Redis Cluster specification, "Key distribution model".)

use redis::{Arg, Cmd};

pub(super) const SLOTS: u16 = 16384;
/// The highest slot.
pub(super) const LAST: u16 = SLOTS - 1;

/// The slot of a command's first key; `None` for a command without keys.
pub(super) fn slot_of(command: &Cmd) -> Option<u16> {
    key_of(command).map(slot_of_key)
}

/// The first key of a command, as far as this program's commands go: it is the first argument, but for those that are
/// named here.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut words = command.args_iter().filter_map(|word| match word {
        Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    let name = words.next()?.to_ascii_uppercase();
    match name.as_slice() {
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" => words.nth(2),
        b"XGROUP" | b"XINFO" | b"OBJECT" | b"MEMORY" => words.nth(1),
        b"XREAD" | b"XREADGROUP" => {
            words.by_ref().find(|word| word.eq_ignore_ascii_case(b"STREAMS"))?;
            words.next()
        }
        b"ACL" | b"ASKING" | b"AUTH" | b"CLIENT" | b"CLUSTER" | b"CONFIG" | b"DBSIZE" | b"HELLO"
        | b"INFO" | b"MULTI" | b"EXEC" | b"PING" | b"PUBLISH" | b"ROLE" | b"SCRIPT" | b"TIME" | b"WAIT" => {
            None
        }
        _ => words.next(),
    }
}

pub(super) fn slot_of_key(key: &[u8]) -> u16 {
    crc16(hashed_part(key)) % SLOTS
}

/// What stands between the first `{` and the `}` after it, where that is something; else the whole key.
fn hashed_part(key: &[u8]) -> &[u8] {
    let tag = || {
        let open = key.iter().position(|byte| *byte == b'{')?;
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    };
    tag().unwrap_or(key)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redis::cmd;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        // As `CLUSTER KEYSLOT` answers.
        assert_eq!(slot_of_key(b"foo"), 12182);
        assert_eq!(slot_of_key(b"{foo}bar"), 12182);
        assert_eq!(slot_of_key(b"x{foo}{bar}"), 12182);
        assert_ne!(slot_of_key(b"{}foo"), 12182, "an empty tag is none");
    }

    #[test]
    fn keys_are_found_in_every_kind_of_command() {
        let foo = Some(12182);
        assert_eq!(slot_of(cmd("GET").arg("foo")), foo);
        assert_eq!(slot_of(cmd("EVALSHA").arg("sha").arg(2).arg("foo").arg("bar")), foo);
        assert_eq!(slot_of(cmd("XREAD").arg("COUNT").arg(1).arg("STREAMS").arg("foo").arg("0")), foo);
        assert_eq!(slot_of(cmd("XGROUP").arg("CREATE").arg("foo")), foo);
        assert_eq!(slot_of(cmd("INFO").arg("foo")), None);
        assert_eq!(slot_of(&cmd("PING")), None);
    }
}
