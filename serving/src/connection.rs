//! One connection from its first byte to its last: a handshake where there is one, then requests; an end that is in time
//! whatever the client does, and that lets it read what it was answered.

use crate::{
    accept::Tls,
    life::{Cut, Life, Phase},
    stream::{Transport, Watched},
    traffic::{Fault, Traffic},
};
use actix_http::{
    StatusCode,
    error::{DispatchError, ParseError},
    header::HttpDate,
};
use openssl::ssl::Ssl;
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::{Duration, SystemTime},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_openssl::SslStream;
use tokio_util::sync::CancellationToken;

/// The first byte of a handshake: the type of a record (RFC 8446 section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// What is still taken from a client that was answered before it was through, so that the answer is not lost with it, and for
/// how long.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// The body, JSON, of a refusal of this status: 400, 408 or 431.
pub type RefusalBody = fn(u16) -> String;

/// The transport that HTTP is spoken on; `None` where it does not come to that.
pub(crate) async fn transport(
    stream: TcpStream,
    tls: Option<&Tls>,
    life: &Rc<Life>,
    traffic: &Traffic,
    stop: &CancellationToken,
) -> Option<Transport> {
    let Some(tls) = tls else { return Some(Transport::Plain(stream)) };
    let ended = tokio::select! {
        ended = within(life, handshake(stream, tls)) => ended,
        () = stop.cancelled() => return None,
    };
    match ended {
        Ok(Ok(stream)) => {
            life.shook_hands();
            Some(Transport::Tls(Box::new(stream)))
        }
        Err(Cut::Displaced) => {
            traffic.note(Fault::displaced);
            None
        }
        Ok(Err(_)) | Err(_) => {
            traffic.note(Fault::handshake);
            None
        }
    }
}

/// Nothing is made for a client that says nothing, nor for one that doesn't speak TLS.
async fn handshake(stream: TcpStream, tls: &Tls) -> io::Result<SslStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 || first[0] != HANDSHAKE_RECORD {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut stream = SslStream::new(Ssl::new(&tls.context)?, stream)?;
    Pin::new(&mut stream).accept().await.map_err(io::Error::other)?;
    Ok(stream)
}

/// Has HTTP spoken on a stream, and ends it.
pub(crate) async fn serve(
    stream: &Watched,
    protocol: impl Future<Output = Result<(), DispatchError>>,
    body: Option<RefusalBody>,
    traffic: &Traffic,
) {
    let life = stream.life();
    // What the protocol holds is gone before anything else is done to the stream.
    let ended = within(life, protocol).await;
    let is_unsaid = life.has_hidden_refusal();
    match ended {
        Ok(Ok(())) if !life.has_unread_body() => {}
        Ok(Ok(())) | Err(Cut::Answered) => linger(stream.clone()).await,
        Ok(Err(DispatchError::Parse(error))) => {
            traffic.note(Fault::malformed);
            if is_unsaid {
                let status = match error {
                    ParseError::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                };
                say(stream, status, body).await;
            } else {
                linger(stream.clone()).await;
            }
        }
        // What a client does to its own connection is its own business.
        Ok(Err(_)) => {}
        // A client that has nothing to ask has done nothing wrong, and hears nothing that it would take for an answer.
        Err(Cut::Late(Phase::Idle)) => {}
        Err(Cut::Late(Phase::Head)) if life.is_silent() => {}
        Err(Cut::Late(Phase::Head)) => {
            traffic.note(Fault::slow);
            say(stream, StatusCode::REQUEST_TIMEOUT, body).await;
        }
        Err(Cut::Late(_)) => traffic.note(Fault::slow),
        Err(Cut::Displaced) => traffic.note(Fault::displaced),
        Err(Cut::TooLarge) => {
            traffic.note(Fault::too_large);
            say(stream, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, body).await;
        }
    }
}

/// Runs `work` for as long as its life allows.
async fn within<T>(life: &Life, work: impl Future<Output = T>) -> Result<T, Cut> {
    let mut work = pin!(work);
    let mut sleep = pin!(sleep_until(life.deadline()));
    poll_fn(|context| {
        life.note_task(context);
        if life.cut().is_none() {
            if let Poll::Ready(done) = work.as_mut().poll(context) {
                return Poll::Ready(Ok(done));
            }
            watch(life, sleep.as_mut(), context);
        }
        match life.cut() {
            Some(cut) => Poll::Ready(Err(cut)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Looks at the clock no more often than has to be: a deadline that moved away is looked at when the old one comes.
fn watch(life: &Life, mut sleep: Pin<&mut Sleep>, context: &mut std::task::Context<'_>) {
    if life.deadline() < sleep.deadline() {
        sleep.as_mut().reset(life.deadline());
    }
    while life.cut().is_none() && sleep.as_mut().poll(context).is_ready() {
        life.check_time(Instant::now());
        sleep.as_mut().reset(life.deadline());
    }
}

/// Says a last word, where that can be done without waiting long.
async fn say(stream: &Watched, status: StatusCode, body: Option<RefusalBody>) {
    let (mut stream, answer) = (stream.clone(), refusal(status, body, SystemTime::now()));
    if let Ok(Ok(())) = timeout(LINGER, stream.write_all(answer.as_bytes())).await {
        linger(stream).await;
    }
}

/// A whole answer.
fn refusal(status: StatusCode, body: Option<RefusalBody>, now: SystemTime) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let date = HttpDate::from(now);
    let kind = match body {
        Some(_) => "content-type: application/json\r\ncache-control: no-store\r\n",
        None => "",
    };
    let body = body.map(|body| body(status.as_u16())).unwrap_or_default();
    let (status, length) = (status.as_u16(), body.len());
    format!(
        "HTTP/1.1 {status} {reason}\r\n{kind}content-length: {length}\r\ndate: {date}\r\nconnection: close\r\n\r\n{body}"
    )
}

/// Closes in a way that the client can still read what it was sent: a connection with bytes that were not read is reset.
async fn linger(mut stream: Watched) {
    let taken = async {
        stream.shutdown().await?;
        // Whatever comes now is nobody's.
        let (mut buffer, mut taken) = (vec![0; 8 << 10], 0);
        while taken < LINGER_BYTES {
            match read_raw(&stream, &mut buffer).await? {
                0 => break,
                count => taken += count,
            }
        }
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, taken).await;
}

/// Reads what lies below TLS: it is thrown away.
async fn read_raw(stream: &Watched, buffer: &mut [u8]) -> io::Result<usize> {
    poll_fn(|context| {
        stream.with(|transport| {
            let socket = match transport {
                Transport::Plain(socket) => socket,
                Transport::Tls(stream) => stream.get_ref(),
            };
            loop {
                std::task::ready!(socket.poll_read_ready(context))?;
                match socket.try_read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return Poll::Ready(read),
                }
            }
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_whole_answer_with_a_body_or_without() {
        let bare = refusal(StatusCode::REQUEST_TIMEOUT, None, SystemTime::UNIX_EPOCH);
        let date = "date: Thu, 01 Jan 1970 00:00:00 GMT";
        assert_eq!(
            bare,
            format!(
                "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n{date}\r\nconnection: close\r\n\r\n"
            )
        );
        let body: RefusalBody = |status| format!("{{\"status\":{status}}}");
        let told = refusal(StatusCode::BAD_REQUEST, Some(body), SystemTime::UNIX_EPOCH);
        assert!(
            told.contains("content-type: application/json\r\n") && told.contains("content-length: 14\r\n")
        );
        assert!(told.ends_with("\r\n\r\n{\"status\":400}"), "{told}");
    }
}
