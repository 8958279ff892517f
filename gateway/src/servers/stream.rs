//! A connection to an instance, of either kind of socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A connection, and how much has gone over it.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: Socket,
    bytes: u64,
    /// Who runs the event loop that it is on.
    worker: ThreadId,
}

/// One of the two.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Does the same with either.
macro_rules! either {
    ($socket:expr, |$inner:ident| $work:expr) => {
        match $socket {
            Socket::Tcp($inner) => $work,
            Socket::Unix($inner) => $work,
        }
    };
}

impl Stream {
    /// A connection on this worker's event loop, over which nothing has gone.
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, bytes: 0, worker: thread::current().id() }
    }

    pub(super) fn is_on_this_worker(&self) -> bool {
        self.worker == thread::current().id()
    }

    /// Takes it over from another worker's event loop, if it is on another's.
    pub(super) fn on_this_worker(self) -> io::Result<Self> {
        if self.is_on_this_worker() {
            return Ok(self);
        }
        let socket = match self.socket {
            Socket::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Socket::Unix(stream) => Socket::Unix(UnixStream::from_std(stream.into_std()?)?),
        };
        Ok(Self { bytes: self.bytes, ..Self::new(socket) })
    }

    /// How many bytes have gone over it, both ways.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the socket off the event loop.
    pub(super) fn into_fd(self) -> io::Result<OwnedFd> {
        Ok(match self.socket {
            Socket::Tcp(stream) => stream.into_std()?.into(),
            Socket::Unix(stream) => stream.into_std()?.into(),
        })
    }

    fn count(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.bytes += *bytes as u64;
        }
        written
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        either!(&self.socket, |stream| stream.as_fd())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = either!(&mut self.socket, |stream| Pin::new(stream).poll_read(context, into));
        self.bytes += (into.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = either!(&mut self.socket, |stream| Pin::new(stream).poll_write(context, bytes));
        self.count(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.socket, |stream| Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.socket, |stream| Pin::new(stream).poll_shutdown(context))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.socket, |stream| stream.is_write_vectored())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = either!(&mut self.socket, |stream| Pin::new(stream).poll_write_vectored(context, slices));
        self.count(written)
    }
}
