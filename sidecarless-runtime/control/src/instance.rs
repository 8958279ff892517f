//! The conversation of the supervisor and a function instance.
//!
//! ```text
//! instance                          supervisor
//!    │ ── Hello ──────────────────────▶ │  checks versions
//!    │ ◀───── Join (pool, endpoint) ─── │  after every socket, map entry and lane exists
//!    │ ── Applied(1), Ready ──────────▶ │  only now is it a replica that senders choose
//!    │ ◀──── Link, Unlink, Routes ───── │  each answered by Applied
//!    │ ◀─────────── Freeze ──────────── │  an instance of it is to be forked
//!    │ ── Frozen ─────────────────────▶ │  nothing is in service and no thread serves: the supervisor forks it
//!    │ ◀──────────── Thaw ───────────── │  it goes on
//!    │ ◀──────────── Stop ───────────── │  after no sender can choose it any more
//!    │ ── Drained ────────────────────▶ │  nothing is held and nothing waits; the supervisor ends the process
//! ```
//!
//! A copy of a frozen instance begins where that one waits to be thawed, with standard input as its own control
//! socket:
//!
//! ```text
//! copy                              supervisor
//!    │ ◀──── Reborn, Join, Routes ───── │  without being asked: what a frozen instance speaks is known
//!    │ ── Applied, Applied(Join), Ready ▶ │
//! ```

use std::time::Duration;

use ramet_common::{DomainId, FunctionId, InstanceId, Refusal, RouteId};
use ramet_dataplane::transport::patience::BusyPoll;
use ramet_dataplane::{PoolLayout, Route, TransportKind};
use serde::{Deserialize, Serialize};

/// What the supervisor says; always within [`crate::Numbered`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToInstance {
    /// The instance's place. Descriptors: the pool; then for `skmsg` the TCP socket and the unix socket, for the lane
    /// transports the ledger with the loads, and the meter that the instance counts in.
    Join(Box<Join>),
    /// A lane to or from a peer. Descriptors: the lane's end.
    Link(Link),
    /// A peer has left; nothing is to be sent to it.
    Unlink {
        /// The peer.
        peer: InstanceId,
    },
    /// Chain versions that requests may name from now on, and such that none will name any more.
    Routes {
        /// New ones.
        added: Vec<Route>,
        /// Old ones.
        retired: Vec<RouteId>,
    },
    /// The answer to [`FromInstance::WhyRefused`].
    Refusal {
        /// The reason of the last refused send.
        reason: Option<Refusal>,
    },
    /// Finish what is held, then say [`FromInstance::Drained`] and go on listening.
    Stop,
    /// Finish what is in service, let no thread serve, and say [`FromInstance::Frozen`]; after that, wait on standard
    /// input. Descriptor for `skmsg`: the far end of the receiving socket, to end the wait of whoever receives.
    Freeze {
        /// How long what is in service may take; after that the answer is [`FromInstance::Unfrozen`].
        patience: Duration,
    },
    /// Serve again.
    Thaw,
    /// To a copy of a frozen instance, as the first word: it is an instance of its own, and [`ToInstance::Join`]
    /// follows.
    Reborn,
}

/// What an instance says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromInstance {
    /// The first word.
    Hello {
        /// [`ramet_common::ABI`] of the SDK it was built with.
        abi: u8,
        /// Version and name of the SDK.
        sdk: String,
    },
    /// The message of that number has taken effect.
    Applied {
        /// The number.
        sequence: u64,
    },
    /// Requests are welcome.
    Ready,
    /// A send was refused: why?
    WhyRefused,
    /// Nothing is in service and nothing is queued.
    Drained,
    /// Nothing is in service, and nothing will be before [`ToInstance::Thaw`].
    Frozen,
    /// It serves on instead of freezing.
    Unfrozen {
        /// Why.
        why: String,
    },
}

/// Everything an instance is told when it joins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// Who it is.
    pub instance: InstanceId,
    /// Its function.
    pub function: FunctionId,
    /// `namespace/name`.
    pub name: String,
    /// Its security domain.
    pub domain: DomainId,
    /// The domain's pool.
    pub layout: PoolLayout,
    /// How descriptors travel.
    pub transport: TransportKind,
    /// Whether it looks at rings before it sleeps.
    pub busy_poll: BusyPoll,
    /// How many requests it may serve at once.
    pub concurrency: u32,
    /// The functions that it may `call`, by name.
    pub callable: Vec<(String, FunctionId)>,
    /// The chain versions that it takes part in.
    pub routes: Vec<Route>,
}

/// A lane's end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// The instance at the far end.
    pub peer: InstanceId,
    /// Its function.
    pub function: FunctionId,
    /// Which end this is.
    pub direction: Direction,
}

/// What a lane between this instance and a peer is for. The last two come without descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// The receiver of this message may send to the peer, which holds at most `capacity` messages.
    Outgoing {
        /// Messages in service and queued.
        capacity: u32,
    },
    /// The receiver of this message receives from the peer.
    Incoming,
    /// The peer is chosen no more, because it is to end. What it waits for still goes to it, and what it sends is still
    /// received.
    Retiring,
    /// The edge is withdrawn: nothing goes to the peer any more.
    Closed,
}

/// How long an instance has from its start to `Ready` before it counts as failed.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
