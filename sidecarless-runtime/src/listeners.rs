//! The gateway's listening sockets. The supervisor binds them, so a new gateway finds the connections that waited.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait at a socket until the gateway accepts them.
const BACKLOG: i32 = 4096;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; is another program, or another node, using it? Set `{setting}`")]
pub struct ListenError {
    address: SocketAddr,
    setting: &'static str,
    source: io::Error,
}

/// Bound sockets.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// One per worker, between which the kernel spreads connections.
    pub(crate) http: Vec<OwnedFd>,
    pub(crate) admin: OwnedFd,
    /// The address of `http`, with the port that the kernel chose where none was asked for.
    pub(crate) http_address: SocketAddr,
    /// The address of `admin`.
    pub(crate) admin_address: SocketAddr,
}

impl Listeners {
    pub(crate) fn bind(http: SocketAddr, workers: u32, admin: SocketAddr) -> Result<Self, ListenError> {
        let failed = |address, setting| move |source| ListenError { address, setting, source };
        let (admin_socket, admin_address) = listen(admin, Sharing::Alone).map_err(failed(admin, "admin"))?;
        // Sockets that share a port would also share it with those of another node, unnoticed.
        let (alone, http_address) = listen(http, Sharing::Alone).map_err(failed(http, "listen"))?;
        drop(alone);
        let sockets = (0..workers).map(|_| Ok(listen(http_address, Sharing::Workers)?.0));
        let sockets: io::Result<Vec<_>> = sockets.collect();
        Ok(Self { http: sockets.map_err(failed(http, "listen"))?, admin: admin_socket, http_address, admin_address })
    }
}

/// Who else may listen on the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Alone,
    Workers,
}

fn listen(address: SocketAddr, sharing: Sharing) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former node that linger in the kernel are no reason not to start.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::Workers {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    // Of the connections, which inherit it: answers are small and must not wait for an acknowledgement.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket.into(), bound))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn workers_share_a_port_that_another_node_cannot_have() {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let listeners = Listeners::bind(any, 3, any).expect("bound");
        assert_eq!(listeners.http.len(), 3);
        assert_ne!(listeners.http_address.port(), 0);
        let error = Listeners::bind(listeners.http_address, 1, any).expect_err("taken");
        assert!(error.to_string().contains("Set `listen`"), "{error}");
    }

    #[test]
    fn connections_inherit_that_small_answers_do_not_wait() {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let listeners = Listeners::bind(any, 1, any).expect("bound");
        let _client = std::net::TcpStream::connect(listeners.http_address).expect("connected");
        let listener = std::net::TcpListener::from(listeners.http[0].try_clone().expect("a descriptor"));
        listener.set_nonblocking(false).expect("set");
        let (connection, _) = listener.accept().expect("accepted");
        assert!(connection.nodelay().expect("told"));
    }
}
