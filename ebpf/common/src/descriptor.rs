//! The fixed-size message that travels between instances while the payload stays in its slot.

use crate::{ABI, FunctionId, Generation, InstanceId, RequestId, SlotIndex};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The size of a [`PacketDescriptor`], in bytes.
pub const DESCRIPTOR_BYTES: usize = 32;

/// How many descriptors one send may carry; SPROXY's loop is bounded by it.
pub const BATCH_MAX: usize = 64;

/// What a descriptor asks for. The discriminants are part of the wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Kind {
    /// A message for the next function of a chain; its head slot moves along.
    Request = 1,
    /// The answer to a request or a call; the head slot moves back.
    Reply = 2,
    /// A message to another function whose answer this instance waits for; the head slot moves along.
    Call = 3,
    /// As `Reply`, but the function failed: `aux` is a [`Failure`] code. The head slot moves back.
    Failed = 4,
    /// To the gateway: the next step is one that the gateway supervises (`step`). The head slot moves.
    Forward = 5,
    /// Gives back to the gateway what was never work: a granted head or a call's answer, which move, or a lent slot,
    /// which is merely named.
    Return = 6,
    /// From the gateway: a fresh head slot for a call. It moves.
    Grant = 7,
    /// From the gateway: a slot to write body bytes into, tied to the head slot of `request`. Nothing moves.
    Lend = 8,
    /// To the gateway: slots are wanted for the request of the head slot named here; `aux` is [`want_aux`]. Nothing
    /// moves.
    Want = 9,
    /// To the gateway: `aux` bytes of a streamed body are ready in a lent slot, from its start. With `aux` zero no slot
    /// is named. Nothing moves.
    Chunk = 10,
    /// From the gateway: nobody waits for this request any more. Nothing moves.
    Cancel = 11,
    /// From the gateway: `Want` cannot be met, or a call's answer will never come; `aux` is a [`Failure`] code.
    Sorry = 12,
}

impl Kind {
    /// The kind that a peer's byte names, or `None` for garbage.
    #[must_use]
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Call,
            4 => Self::Failed,
            5 => Self::Forward,
            6 => Self::Return,
            7 => Self::Grant,
            8 => Self::Lend,
            9 => Self::Want,
            10 => Self::Chunk,
            11 => Self::Cancel,
            12 => Self::Sorry,
            _ => return None,
        })
    }

    /// Whether a descriptor of this kind hands its slot over to the destination.
    ///
    /// `Return` of a lent slot carries [`FLAG_LENT`] and moves nothing.
    #[must_use]
    pub const fn moves_slot(self) -> bool {
        matches!(
            self,
            Self::Request | Self::Reply | Self::Call | Self::Failed | Self::Forward | Self::Return | Self::Grant
        )
    }

    /// Whether it gives the destination work, which counts among what that holds until it is done with.
    #[must_use]
    pub const fn gives_work(self) -> bool {
        matches!(self, Self::Request | Self::Call)
    }

    /// Whether it ends the sender's work on what it was given, unless [`FLAG_MORE`] says that the work goes on.
    #[must_use]
    pub const fn ends_work(self) -> bool {
        matches!(self, Self::Request | Self::Reply | Self::Failed | Self::Forward | Self::Chunk)
    }

    /// Whether only the gateway may send this kind.
    #[must_use]
    pub const fn gateway_only(self) -> bool {
        matches!(self, Self::Grant | Self::Lend | Self::Cancel | Self::Sorry)
    }

    /// Whether only the gateway may receive this kind.
    #[must_use]
    pub const fn to_gateway_only(self) -> bool {
        matches!(self, Self::Forward | Self::Return | Self::Want | Self::Chunk)
    }
}

/// Why a request or call failed, as carried in `aux` of [`Kind::Failed`] and [`Kind::Sorry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Failure {
    /// The function returned an error.
    FunctionError = 1,
    /// The function panicked.
    Panicked = 2,
    /// The message could not be understood.
    BadMessage = 3,
    /// The next function could not be reached.
    Unreachable = 4,
    /// The instance that held the message died.
    Died = 5,
    /// The pool or the request's quota is used up.
    Exhausted = 6,
    /// The deadline has passed.
    DeadlineExceeded = 7,
    /// Every replica's queue is full.
    Full = 8,
}

impl Failure {
    /// The failure that a peer's number names; garbage counts as [`Failure::BadMessage`].
    #[must_use]
    pub const fn from_u32(code: u32) -> Self {
        match code {
            1 => Self::FunctionError,
            2 => Self::Panicked,
            4 => Self::Unreachable,
            5 => Self::Died,
            6 => Self::Exhausted,
            7 => Self::DeadlineExceeded,
            8 => Self::Full,
            _ => Self::BadMessage,
        }
    }
}

/// The class in a [`Kind::Want`] that asks for one head slot, answered by one [`Kind::Grant`]; the low half of `aux` is
/// then the size class of that slot.
pub const WANT_HEAD: u16 = 0xffff;

