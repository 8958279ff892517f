//! Why SPROXY refuses a send; each reason has a counter and the sender can ask for its last one.
//!
//! The send fails with `EPIPE` (see [`crate::map::NOWHERE`]), on a socket without an identity with `EACCES`.

/// A reason for which a send is refused. The discriminants index the refusal counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u32)]
#[non_exhaustive]
pub enum Refusal {
    /// The sending socket belongs to no known instance.
    UnknownSender = 0,
    /// Not a whole number of descriptors, none, more than [`crate::BATCH_MAX`], or an unknown version or kind.
    Malformed = 1,
    /// Policy has no edge from the sender's function to the destination's.
    EdgeDenied = 2,
    /// The sender does not own the slot at that generation.
    NotOwner = 3,
    /// The slot is outside the domain's pool.
    BadSlot = 4,
    /// The destination function has no instance, or the named instance is not one of it.
    NoReplica = 5,
    /// Every replica's queue is full.
    Full = 6,
    /// Too many descriptors that move no slot.
    RateLimited = 7,
    /// The destination's socket is gone.
    Unreachable = 8,
    /// The kind is not the sender's to send.
    KindDenied = 9,
    /// The descriptors of one batch name several destinations.
    MixedBatch = 10,
    /// The slot has moved [`crate::map::HOPS_MAX`] times without passing the gateway.
    TooManyHops = 11,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 12;

    /// Every reason, in the order of the counters.
    pub const ALL: [Refusal; Self::COUNT] = [
        Self::UnknownSender,
        Self::Malformed,
        Self::EdgeDenied,
        Self::NotOwner,
        Self::BadSlot,
        Self::NoReplica,
        Self::Full,
        Self::RateLimited,
        Self::Unreachable,
        Self::KindDenied,
        Self::MixedBatch,
        Self::TooManyHops,
    ];

    /// The reason with this number.
    #[must_use]
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// The label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSender => "unknown_sender",
            Self::Malformed => "malformed",
            Self::EdgeDenied => "edge_denied",
            Self::NotOwner => "not_owner",
            Self::BadSlot => "bad_slot",
            Self::NoReplica => "no_replica",
            Self::Full => "full",
            Self::RateLimited => "rate_limited",
            Self::Unreachable => "unreachable",
            Self::KindDenied => "kind_denied",
            Self::MixedBatch => "mixed_batch",
            Self::TooManyHops => "too_many_hops",
        }
    }
}
