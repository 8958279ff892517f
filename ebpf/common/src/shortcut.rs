//! Keys and values of the short-cut's maps: connections between the gateway and functions that serve HTTP by
//! themselves.

use crate::{FunctionId, InstanceId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many connections can be short-cut at once; further ones are plain TCP.
pub const SHORTCUT_ENDS_MAX: u32 = 1 << 17;

/// How many bytes a connection may pass over by the short-cut in each direction; what follows is plain TCP. The kernel
/// lets a receiver that does not read pile up what was redirected to it without a limit, so this is the limit. It is as
/// much as TCP itself would buffer.
pub const SHORTCUT_BYTES_MAX: u64 = 4 << 20;

/// Whose connection a socket of the gateway's will be, in its socket-local storage. Only the supervisor writes it.
pub const GATEWAY_ENDS: &str = "GATEWAY_ENDS";
/// Connections whose function's end is not established yet: that [`End`] → its [`Link`].
pub const EXPECTED: &str = "EXPECTED";
/// The sockhash of both ends of every short-cut connection, by [`Link`].
pub const ENDS: &str = "ENDS";
/// What has been decided for a socket, in its socket-local storage: a [`Flow`].
pub const FLOWS: &str = "FLOWS";
/// [`FunctionId`] → [`ShortcutCount`], per CPU.
pub const SHORTCUT_COUNTS: &str = "SHORTCUT_COUNTS";
/// The `sock_ops` program that finds the ends.
pub const ESTABLISHED: &str = "established";
/// The `sk_msg` program that redirects.
pub const SHORTCUT: &str = "shortcut";

/// A function's instance at the far end of a socket of the gateway's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GatewayEnd {
    /// The function.
    pub function: FunctionId,
    /// The instance.
    pub instance: InstanceId,
}

/// One end of a TCP connection, as the kernel knows it. Every instance has a network namespace of its own, so that
/// addresses and ports alone name nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct End {
    /// The network namespace's cookie.
    pub network: u64,
    /// This end's address, in network order.
    pub local_address: u32,
    /// The other end's.
    pub remote_address: u32,
    /// This end's port, in host order.
    pub local_port: u32,
    /// The other end's.
    pub remote_port: u32,
}

impl End {
    /// The other end of the same connection.
    #[must_use]
    pub const fn other(&self) -> Self {
        Self {
            network: self.network,
            local_address: self.remote_address,
            remote_address: self.local_address,
            local_port: self.remote_port,
            remote_port: self.local_port,
        }
    }
}

/// An end of a short-cut connection. The gateway's sockets are connected again and again, so a socket alone does not
/// name a connection, and neither does an address: it may be another socket's by then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Link {
    /// The cookie of the gateway's socket.
    pub socket: u64,
    /// Counts that socket's connections.
    pub connection: u32,
    /// [`SIDE_GATEWAY`] or [`SIDE_FUNCTION`].
    pub side: u32,
    /// Who is at the other side than the gateway.
    pub far: GatewayEnd,
}

/// In [`Link::side`]: the gateway's end.
pub const SIDE_GATEWAY: u32 = 0;
/// In [`Link::side`]: the function's end.
pub const SIDE_FUNCTION: u32 = 1;

impl Link {
    /// The other end of the same connection.
    #[must_use]
    pub const fn other(self) -> Self {
        Self { side: SIDE_FUNCTION - self.side, ..self }
    }
}

/// How a socket's bytes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Flow {
    /// Which end this is.
    pub link: Link,
    /// How many bytes were redirected.
    pub redirected: u64,
    /// One of `WAY_*`.
    pub way: u32,
    /// Zero.
    pub reserved: u32,
}

/// In [`Flow::way`]: nothing was sent yet.
pub const WAY_OPEN: u32 = 0;
/// In [`Flow::way`]: straight to the other end.
pub const WAY_SHORT: u32 = 1;
/// In [`Flow::way`]: by TCP, now and ever after. Bytes that were redirected are read before those that came by TCP, so
/// there is a way from short to TCP, and none back.
pub const WAY_TCP: u32 = 2;

/// What went between the gateway and a function that serves HTTP by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShortcutCount {
    /// Sends that were redirected.
    pub redirected: u64,
    /// Their bytes.
    pub redirected_bytes: u64,
    /// Sends that went by TCP.
    pub passed: u64,
    /// Their bytes.
    pub passed_bytes: u64,
}

const _: () = assert!(size_of::<End>() == 24);
const _: () = assert!(size_of::<Link>() == 24);
const _: () = assert!(size_of::<Flow>() == 40);