/// The class in a [`Kind::Want`] that asks for the next piece of a request's body that is still coming. One
/// [`Kind::Lend`] with [`FLAG_PIECE`] answers it: as soon as there are some bytes or, with [`PIECE_FULL`] in the low
/// half of `aux`, when its slot is full or the body over.
pub const WANT_PIECE: u16 = 0xfffe;
/// With [`WANT_PIECE`]: whoever asks will keep it, so it should be worth its slot.
pub const PIECE_FULL: u16 = 1;

/// The `aux` of a [`Kind::Want`]: the size class in the high half, how many slots in the low.
#[must_use]
pub const fn want_aux(class: u16, count: u16) -> u32 {
    (class as u32) << 16 | count as u32
}

/// The size class (or [`WANT_HEAD`], [`WANT_PIECE`]) and the number of slots (or the head's size class) that `aux` asks
/// for.
#[must_use]
pub const fn want_parts(aux: u32) -> (u16, u16) {
    ((aux >> 16) as u16, aux as u16)
}

/// Set in [`PacketDescriptor::flags`] of a `Return` whose slot was lent, not owned.
pub const FLAG_LENT: u8 = 1;
/// Set in a `Reply` whose body goes on in `Chunk`s, and cleared in the last `Chunk`.
pub const FLAG_MORE: u8 = 2;
/// Set in the last `Chunk` of a body that its function could not finish: the client must see that it breaks off. In the
/// last `Lend` with [`FLAG_PIECE`] the same of a request's body, for the function.
pub const FLAG_BROKEN: u8 = 4;
/// Set in a `Lend` that answers [`WANT_PIECE`]: the slot has `aux` bytes of the request's body, from its start, and
/// [`FLAG_MORE`] says that others follow. With `aux` zero no slot is named, and the body is over.
pub const FLAG_PIECE: u8 = 8;

/// 32 bytes that name a slot and say what to do with it. A request, never proof: whoever receives one checks it.
///
/// `peer` means the destination in a send ([`InstanceId::NONE`]: any replica, chosen by the transport) and the
/// sender in a receipt, where the transport has written it and the sender could not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PacketDescriptor {
    /// [`ABI`].
    pub version: u8,
    /// A [`Kind`].
    pub kind: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// Zero.
    pub reserved: u8,
    /// The destination function.
    pub function: FunctionId,
    /// The destination instance in a send, the sender in a receipt.
    pub peer: InstanceId,
    /// The slot that this is about.
    pub slot: SlotIndex,
    /// The slot's generation.
    pub generation: Generation,
    /// What `kind` says. In a lane, of a `Request` or `Call`: when it was sent; the receiving transport clears it.
    pub aux: u32,
    /// The request or call, as its waiter counts.
    pub request: RequestId,
}

const _: () = assert!(size_of::<PacketDescriptor>() == DESCRIPTOR_BYTES);

impl PacketDescriptor {
    /// A descriptor of `kind` about one slot, addressed to any replica of `function`.
    #[must_use]
    pub const fn new(
        kind: Kind,
        function: FunctionId,
        slot: SlotIndex,
        generation: Generation,
        request: RequestId,
    ) -> Self {
        Self {
            version: ABI,
            kind: kind as u8,
            flags: 0,
            reserved: 0,
            function,
            peer: InstanceId::NONE,
            slot,
            generation,
            aux: 0,
            request,
        }
    }

    /// The same, addressed to one instance.
    #[must_use]
    pub const fn to_instance(mut self, peer: InstanceId) -> Self {
        self.peer = peer;
        self
    }

    /// The same with `aux` set.
    #[must_use]
    pub const fn with_aux(mut self, aux: u32) -> Self {
        self.aux = aux;
        self
    }

    /// The same with `flags` set.
    #[must_use]
    pub const fn with_flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// The kind, or `None` where version or kind are not ours.
    #[must_use]
    pub const fn kind(&self) -> Option<Kind> {
        if self.version != ABI {
            return None;
        }
        Kind::from_u8(self.kind)
    }

    /// Whether this gives the destination work.
    #[must_use]
    pub const fn gives_work(&self) -> bool {
        matches!(Kind::from_u8(self.kind), Some(kind) if kind.gives_work())
    }

    /// Whether this ends the sender's work on what it was given.
    #[must_use]
    pub const fn ends_work(&self) -> bool {
        matches!(Kind::from_u8(self.kind), Some(kind) if kind.ends_work()) && self.flags & FLAG_MORE == 0
    }

    /// Whether sending this hands the slot over. Only a `Return` can speak of a slot that was lent.
    #[must_use]
    pub const fn moves_slot(&self) -> bool {
        match Kind::from_u8(self.kind) {
            Some(Kind::Return) => self.flags & FLAG_LENT == 0,
            Some(kind) => kind.moves_slot(),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_reads_back_what_it_asked_for() {
        for (class, count) in [(0, 1), (4, 16), (WANT_HEAD, 2), (3, u16::MAX)] {
            assert_eq!(want_parts(want_aux(class, count)), (class, count));
        }
    }
}
