//! What the process that makes forks is told, and what it answers: lines of JSON. It may be of another build.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::data::Walk;

/// Of this language. Builds are only compared if they speak the same.
pub(super) const VERSION: u32 = 1;

/// How children come by pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// From a seed of the same process.
    Local,
    /// From a page server over loopback.
    Tcp,
}

/// What is to be done. A seed is named by the number that it was given.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Prepare this process and forget the seed at once.
    Pause { way: Way, pid: i32 },
    /// Prepare it.
    Prepare { way: Way, pid: i32 },
    /// Forget a seed.
    Revoke { seed: u64 },
    /// The first child ever. Its host keeps what further ones need.
    First { seed: u64, stretch: Range<u64> },
    /// A further child for each stretch, one after the other; the last one also adds up the whole.
    Further { seed: u64, stretches: Vec<Range<u64>>, whole: Range<u64> },
    /// One more, which answers and then goes these ways; the last one is timed.
    Fault { seed: u64, stretch: Range<u64>, walks: [Walk; 2] },
    /// As further ones, but each on a host that knows nothing of the seed.
    Cold { seed: u64, stretches: Vec<Range<u64>>, whole: Range<u64> },
    /// A further child for each stretch, all at the same time.
    Crowd { seed: u64, stretches: Vec<Range<u64>> },
}

/// What became of it. Every time is taken where it passes: none has the way of an order in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// Orders are obeyed from now on.
    Ready {
        version: u32,
    },
    /// There is a seed, or there was.
    Prepared(Prepared),
    Revoked,
    First {
        child: Timed,
        learned_bytes: usize,
    },
    Children(Vec<Timed>),
    /// How long each fault took.
    Fault(Duration),
    /// How long until all had answered, and the memory of all together.
    Crowd {
        took: Duration,
        kib: u64,
    },
    Failed(String),
}

/// What a prepare was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Prepared {
    /// The number of the seed.
    pub(super) seed: u64,
    /// For how long the process stood still.
    pub(super) pause: Duration,
    /// How long it took in all.
    pub(super) prepare: Duration,
    pub(super) descriptor_bytes: usize,
}

/// How long it took until a child had answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Timed {
    pub(super) total: Duration,
    /// Its steps, as the build that took them calls them.
    pub(super) steps: Vec<(String, Duration)>,
}
