//! The bytes of a connection, with or without TLS, and what its life learns from them.

use crate::life::Life;
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_openssl::SslStream;

/// What bytes go over.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<SslStream<TcpStream>>),
}

/// A stream whose life is told of what comes and goes. Clones are the same stream: what is left of it when the protocol is
/// through with it is in the hands of who holds another one.
#[derive(Clone)]
pub(crate) struct Watched {
    transport: Rc<RefCell<Transport>>,
    life: Rc<Life>,
}

impl Watched {
    pub(crate) fn new(transport: Transport, life: Rc<Life>) -> Self {
        Self { transport: Rc::new(RefCell::new(transport)), life }
    }

    pub(crate) fn life(&self) -> &Rc<Life> {
        &self.life
    }

    /// Looks at the transport between two uses of it.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Transport) -> T) -> T {
        look(&self.transport.borrow())
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.life.may_read(context) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        match &read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                self.life.bytes_came(buffer.filled().len() - before);
            }
            Poll::Ready(_) => self.life.client_gone(),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if self.life.hides() {
            return Poll::Ready(Ok(buffer.len()));
        }
        let written = match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, buffer),
        };
        match &written {
            Poll::Pending => self.life.write_blocked(),
            Poll::Ready(Err(_)) => self.life.client_gone(),
            Poll::Ready(Ok(_)) => {}
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.life.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self.transport.borrow_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
