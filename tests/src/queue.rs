//! What the kernel holds of a connection, so that a test can wait until its far side has read, or can write no more.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// Bytes at one end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Have come and are not read.
    pub unread: u64,
    /// Are written and not taken by the other end.
    pub unsent: u64,
}

/// What is queued at the end `own` of its connection with `peer`, by `/proc/net/tcp` (proc_net_tcp(5)); `None`: there
/// is no such connection.
///
/// # Errors
/// The kernel's table cannot be read.
pub(crate) fn queued(own: SocketAddr, peer: SocketAddr) -> io::Result<Option<Queued>> {
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let (own, peer) = (written(own)?, written(peer)?);
    Ok(table.lines().find_map(|line| {
        // Number, own address, peer's address, state, unsent:unread.
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, from, to, _, queues, ..] = fields[..] else { return None };
        if (from, to) != (own.as_str(), peer.as_str()) {
            return None;
        }
        let (unsent, unread) = queues.split_once(':')?;
        let bytes = |digits| u64::from_str_radix(digits, 16).ok();
        Some(Queued { unread: bytes(unread)?, unsent: bytes(unsent)? })
    }))
}

/// An address as the kernel writes it: the four bytes as one number of this machine, and the port.
fn written(address: SocketAddr) -> io::Result<String> {
    match address.ip() {
        IpAddr::V4(ip) => Ok(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())),
        IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
