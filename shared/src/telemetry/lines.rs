//! The lines of a log: one for each event, and nothing in them that a terminal would obey.

use crate::text::one_line;
use std::io::{self, Write};

/// Takes whole events, each with the line break at its end.
pub(super) struct Lines<W>(pub(super) W);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (text, end) = text.strip_suffix('\n').map_or((&*text, ""), |text| (text, "\n"));
        self.0.write_all(format!("{}{end}", one_line(text)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let mut written = Vec::new();
        Lines(&mut written).write_all("WARN a\nINFO forged\u{1b}[2J 상점\n".as_bytes()).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "WARN a\\u000aINFO forged\\u001b[2J 상점\n");
    }
}
