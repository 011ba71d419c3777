//! An HTTP/1.1 answer (RFC 9112) as far as a validator needs it: status, `Location`, and the first bytes of the body.
//! A function of the bytes received so far; it reads no socket.

use flate2::read::GzDecoder;
use std::io::Read;

/// What the validator takes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub location: Option<String>,
    /// The body, at most [`BODY_LIMIT_BYTES`]; a body of that length is already too long.
    pub body: Vec<u8>,
}

/// As many bytes of a body as are read. An answer must be shorter.
pub const BODY_LIMIT_BYTES: usize = 128;
/// As many bytes of a redirect's body as are waited for; one that says it is longer is not read at all (Go's client).
const REDIRECT_BODY_BYTES: usize = 2 * 1024;
/// As many bytes of a compressed body as are read.
const COMPRESSED_LIMIT_BYTES: usize = 64 * 1024;
/// As many bytes of status line and headers as are read.
pub const HEAD_LIMIT_BYTES: usize = 64 * 1024;

/// Why the bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    #[error("the server is speaking HTTP/2 over HTTP")]
    Http2,
    #[error("the server did not answer with HTTP")]
    NotHttp,
    #[error("the answer has no usable status line and headers")]
    MalformedHead,
    #[error("the headers of the answer are longer than 64 KiB")]
    HeadTooLong,
    #[error("the answer's body is malformed")]
    MalformedBody,
    #[error("the connection was closed in the middle of the answer")]
    Truncated,
}

/// Collects the bytes of one answer.
#[derive(Debug, Default)]
pub struct ResponseReader {
    received: Vec<u8>,
    /// No head ends before this offset.
    searched: usize,
    head: Option<Head>,
}

#[derive(Debug)]
struct Head {
    status: u16,
    location: Option<String>,
    framing: Framing,
    /// Compressed, as the validator's `Accept-Encoding` allows.
    is_gzip: bool,
    body_start: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

impl ResponseReader {
    /// Takes the next bytes from the connection. `Some` as soon as no more are needed.
    ///
    /// # Errors
    /// [`ResponseError`] as soon as the bytes cannot become an answer.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Response>, ResponseError> {
        self.received.extend_from_slice(bytes);
        self.advance(false)
    }

    /// The connection was closed.
    ///
    /// # Errors
    /// [`ResponseError::Truncated`] when the answer was not complete by then.
    pub fn finish(&mut self) -> Result<Response, ResponseError> {
        self.advance(true)?.ok_or(ResponseError::Truncated)
    }

    fn advance(&mut self, closed: bool) -> Result<Option<Response>, ResponseError> {
        while self.head.is_none() {
            refuse_other_protocols(&self.received)?;
            let Some(end) = self.find_head_end() else {
                let too_long = self.received.len() > HEAD_LIMIT_BYTES;
                return if too_long { Err(ResponseError::HeadTooLong) } else { Ok(None) };
            };
            let head = parse_head(&self.received[..end], end)?;
            if (100..200).contains(&head.status) && head.status != 101 {
                self.received.drain(..end);
                self.searched = 0;
            } else {
                self.head = Some(head);
            }
        }
        let Some(head) = &self.head else { return Ok(None) };
        let available = &self.received[head.body_start..];
        let body = if head.is_redirect() {
            // Nobody looks at it, but it must be there.
            head.body(available, REDIRECT_BODY_BYTES, closed)?.map(|_| Vec::new())
        } else if head.is_gzip {
            head.decompressed(available, closed)?
        } else {
            head.body(available, BODY_LIMIT_BYTES, closed)?
        };
        Ok(body.map(|body| Response { status: head.status, location: head.location.clone(), body }))
    }

    /// The offset just after the empty line, where there is one.
    fn find_head_end(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(3);
        for (offset, window) in self.received[from..].windows(2).enumerate() {
            let rest = &self.received[from + offset..];
            if window == b"\n\n" {
                return Some(from + offset + 2);
            }
            if rest.starts_with(b"\n\r\n") {
                return Some(from + offset + 3);
            }
        }
        self.searched = self.received.len();
        None
    }
}

impl Head {
    fn is_redirect(&self) -> bool {
        is_redirect(self.status, self.location.as_deref())
    }

    /// The body's first bytes, `limit` at most; `None` while more are needed.
    fn body(&self, available: &[u8], limit: usize, closed: bool) -> Result<Option<Vec<u8>>, ResponseError> {
        Ok(match self.framing {
            Framing::None => Some(Vec::new()),
            Framing::Length(length) if self.is_redirect() && length > limit => Some(Vec::new()),
            Framing::Length(length) => {
                let wanted = length.min(limit);
                (available.len() >= wanted).then(|| available[..wanted].to_vec())
            }
            Framing::Chunked => decode_chunks(available, limit)?,
            Framing::UntilClose => {
                let enough = closed || available.len() >= limit;
                enough.then(|| available[..available.len().min(limit)].to_vec())
            }
        })
    }

