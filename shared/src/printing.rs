//! Standard output and standard error, which may be full, or gone with whoever read them: neither ends a program that has
//! work to do.

use crate::text::printable;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io::{self, Write},
    os::fd::AsFd,
};

/// Writes text to standard output, to its end.
///
/// # Errors
/// What was printed may not have arrived: the disk is full, or nobody reads any more ([`io::ErrorKind::BrokenPipe`]).
pub fn print(text: &str) -> io::Result<()> {
    print_to(&mut io::stdout().lock(), text)
}

/// Writes a line to standard error; where nobody reads that, nothing can be told.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{}", printable(line));
}

/// Whether nobody reads any more, which is the reader's own choice (`| head -1`).
pub fn is_reader_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// The same of standard output, where nothing is to be written at present.
pub fn has_reader_gone() -> bool {
    is_reader_gone_from(&io::stdout())
}

fn is_reader_gone_from(out: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(out, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().contains(PollFlags::ERR)
}

fn print_to(out: &mut impl Write, text: &str) -> io::Result<()> {
    let text = printable(text);
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn what_does_not_arrive_is_an_error() {
        let mut written = Vec::new();
        print_to(&mut written, "one\ntwo \u{1b}[2J").unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "one\ntwo \\u001b[2J\n");
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let error = print_to(&mut io::BufWriter::new(full), "token").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(!is_reader_gone(&error));
        let (reader, mut writer) = io::pipe().unwrap();
        assert!(!is_reader_gone_from(&writer));
        drop(reader);
        assert!(is_reader_gone_from(&writer));
        assert!(is_reader_gone(&print_to(&mut writer, "token").unwrap_err()));
    }
}
