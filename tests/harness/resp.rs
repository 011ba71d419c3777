//! Where one message of Redis' protocol (RESP2 and RESP3) ends: enough to pair commands with their replies.

/// The length in bytes of the first whole message in `buffer`; `None` when more bytes are needed.
///
/// What is not RESP counts as one line (inline commands).
pub fn message_length(buffer: &[u8]) -> Option<usize> {
    let line = line_length(buffer)?;
    let header = &buffer[1..line - 2];
    match buffer[0] {
        b'$' | b'=' | b'!' => match number(header) {
            Some(bytes) if bytes >= 0 => {
                let end = line + usize::try_from(bytes).ok()? + 2;
                (buffer.len() >= end).then_some(end)
            }
            _ => Some(line), // $-1: null
        },
        b'*' | b'~' | b'>' => elements(buffer, line, number(header).unwrap_or(0)),
        b'%' => elements(buffer, line, number(header).unwrap_or(0) * 2),
        // An attribute is followed by what it belongs to.
        b'|' => elements(buffer, line, number(header).unwrap_or(0) * 2 + 1),
        _ => Some(line),
    }
}

/// Whether a message of the server is a push (RESP3), which answers no command.
pub fn is_push(message: &[u8]) -> bool {
    message.first() == Some(&b'>')
}

fn elements(buffer: &[u8], from: usize, count: i64) -> Option<usize> {
    let mut at = from;
    for _ in 0..count.max(0) {
        at += message_length(buffer.get(at..)?)?;
    }
    Some(at)
}

fn line_length(buffer: &[u8]) -> Option<usize> {
    // A type byte comes first, so that an empty line is no message.
    let at = buffer.get(1..)?.windows(2).position(|pair| pair == b"\r\n")?;
    Some(at + 3)
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_messages_have_their_length() {
        for message in [
            "+OK\r\n",
            ":12\r\n",
            "$-1\r\n",
            "$3\r\nabc\r\n",
            "$0\r\n\r\n",
            "*2\r\n$3\r\nGET\r\n$4\r\n\r\nxx\r\n",
            "*-1\r\n",
            "%1\r\n+a\r\n*2\r\n:1\r\n_\r\n",
            ">3\r\n$7\r\nmessage\r\n+a\r\n+b\r\n",
            "|1\r\n+ttl\r\n:3\r\n+OK\r\n",
            "PING\r\n",
        ] {
            let two = format!("{message}+NEXT\r\n");
            assert_eq!(message_length(two.as_bytes()), Some(message.len()), "{message:?}");
            for cut in 0..message.len() {
                assert_eq!(message_length(&message.as_bytes()[..cut]), None, "{message:?} cut at {cut}");
            }
        }
    }
}
