//! A client's socket, of which the event loop is told when there is something to wait for, and not before: most of the
//! requests that come on connections of their own are there when these are accepted, and answered soon. To tell it of
//! a socket, to hear of it and to take it back is more than reading the request is.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as UnwatchedStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, acceptfrom_with, recv, send, shutdown};
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// A listening socket.
#[derive(Debug)]
pub(super) struct Listener(AsyncFd<TcpListener>);

/// Connections that may wait at it.
#[derive(Debug)]
pub(super) struct Waiting<'l>(AsyncFdReadyGuard<'l, TcpListener>);

/// A connection to a client. States: unwatched → watched; lost only if the event loop does not take it.
#[derive(Debug)]
pub(crate) struct Socket(State);

#[derive(Debug)]
enum State {
    Unwatched(UnwatchedStream),
    Watched(TcpStream),
    Lost,
}

/// What comes after some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Other bytes, sooner or later.
    More,
    /// The end of the stream, at once: it goes in the same packet.
    End,
}

impl Listener {
    pub(super) fn new(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        #[allow(deprecated, reason = "sound for a TcpListener; its replacement is unsafe, which this crate forbids")]
        Ok(Self(AsyncFd::with_interest(listener, Interest::READABLE)?))
    }

    /// Waits until there may be a connection.
    pub(super) async fn waiting(&self) -> io::Result<Waiting<'_>> {
        self.0.readable().await.map(Waiting)
    }

    /// One more descriptor of it.
    pub(super) fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.get_ref().as_fd().try_clone_to_owned()
    }

    /// A connection that waits already.
    pub(super) fn accept_now(&self) -> Option<(Socket, SocketAddr)> {
        accept(self.0.get_ref()).ok()
    }
}

impl Waiting<'_> {
    /// The connection. `None`: it is another's, or was none.
    pub(super) fn accept(&mut self) -> io::Result<Option<(Socket, SocketAddr)>> {
        // Without one this hears of the next.
        self.0.try_io(|listener| accept(listener.get_ref())).ok().transpose()
    }
}

fn accept(listener: &TcpListener) -> io::Result<(Socket, SocketAddr)> {
    let (fd, peer) = acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((Socket::new(fd.into()), peer))
}

impl Socket {
    /// A connection that does not block.
    pub(super) const fn new(stream: UnwatchedStream) -> Self {
        Self(State::Unwatched(stream))
    }

    /// Whether nobody would hear that something comes.
    pub(super) const fn is_unwatched(&self) -> bool {
        matches!(self.0, State::Unwatched(_))
    }

    /// Tells the event loop of the socket.
    pub(super) fn watch(&mut self) -> io::Result<&mut TcpStream> {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Unwatched(stream) => State::Watched(TcpStream::from_std(stream)?),
            other => other,
        };
        match &mut self.0 {
            State::Watched(stream) => Ok(stream),
            State::Unwatched(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As what waits for it wants it.
    pub(super) fn into_watched(mut self) -> io::Result<TcpStream> {
        self.watch()?;
        match self.0 {
            State::Watched(stream) => Ok(stream),
            State::Unwatched(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// As another event loop can be told of it.
    pub(super) fn into_unwatched(self) -> io::Result<UnwatchedStream> {
        match self.0 {
            State::Unwatched(stream) => Ok(stream),
            State::Watched(stream) => stream.into_std(),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until a read may bring something.
    pub(super) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            State::Unwatched(_) => Poll::Ready(Ok(())),
            State::Watched(stream) => stream.poll_read_ready(context),
            State::Lost => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Reads what there is, as far as there is room. 0: the client sends no more.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>, into: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        if let State::Unwatched(stream) = &self.0 {
            match recv(stream, spare_capacity(into), RecvFlags::empty()) {
                Ok((bytes, _)) => return Poll::Ready(Ok(bytes)),
                Err(Errno::AGAIN) => {}
                Err(errno) => return Poll::Ready(Err(errno.into())),
            }
        }
        // Not `try_read_buf`: of a read that left room in the buffer this one knows that the next would find nothing.
        poll_read_buf(Pin::new(self.watch()?), context, into)
    }

    /// Reads into `into` what there is; 0 at the end of the stream.
    pub(super) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            State::Unwatched(stream) => Ok(recv(stream, into, RecvFlags::empty()).map(|(bytes, _)| bytes)?),
            State::Watched(stream) => stream.try_read(into),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until a read brings something.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        self.watch()?.readable().await
    }

    /// Writes as much as there is room for.
    pub(super) fn try_write(&mut self, bytes: &[u8], then: Then) -> io::Result<usize> {
        let flags = match then {
            Then::More => SendFlags::NOSIGNAL,
            Then::End => SendFlags::NOSIGNAL | SendFlags::MORE,
        };
        match &mut self.0 {
            State::Unwatched(stream) => Ok(send(stream, bytes, flags)?),
            State::Watched(stream) => stream.try_io(Interest::WRITABLE, || Ok(send(&stream, bytes, flags)?)),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes as much of the pieces as there is room for.
    pub(super) fn try_write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.0 {
            State::Unwatched(stream) => stream.write_vectored(pieces),
            State::Watched(stream) => stream.try_write_vectored(pieces),
            State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Waits until the client has made room by reading.
    pub(super) async fn writable(&mut self) -> io::Result<()> {
        self.watch()?.writable().await
    }

    /// Ends the stream. The client may still be sending.
    pub(super) fn end(&self) {
        // If it cannot be ended, it has ended.
        let _ = match &self.0 {
            State::Unwatched(stream) => shutdown(stream, Shutdown::Write),
            State::Watched(stream) => shutdown(stream, Shutdown::Write),
            State::Lost => Ok(()),
        };
    }

    /// Reads until the client ends the stream.
    pub(super) async fn read_to_end(&mut self) {
        let mut scratch = [0; 4096];
        let Ok(stream) = self.watch() else { return };
        while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
    }
}
