//! Keys and values of SPROXY's maps, and their names in the object file.

use crate::{DomainId, FunctionId, InstanceId};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// How many instances, gateway workers included, a node can hold: the size of the instance tables.
pub const INSTANCES_MAX: u32 = 4096;
/// How many functions a node can hold.
pub const FUNCTIONS_MAX: u32 = 4096;
/// How many replicas one function can have.
pub const REPLICAS_MAX: usize = 64;
/// How many security domains a node can hold.
pub const DOMAINS_MAX: u32 = 256;
/// How many (function → function) edges policy can hold.
pub const EDGES_MAX: u32 = 65_536;
/// How many slots all pools can have together, unless the loader sets another number.
pub const SLOTS_MAX_DEFAULT: u32 = 1 << 20;

/// How often a slot may move between functions before the gateway has it again: as often as the longest chain has
/// steps. It bounds what two functions that pass a slot to and fro without reading their sockets can queue in the
/// kernel.
pub const HOPS_MAX: u32 = 256;

/// The sender's identity, in socket-local storage of its TCP socket.
pub const IDENTITIES: &str = "IDENTITIES";
/// The sockmap whose sockets carry the program, by instance index.
pub const SENDERS: &str = "SENDERS";
/// The sockmap of unix stream sockets that messages are redirected to, by instance index.
pub const RECEIVERS: &str = "RECEIVERS";
/// A sockmap with one TCP socket that is shut down for sending. A refused message is redirected there, which fails with
/// `EPIPE` at the sender. Dropping it instead would fail with `EACCES`, but the kernel remembers that verdict and fails
/// every later send on the socket without asking the program again.
pub const NOWHERE: &str = "NOWHERE";
/// [`FunctionId`] → [`Replicas`].
pub const FUNCTIONS: &str = "FUNCTIONS";
/// Instance index → [`InstanceState`]; the gateway maps it.
pub const INSTANCES: &str = "INSTANCES";
/// [`DomainId`] → [`DomainSlots`].
pub const DOMAINS: &str = "DOMAINS";
/// [`Edge`] → [`EdgeCount`], per CPU.
pub const EDGES: &str = "EDGES";
/// Slot → [`crate::LedgerWord`]; supervisor and gateway map it.
pub const LEDGER: &str = "LEDGER";
/// Slot → `u32`, as the ledger: its moves between functions since the gateway last sent it.
pub const HOPS: &str = "HOPS";
/// [`FunctionId`] → [`FunctionFlow`], per CPU.
pub const FUNCTION_FLOWS: &str = "FUNCTION_FLOWS";
/// [`crate::Refusal`] → `u64`, per CPU.
pub const REFUSALS: &str = "REFUSALS";
/// The `sk_msg` program.
pub const SPROXY: &str = "sproxy";

/// Whose socket this is. Only the supervisor writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Identity {
    /// The instance that sends on this socket.
    pub instance: InstanceId,
    /// Its function; [`FunctionId::GATEWAY`] for a gateway worker.
    pub function: FunctionId,
    /// Its domain; meaningless for the gateway, which serves all.
    pub domain: DomainId,
    /// Descriptors without a slot that it may still send in this window; SPROXY's token bucket.
    pub tokens: u32,
    /// When the window began, in nanoseconds of the monotonic clock.
    pub window_start_ns: u64,
}

/// How many descriptors that move no slot an instance may send per [`POLICE_WINDOW_NS`].
pub const POLICE_TOKENS: u32 = 8192;
/// The window of the rate police: 100 ms.
pub const POLICE_WINDOW_NS: u64 = 100_000_000;

/// The instances of one function that take requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Replicas {
    /// How many of `instances` are filled.
    pub count: u32,
    /// The function's domain.
    pub domain: DomainId,
    /// The instances, the first `count` of them valid.
    pub instances: [InstanceId; REPLICAS_MAX],
}

/// What SPROXY keeps of one instance. A cache line, so that two CPUs counting two instances do not meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct InstanceState {
    /// The instance that lives at this index; [`InstanceId::NONE`] when nobody does.
    pub instance: InstanceId,
    /// Its function.
    pub function: FunctionId,
    /// Its domain.
    pub domain: DomainId,
    /// How many messages it may hold at once (in service and queued).
    pub capacity: u32,
    /// How many messages it holds: slots of kind `Request` or `Call` that moved in and have not moved out.
    pub load: u32,
    /// The [`crate::Refusal`] of its last refused send.
    pub last_refusal: u32,
    /// How many of its sends were refused.
    pub refused: u64,
    /// How many descriptors it has sent.
    pub sent: u64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// Where a domain's slots are in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainSlots {
    /// The ledger index of the domain's slot 0; a multiple of 512, so that it starts a page.
    pub base: u32,
    /// How many slots the domain's pool has.
    pub count: u32,
}

/// A permitted hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Edge {
    /// The sender's function.
    pub from: FunctionId,
    /// The destination's function.
    pub to: FunctionId,
}

/// What went over an edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EdgeCount {
    /// Descriptors.
    pub descriptors: u64,
    /// Sends.
    pub batches: u64,
}

/// What came to the instances of a function and what they have passed on, and the sums of when. The difference of the
/// two sums, with now for each message that is still there, is the time that all messages together spent at the
/// function, so that nothing has to be kept per message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionFlow {
    /// Messages that came.
    pub arrived: u64,
    /// Messages that were answered, passed on or given up.
    pub left: u64,
    /// When they came, in nanoseconds of the monotonic clock, all added up; wraps around.
    pub arrived_ns: u64,
    /// When they left.
    pub left_ns: u64,
}

impl FunctionFlow {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            arrived: self.arrived.wrapping_add(other.arrived),
            left: self.left.wrapping_add(other.left),
            arrived_ns: self.arrived_ns.wrapping_add(other.arrived_ns),
            left_ns: self.left_ns.wrapping_add(other.left_ns),
        }
    }

    /// How many messages are there.
    #[must_use]
    pub const fn held(&self) -> u64 {
        let held = self.arrived.wrapping_sub(self.left);
        // What leaves is counted on another CPU than what comes, and may be seen before it.
        if held as i64 > 0 { held } else { 0 }
    }

    /// The time that all messages have spent there until `now_ns`, waiting and in service.
    #[must_use]
    pub const fn spent_ns(&self, now_ns: u64) -> u64 {
        let there = self.arrived.wrapping_sub(self.left).wrapping_mul(now_ns);
        let spent = self.left_ns.wrapping_add(there).wrapping_sub(self.arrived_ns);
        if spent as i64 > 0 { spent } else { 0 }
    }
}

const _: () = assert!(size_of::<Identity>() == 24);
const _: () = assert!(size_of::<FunctionFlow>() == 32);
const _: () = assert!(size_of::<Replicas>() == 8 + 4 * REPLICAS_MAX);
const _: () = assert!(size_of::<InstanceState>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_messages_spent_follows_from_two_sums() {
        // Two came at 100 and 150, one left at 400; now is 1000.
        let flow = FunctionFlow { arrived: 2, left: 1, arrived_ns: 250, left_ns: 400 };
        assert_eq!((flow.held(), flow.spent_ns(1000)), (1, 400 + 1000 - 250));
        let gone = FunctionFlow { arrived: 0, left: 1, arrived_ns: 0, left_ns: 600 };
        assert_eq!((flow.plus(gone).held(), flow.plus(gone).spent_ns(1000)), (0, 750));
        let torn = FunctionFlow { arrived: 0, left: 1, arrived_ns: 0, left_ns: 100 };
        assert_eq!((torn.held(), torn.spent_ns(1000)), (0, 0), "seen before what it belongs to");
    }
}
