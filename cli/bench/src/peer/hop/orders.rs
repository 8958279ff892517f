//! What the processes of a chain without HTTP are told, and what they answer.

use std::time::Duration;

use ramet_dataplane::TransportKind;
use serde::{Deserialize, Serialize};

use crate::recorder::Latencies;

/// What one process is. The descriptors that it needs for its way come with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// 0 is the driver, 1 the first function.
    pub(crate) number: u32,
    /// How many functions there are.
    pub(crate) functions: u32,
    pub(crate) way: Way,
}

/// How messages travel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    /// ramet's lanes. Descriptors: the ledger, the way in and the way out.
    Lanes { transport: TransportKind, patient: Patient },
    /// ramet's descriptors through SPROXY. Descriptors: the sending and the receiving socket.
    SkMsg,
    /// A lane alone. Descriptors: its memory and bell, in and out.
    BareLane,
    /// Sockets. Descriptors: the receiving and the sending one.
    Stream,
    /// Words, looked at without pause. Descriptor: their memory.
    CacheLine,
    /// Words and futex(2). Descriptor: their memory.
    Futex,
    /// iceoryx2, the services named so.
    Iceoryx { name: String, waiting: Patient },
}

/// What who waits does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Patient {
    /// It looks for a while.
    Looking,
    /// It sleeps.
    Sleeping,
}

/// One round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) in_flight: u32,
    /// How many messages are sent at once at the most.
    pub(crate) batch: usize,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What a process says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// It can take orders.
    Ready,
    /// The measurement begins.
    Measuring,
    /// The round is over; each latency is that of one hop.
    Measured(Latencies),
}

impl Part {
    pub(crate) const fn is_driver(&self) -> bool {
        self.number == 0
    }

    /// How many processes there are, and hops.
    pub(crate) const fn processes(&self) -> u32 {
        self.functions + 1
    }

    /// The number of the process that comes next.
    pub(crate) const fn next_place(&self) -> u32 {
        (self.number + 1) % self.processes()
    }
}
