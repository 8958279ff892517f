//! The fixed 128 bytes at the start of a head slot.

use ramet_common::{FunctionId, Generation, InstanceId, RequestId, RouteId, SlotIndex};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The size of an [`Envelope`].
pub const ENVELOPE_BYTES: usize = 128;

/// In [`Envelope::flags`]: the body's slots are also somebody else's to read, so nobody may write into them.
pub const FLAG_SHARED: u8 = 1;
/// In [`Envelope::flags`]: the gateway supervises this step, so its outcome goes to the gateway, not to the next step.
pub const FLAG_SUPERVISED: u8 = 2;
/// In [`Envelope::flags`]: the body is not here but comes in pieces, which the function asks the gateway for.
pub const FLAG_STREAMED: u8 = 4;

/// What every function of a chain needs to know of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Envelope {
    /// [`ramet_common::ABI`]; filled in by [`super::write`].
    pub abi: u16,
    /// The HTTP status of an answer; zero in a request.
    pub status: u16,
    /// `FLAG_*`.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The head slot's generation.
    pub generation: Generation,
    /// The chain's route table; zero in a call.
    pub route: RouteId,
    /// The request, or the call, as its waiter counts.
    pub request: RequestId,
    /// When nobody waits any more, in nanoseconds of the monotonic clock.
    pub deadline_ns: u64,
    /// The body's length.
    pub body_bytes: u64,
    /// The function to answer: the gateway, or a caller.
    pub reply_function: FunctionId,
    /// The instance to answer.
    pub reply_instance: InstanceId,
    /// The gateway worker whose request this serves, also deep inside calls: who lends slots.
    pub gateway: InstanceId,
    /// The step of the route that the message is for.
    pub step: u16,
    /// The next step that the function chose, in a `Forward`.
    pub next_step: u16,
    /// Length of the head block; filled in by [`super::write`].
    pub block_bytes: u32,
    /// Where the inline body or the table of parts is; filled in by [`super::write`].
    pub tail_offset: u32,
    /// Its length; filled in by [`super::write`].
    pub tail_bytes: u32,
    /// How many parts; zero for an inline body; filled in by [`super::write`].
    pub part_count: u32,
    /// W3C trace context: the trace.
    pub trace_id: [u8; 16],
    /// W3C trace context: the span of whoever sent this.
    pub span_id: [u8; 8],
    /// W3C trace context: flags.
    pub trace_flags: u8,
    /// Zero.
    pub reserved_end: [u8; 31],
}

const _: () = assert!(size_of::<Envelope>() == ENVELOPE_BYTES);

/// A piece of a body in another slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Part {
    /// The slot.
    pub slot: SlotIndex,
    /// Its generation.
    pub generation: Generation,
    /// Where in the slot the piece starts.
    pub offset: u32,
    /// The piece's length.
    pub bytes: u32,
}

const _: () = assert!(size_of::<Part>() == 16);
