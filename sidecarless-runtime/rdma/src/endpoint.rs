//! What one end of a connection must know of the other.

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// One end of a connection, as it is told to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The number of its queue pair.
    pub number: u32,
    /// The number of its first packet.
    pub first_packet: u32,
    /// Its address: of 16 bytes, an IPv4 one mapped.
    pub gid: [u8; 16],
    /// Its address in an InfiniBand subnet.
    pub lid: u16,
    /// How long its packets may be: 1 is 256 bytes, 5 is 4096.
    pub mtu: u8,
    /// How many reads at a time it answers.
    pub reads_max: u8,
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub(crate) port: u8,
    pub(crate) index: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) lid: u16,
    pub(crate) mtu: u8,
    /// Its packets are not routed (RoCE v1).
    pub(crate) stays_in_segment: bool,
}

impl Address {
    /// The address of the network that it goes with, if it is one.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.gid).to_canonical()
    }

    /// How good it is for who knows nothing of the peer.
    pub(crate) fn rank(&self) -> (bool, bool) {
        (self.stays_in_segment, self.ip().is_ipv6())
    }
}
