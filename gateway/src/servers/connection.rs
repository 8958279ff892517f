//! The sockets of an instance: connected ones that wait for the next request, and unconnected ones of its own network,
//! which are used again and again because nobody outside of that network can make others.
//!
//! An idle connection is whosever has a turn. It stays on the event loop of the worker that used it last, which takes
//! it first: to change loops costs two calls and a wait.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{MsgFlags, getsockopt, recv};
use ramet_common::shortcut::SHORTCUT_BYTES_MAX;
use ramet_control::gateway::Address;
use rustix::io::Errno;
use rustix::net::{Shutdown, connect, connect_unspec, shutdown, sockopt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::stream::{Socket, Stream};

/// How long a connection may have been idle to be used again. Many servers close those that are idle for five seconds,
/// and a request that crosses that would be lost.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody listens, or not yet.
    #[error("it does not accept connections: {0}")]
    Refused(io::Error),
    /// Somebody else listens.
    #[error("its socket is another user's ({found}, not {wanted})")]
    Stranger { found: u32, wanted: u32 },
    /// All sockets are in use, which a turn rules out; or the gateway has no descriptors left.
    #[error("there is no socket for a connection: {0}")]
    Exhausted(io::Error),
}

/// Whether a connection may have been used before, so that its server may have closed it by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    New,
    Used,
}

/// An instance's sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    address: Address,
    unconnected: Mutex<Vec<OwnedFd>>,
    idle: Mutex<VecDeque<Idle>>,
}

/// A connection that waits for the next request.
#[derive(Debug)]
struct Idle {
    stream: Stream,
    since: Instant,
}

impl Sockets {
    pub(super) fn new(address: Address) -> Self {
        Self { address, unconnected: Mutex::default(), idle: Mutex::default() }
    }

    /// Takes an unconnected socket.
    pub(super) fn add(&self, fd: OwnedFd) {
        self.unconnected.lock().unwrap_or_else(PoisonError::into_inner).push(fd);
    }

    /// A connection, an idle one if there is one that is still good.
    pub(super) async fn take(&self) -> Result<(Stream, Age), ConnectError> {
        while let Some(idle) = self.take_idle() {
            if idle.since.elapsed() < IDLE_MAX && is_quiet(&idle.stream) {
                return Ok((idle.stream.on_this_worker().map_err(ConnectError::Exhausted)?, Age::Used));
            }
            self.close(idle.stream);
        }
        Ok((self.take_new().await?, Age::New))
    }

    /// A connection that nobody has used before.
    pub(super) async fn take_new(&self) -> Result<Stream, ConnectError> {
        match &self.address {
            Address::Port(port) => self.connect_port(*port).await,
            Address::Socket { path, user } => connect_socket(path, *user).await,
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, stream: Stream) {
        // A new one begins on the short-cut again, where there is one.
        if stream.bytes() >= SHORTCUT_BYTES_MAX {
            return self.close(stream);
        }
        let idle = Idle { stream, since: Instant::now() };
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push_back(idle);
    }

    /// Ends a connection.
    pub(super) fn close(&self, stream: Stream) {
        match stream.into_fd() {
            Ok(fd) => self.disconnect(fd),
            Err(error) => tracing::warn!(%error, "a connection to a function is lost"),
        }
    }

    /// The most recently used one is the likeliest to be good. Old ones make room.
    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.iter().rposition(|idle| idle.stream.is_on_this_worker()) {
            Some(place) => idle.remove(place),
            None => idle.pop_back(),
        }
    }

    /// Makes an unconnected socket of a connected one; its address may be connected to again.
    fn disconnect(&self, fd: OwnedFd) {
        if matches!(self.address, Address::Socket { .. }) {
            return;
        }
        // The end of the stream goes first: a server that waits for its next request reads that, not an error.
        let _ = shutdown(&fd, Shutdown::Write);
        match connect_unspec(&fd) {
            Ok(()) => {
                // The disconnection leaves an error behind, which would be taken for the next connection's.
                let _ = sockopt::socket_error(&fd);
                self.add(fd);
            }
            Err(error) => tracing::warn!(%error, "a socket to a function cannot be used again"),
        }
    }

    async fn connect_port(&self, port: u16) -> Result<Stream, ConnectError> {
        let fd = self.unconnected.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fd = match fd {
            Some(fd) => fd,
            // All others are connected and idle.
            None => {
                let idle = self.take_idle().ok_or_else(|| ConnectError::Exhausted(Errno::MFILE.into()))?;
                self.close(idle.stream);
                let fd = self.unconnected.lock().unwrap_or_else(PoisonError::into_inner).pop();
                fd.ok_or_else(|| ConnectError::Exhausted(Errno::MFILE.into()))?
            }
        };
        // Whatever happens, also that nobody waits any more, the socket is free again.
        let mut socket = Lent { sockets: self, fd: Some(fd) };
        let stream = socket.connect(port).await;
        match stream {
            Ok(stream) => {
                socket.fd = None;
                Ok(Stream::new(Socket::Tcp(stream)))
            }
            Err(error) => Err(ConnectError::Refused(error)),
        }
    }
}

/// An unconnected socket that is being connected.
struct Lent<'s> {
    sockets: &'s Sockets,
    fd: Option<OwnedFd>,
}

impl Lent<'_> {
    async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let fd = self.fd.as_ref().ok_or(Errno::BADF)?;
        rustix::io::ioctl_fionbio(fd, true)?;
        sockopt::set_tcp_nodelay(fd, true)?;
        match connect(fd, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        // One more descriptor of the same socket, so that it is still there if this is given up.
        let stream = TcpStream::from_std(fd.try_clone()?.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.sockets.disconnect(fd);
        }
    }
}

async fn connect_socket(path: &Path, user: Option<u32>) -> Result<Stream, ConnectError> {
    let stream = UnixStream::connect(path).await.map_err(ConnectError::Refused)?;
    // A function owns its folder: it could put a link there that leads to somebody else.
    let found = getsockopt(&stream, PeerCredentials).map_err(|errno| ConnectError::Exhausted(errno.into()))?.uid();
    match user {
        Some(wanted) if wanted != found => Err(ConnectError::Stranger { found, wanted }),
        Some(_) | None => Ok(Stream::new(Socket::Unix(stream))),
    }
}

/// Whether the far side has neither closed the connection nor sent anything.
fn is_quiet(stream: &Stream) -> bool {
    let peeked = recv(stream.as_fd().as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    peeked == Err(nix::errno::Errno::EAGAIN)
}
