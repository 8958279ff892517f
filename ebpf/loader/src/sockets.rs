//! The two socket pairs of an instance: TCP to send on, because `sk_msg` programs run for TCP senders only, and unix
//! stream to receive on, because that is the fastest target.

use crate::LoaderError;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How many connections of strangers are turned away before giving up.
const STRANGERS_MAX: u32 = 256;
/// How long the connection to ourselves may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The sockets of one instance, all close-on-exec and blocking.
#[derive(Debug)]
pub struct SocketPairs {
    /// The TCP end that the instance sends on. A refused send fails with `EPIPE`, so it wants `MSG_NOSIGNAL`.
    pub sender: OwnedFd,
    /// The other end of `sender`: held while the instance lives, and never read, because SPROXY takes every message.
    pub sender_peer: OwnedFd,
    /// The unix stream end that the instance receives on.
    pub receiver: OwnedFd,
    /// The other end of `receiver`: held while the instance lives.
    pub receiver_peer: OwnedFd,
}

/// Makes the sockets of one instance, the TCP pair on the loopback device of the caller's network namespace.
///
/// # Errors
///
/// [`LoaderError::Sockets`] names the system call that failed.
pub fn socket_pairs() -> Result<SocketPairs, LoaderError> {
    let (sender, sender_peer) = tcp_pair()?;
    let (receiver, receiver_peer) =
        UnixStream::pair().map_err(|source| error("socketpair", source, "is the limit of open files reached?"))?;
    Ok(SocketPairs {
        sender: sender.into(),
        sender_peer: sender_peer.into(),
        receiver: receiver.into(),
        receiver_peer: receiver_peer.into(),
    })
}

/// A connected pair, the end that sends first.
pub(crate) fn tcp_pair() -> Result<(TcpStream, TcpStream), LoaderError> {
    const LOOPBACK: &str = "is the loopback device up (`ip link set lo up`), and the limit of open files not reached?";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|source| error("bind", source, LOOPBACK))?;
    let address = listener.local_addr().map_err(|source| error("getsockname", source, LOOPBACK))?;
    let sender =
        TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map_err(|source| error("connect", source, LOOPBACK))?;
    let own = sender.local_addr().map_err(|source| error("getsockname", source, LOOPBACK))?;
    // Our connection is established, so it waits in the queue and `accept` cannot block.
    let peer = accept_from(&listener, own)?;
    // Descriptors are small and must not wait for one another.
    sender.set_nodelay(true).map_err(|source| error("setsockopt(TCP_NODELAY)", source, LOOPBACK))?;
    Ok((sender, peer))
}

/// Accepts the connection that comes from `own` and turns away everybody else who found the port meanwhile.
pub(crate) fn accept_from(listener: &TcpListener, own: SocketAddr) -> Result<TcpStream, LoaderError> {
    for _ in 0..STRANGERS_MAX {
        match listener.accept() {
            Ok((stream, from)) if from == own => return Ok(stream),
            Ok(_) => {}
            Err(source) if source.kind() == ErrorKind::ConnectionAborted => {}
            Err(source) => return Err(error("accept", source, "is the limit of open files reached?")),
        }
    }
    Err(error("accept", io::Error::from(ErrorKind::ConnectionRefused), "another process floods local ports"))
}

pub(crate) fn error(call: &'static str, source: io::Error, hint: &'static str) -> LoaderError {
    LoaderError::Sockets { call, source, hint }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_stranger_who_connects_first_is_turned_away() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut stranger = TcpStream::connect(address).unwrap();
        let own = TcpStream::connect(address).unwrap();
        let accepted = accept_from(&listener, own.local_addr().unwrap()).unwrap();
        assert_eq!(accepted.peer_addr().unwrap(), own.local_addr().unwrap());
        stranger.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let closed = stranger.read(&mut [0]);
        assert!(matches!(closed, Ok(0)) || closed.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }

    #[test]
    fn the_ends_of_a_pair_are_connected() {
        let pairs = socket_pairs().unwrap();
        let mut sender = TcpStream::from(pairs.sender);
        let mut peer = TcpStream::from(pairs.sender_peer);
        assert!(sender.nodelay().unwrap());
        sender.write_all(b"tcp").unwrap();
        let mut bytes = [0; 3];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"tcp");
        let (mut receiver, mut other) = (UnixStream::from(pairs.receiver), UnixStream::from(pairs.receiver_peer));
        other.write_all(b"unx").unwrap();
        receiver.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"unx");
    }
}