    fn decompressed(&self, available: &[u8], closed: bool) -> Result<Option<Vec<u8>>, ResponseError> {
        let Some(compressed) = self.body(available, COMPRESSED_LIMIT_BYTES, closed)? else { return Ok(None) };
        let mut body = Vec::new();
        GzDecoder::new(compressed.as_slice())
            .take(BODY_LIMIT_BYTES as u64)
            .read_to_end(&mut body)
            .map_err(|_| ResponseError::MalformedBody)?;
        Ok(Some(body))
    }
}

/// Whether an answer leads on: any other status, and one of these without an address, is the answer itself.
pub(super) fn is_redirect(status: u16, location: Option<&str>) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308) && location.is_some_and(|location| !location.is_empty())
}

/// An HTTP/2 server greets with a SETTINGS frame (RFC 9113 section 3.4), a TLS server with an alert.
fn refuse_other_protocols(received: &[u8]) -> Result<(), ResponseError> {
    if received.len() >= 4 && received[0] == 0 && received[3] == 4 {
        return Err(ResponseError::Http2);
    }
    let expected = b"HTTP/1.";
    let length = received.len().min(expected.len());
    if received[..length] != expected[..length] {
        let maybe_http2 = received.len() < 4 && received[0] == 0;
        return if maybe_http2 { Ok(()) } else { Err(ResponseError::NotHttp) };
    }
    Ok(())
}

fn parse_head(head: &[u8], body_start: usize) -> Result<Head, ResponseError> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let status = lines.next().and_then(parse_status).ok_or(ResponseError::MalformedHead)?;
    let (mut location, mut length, mut chunked, mut is_gzip) = (None, None, false, false);
    let knows_chunks = !text.starts_with("HTTP/1.0");
    for line in lines.take_while(|line| !line.is_empty()) {
        if line.starts_with([' ', '\t']) {
            continue; // A folded line continues a header that is none of ours.
        }
        let (name, value) = line.split_once(':').ok_or(ResponseError::MalformedHead)?;
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("location") && location.is_none() {
            location = Some(value.to_owned());
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if knows_chunks && (chunked || !value.eq_ignore_ascii_case("chunked")) {
                return Err(ResponseError::MalformedHead);
            }
            chunked = knows_chunks;
        } else if name.eq_ignore_ascii_case("content-encoding") {
            is_gzip = value.eq_ignore_ascii_case("gzip");
        } else if name.eq_ignore_ascii_case("content-length") {
            // No sign, as `parse` would take.
            let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
            let parsed: usize =
                digits.and_then(|digits| digits.parse().ok()).ok_or(ResponseError::MalformedHead)?;
            if length.is_some_and(|earlier| earlier != parsed) {
                return Err(ResponseError::MalformedHead);
            }
            length = Some(parsed);
        }
    }
    let framing = match (status, chunked, length) {
        (204 | 304 | 100..=199, _, _) => Framing::None,
        (_, true, _) => Framing::Chunked,
        (_, false, Some(length)) => Framing::Length(length),
        (_, false, None) => Framing::UntilClose,
    };
    Ok(Head { status, location, framing, is_gzip, body_start })
}

/// `HTTP/1.x NNN reason` (RFC 9112 section 4).
fn parse_status(line: &str) -> Option<u16> {
    let rest = line.strip_prefix("HTTP/1.")?.strip_prefix(['0', '1'])?.strip_prefix(' ')?;
    let digits = rest.split(' ').next()?;
    let status: u16 = digits.parse().ok()?;
    (digits.len() == 3 && (100..=999).contains(&status)).then_some(status)
}

