//! What can be asked of `ramet bench hop`.

use clap::{Args, ValueEnum};

use super::{RoundOptions, functions};
use crate::setting::{Placement, Role};

/// Measure one-way hops from process to process, without HTTP: ramet's transports with all their checks, beside others
/// and beside what the machine can do at best, in alternating rounds of one run.
///
/// A message of 32 bytes goes from a driver through the functions, each a process, and back. A latency is that of the
/// whole way divided by its hops, of which there is one more than functions.
#[derive(Clone, Debug, Args)]
pub struct HopOptions {
    /// What is measured
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_values_t = HopSystem::OURS)]
    pub systems: Vec<HopSystem>,
    /// What it is compared with, in the same run
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', default_values_t = HopSystem::FLOORS)]
    pub against: Vec<HopSystem>,
    /// On which cores the processes run
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_values_t = [Placement::SameCore, Placement::TwoCores, Placement::Free])]
    pub placement: Vec<Placement>,
    /// How many functions each message passes
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = functions)]
    pub functions: Vec<u32>,
    /// How many messages are under way
    #[arg(long = "in-flight", value_name = "N,…", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = in_flight)]
    pub in_flight: Vec<usize>,
    /// How many messages are sent at once at the most
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "64", value_parser = batch)]
    pub batch: Vec<usize>,
    /// How long and how often
    #[command(flatten)]
    pub rounds: RoundOptions,
}

/// A way from one process to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum HopSystem {
    /// ramet's shared-memory lanes; who waits looks for a while before it sleeps
    RametRing,
    /// The same, but who waits sleeps at once
    RametRingSleeping,
    /// ramet's descriptors redirected by the kernel, with all of SPROXY's checks
    RametSkmsg,
    /// ramet's descriptors over unix sockets
    RametSocket,
    /// A lane alone, with no routing and no checks; who waits looks for a while
    BareRing,
    /// A redirect from TCP to a unix socket in the kernel, with no checks
    BareSkmsg,
    /// A plain unix stream socket
    Unix,
    /// A plain TCP connection over loopback
    Tcp,
    /// iceoryx2's publish-subscribe, polling
    Iceoryx2,
    /// iceoryx2's publish-subscribe, with an event to wait for
    Iceoryx2Event,
    /// Two cores write a cache line in turns: no message can be faster
    CacheLine,
    /// futex(2): no sleeper can be woken faster
    Futex,
}

impl HopSystem {
    /// ramet's own.
    pub const OURS: [Self; 4] = [Self::RametRing, Self::RametRingSleeping, Self::RametSkmsg, Self::RametSocket];
    /// What the machine and the kernel can do at best.
    pub const FLOORS: [Self; 5] = [Self::BareRing, Self::BareSkmsg, Self::Unix, Self::CacheLine, Self::Futex];

    /// The name in options and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RametRing => "ramet-ring",
            Self::RametRingSleeping => "ramet-ring-sleeping",
            Self::RametSkmsg => "ramet-skmsg",
            Self::RametSocket => "ramet-socket",
            Self::BareRing => "bare-ring",
            Self::BareSkmsg => "bare-skmsg",
            Self::Unix => "unix",
            Self::Tcp => "tcp",
            Self::Iceoryx2 => "iceoryx2",
            Self::Iceoryx2Event => "iceoryx2-event",
            Self::CacheLine => "cache-line",
            Self::Futex => "futex",
        }
    }

    /// What carries the message.
    #[must_use]
    pub const fn transport(self) -> &'static str {
        match self {
            Self::RametRing | Self::RametRingSleeping | Self::BareRing => "ring",
            Self::RametSkmsg | Self::BareSkmsg => "skmsg",
            Self::RametSocket => "socket",
            Self::Unix => "unix",
            Self::Tcp => "tcp",
            Self::Iceoryx2 | Self::Iceoryx2Event => "iceoryx2",
            Self::CacheLine | Self::Futex => "memory",
        }
    }

    /// Whether many messages can be under way: a single word has room for one.
    pub(crate) const fn is_queue(self) -> bool {
        !matches!(self, Self::CacheLine | Self::Futex)
    }

    /// Whether who waits never leaves its core to anybody, so that there must be a core for each.
    pub(crate) const fn spins(self) -> bool {
        matches!(self, Self::CacheLine)
    }

    pub(crate) const fn role(self) -> Role {
        match self {
            Self::RametRing | Self::RametRingSleeping | Self::RametSkmsg | Self::RametSocket => Role::Ours,
            _ => Role::Peer,
        }
    }
}

impl std::fmt::Display for HopSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// As many as a lane has room for.
const IN_FLIGHT_MAX: usize = 250;

fn in_flight(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(in_flight) if (1..=IN_FLIGHT_MAX).contains(&in_flight) => Ok(in_flight),
        _ => Err(format!("expected 1 to {IN_FLIGHT_MAX}")),
    }
}

fn batch(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(batch) if (1..=ramet_common::BATCH_MAX).contains(&batch) => Ok(batch),
        _ => Err(format!("expected 1 to {}", ramet_common::BATCH_MAX)),
    }
}
