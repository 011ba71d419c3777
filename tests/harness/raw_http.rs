//! HTTP/1.1 as bytes on a stream: for requests that no client library would send, and for answers compared byte by byte.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// One answer, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Status line and header, as they came.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer without what differs from one second, or one run, to the next.
    pub fn without_date(&self) -> (Vec<String>, Vec<u8>) {
        let mut lines: Vec<String> = self.head.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
        // Their order is random.
        lines.sort();
        (lines, self.body.clone())
    }
}

/// A plain connection that gives up after some seconds.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends bytes and reads one answer; `None` when the server closes without one.
pub fn exchange(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Option<Answer>> {
    match stream.write_all(request).and_then(|()| stream.flush()) {
        // A server that has heard enough may answer and close before everything is sent.
        Ok(()) => {}
        Err(error) if is_closed(&error) => {}
        Err(error) => return Err(error),
    }
    read_answer(stream, request.starts_with(b"HEAD "))
}

/// Reads one answer; `None` when the server closes without one.
pub fn read_answer(stream: &mut impl Read, to_head: bool) -> io::Result<Option<Answer>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Err(error) if is_closed(&error) => return Ok(None),
            Ok(_) => head.push(byte[0]),
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let status = head.get(9..12).and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status line: {head:?}")))?;
    let mut answer = Answer { status, head, body: Vec::new() };
    let length = answer.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    if !to_head && status != 304 {
        answer.body.resize(length, 0);
        stream.read_exact(&mut answer.body)?;
    }
    Ok(Some(answer))
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