/// The first bytes of a chunked body (RFC 9112 section 7.1); `None` while more are needed.
fn decode_chunks(mut raw: &[u8], limit: usize) -> Result<Option<Vec<u8>>, ResponseError> {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = raw.iter().position(|b| *b == b'\n') else {
            return if raw.len() > 4096 { Err(ResponseError::MalformedBody) } else { Ok(None) };
        };
        let line = std::str::from_utf8(&raw[..line_end]).map_err(|_| ResponseError::MalformedBody)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| ResponseError::MalformedBody)?;
        if size == 0 {
            return Ok(Some(body));
        }
        raw = &raw[line_end + 1..];
        let take = size.min(limit - body.len()).min(raw.len());
        body.extend_from_slice(&raw[..take]);
        if body.len() >= limit {
            return Ok(Some(body));
        }
        if raw.len() < size.saturating_add(2) {
            return Ok(None);
        }
        raw = raw[size..].strip_prefix(b"\r\n").ok_or(ResponseError::MalformedBody)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_whole(bytes: &[u8]) -> Result<Response, ResponseError> {
        let mut reader = ResponseReader::default();
        match reader.push(bytes)? {
            Some(response) => Ok(response),
            None => reader.finish(),
        }
    }

    #[test]
    fn every_framing_gives_the_same_body() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.0 200\r\n\r\nhello",
            "HTTP/1.1 200 OK\nContent-length:5\n\nhello-and-more",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        ] {
            let response = read_whole(text.as_bytes()).unwrap();
            assert_eq!((response.status, response.body.as_slice()), (200, b"hello".as_slice()), "{text}");
        }
    }

    #[test]
    fn a_long_body_is_cut_at_the_limit_without_waiting_for_the_rest() {
        for head in ["Content-Length: 100000\r\n", "", "Transfer-Encoding: chunked\r\n"] {
            let chunk = if head.starts_with('T') { "186a0\r\n" } else { "" };
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n{chunk}{}", "x".repeat(200));
            let response = ResponseReader::default().push(text.as_bytes()).unwrap().unwrap();
            assert_eq!(response.body.len(), BODY_LIMIT_BYTES, "{head}");
        }
    }

    #[test]
    fn a_redirect_brings_the_body_that_it_announces() {
        let head = |length| {
            format!("HTTP/1.1 302 Found\r\nLOCATION:  http://a.net/x \r\nContent-Length: {length}\r\n\r\n")
        };
        let whole = read_whole(format!("{}moved", head(5)).as_bytes()).unwrap();
        assert_eq!((whole.location.as_deref(), whole.body.as_slice()), (Some("http://a.net/x"), &b""[..]));
        assert_eq!(read_whole(head(100).as_bytes()), Err(ResponseError::Truncated));
        // So long that nobody reads it.
        assert!(ResponseReader::default().push(head(9999).as_bytes()).unwrap().is_some());
    }

    #[test]
    fn what_leads_nowhere_is_the_answer_itself() {
        for (status, location, leads) in [
            (302, Some("/x"), true),
            (303, Some("/x"), true),
            (302, None, false),
            (307, Some(""), false),
            (300, Some("/x"), false),
            (304, Some("/x"), false),
        ] {
            assert_eq!(is_redirect(status, location), leads, "{status} {location:?}");
        }
    }

    #[test]
    fn a_compressed_body_is_read() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, b"hello").unwrap();
        let compressed = encoder.finish().unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
            compressed.len()
        );
        let answer = [head.as_bytes(), &compressed].concat();
        assert_eq!(read_whole(&answer).unwrap().body, b"hello");
        let broken = [head.as_bytes(), &vec![7; compressed.len()]].concat();
        assert_eq!(read_whole(&broken), Err(ResponseError::MalformedBody));
    }

    #[test]
    fn what_is_no_answer_is_named() {
        for (bytes, error) in [
            (b"SSH-2.0-OpenSSH_9.2\r\n".as_slice(), ResponseError::NotHttp),
            (b"\x15\x03\x01\x00\x02", ResponseError::NotHttp),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", ResponseError::Http2),
            (b"HTTP/1.1 banana\r\n\r\n", ResponseError::MalformedHead),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
                ResponseError::MalformedHead,
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", ResponseError::MalformedHead),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello", ResponseError::MalformedHead),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", ResponseError::Truncated),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ResponseError::MalformedBody),
            (b"HTTP/1.1 200 OK\r\n", ResponseError::Truncated),
            (b"", ResponseError::Truncated),
        ] {
            assert_eq!(read_whole(bytes), Err(error), "{}", String::from_utf8_lossy(bytes));
        }
        let endless = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &vec![b'x'; HEAD_LIMIT_BYTES]].concat();
        assert_eq!(ResponseReader::default().push(&endless), Err(ResponseError::HeadTooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_the_same_verdict(
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            text in r"(HTTP/1\.1 200 OK\r\n)?(Transfer-Encoding: chunked\r\n|Content-Length: [0-9]{1,3}\r\n)?(\r\n)?([0-9a-f]{1,2}\r\n)?",
            cut in 0usize..300,
        ) {
            let bytes = [text.as_bytes(), &tail].concat();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            let mut reader = ResponseReader::default();
            let in_pieces = match reader.push(first) {
                Ok(None) => match reader.push(second) {
                    Ok(Some(response)) => Ok(response),
                    Ok(None) => reader.finish(),
                    Err(error) => Err(error),
                },
                Ok(Some(response)) => Ok(response),
                Err(error) => Err(error),
            };
            let whole = read_whole(&bytes);
            prop_assert_eq!(in_pieces.is_ok(), whole.is_ok());
            if let (Ok(pieces), Ok(whole)) = (in_pieces, whole) {
                prop_assert!(whole.body.len() <= BODY_LIMIT_BYTES);
                prop_assert_eq!(pieces, whole);
            }
        }
    }
}
