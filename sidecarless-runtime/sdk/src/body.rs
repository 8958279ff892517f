//! The bytes of a request or response, wherever they are: read in place, passed on without a copy.

mod reader;
mod slice;

pub use reader::BodyReader;
pub use slice::{BodySlice, Chunks};

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use ramet_dataplane::{Slot, SlotRef};

use crate::call::Granted;
use crate::service::Reading;
use crate::writer::BodyWriter;

/// A body. What came with a request or reply stays in its slots until the `Body` is dropped or sent on.
///
/// It is not `Send`: the slots go back when the handler is done, so a body must not outlive it. Slices of it may be
/// given to scoped threads.
pub struct Body(pub(crate) Content);

/// Where the bytes are.
pub(crate) enum Content {
    /// In private memory.
    Owned(Cow<'static, [u8]>),
    /// In slots of a message that this function holds.
    Held(Held),
    /// In slots that this function has written.
    Written(BodyWriter),
}

/// Bytes of a request or reply, where they came.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) keeper: Keeper,
}

/// Bytes in one slot.
#[derive(Clone)]
pub(crate) struct Piece {
    pub(crate) slot: Slot,
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
    pub(crate) home: Home,
}

/// What kind of slot a piece is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// The head slot of its message.
    Head,
    /// A slot of its own, which a table of parts can name.
    Part(SlotRef),
}

/// What must live as long as the slots are read.
#[derive(Clone)]
pub(crate) enum Keeper {
    Request(Reading),
    #[expect(dead_code, reason = "held for its drop, which gives the reply's slot back")]
    Reply(Rc<Granted>),
}

impl Piece {
    pub(crate) fn bytes(&self) -> &[u8] {
        // The range was checked when the message was read.
        self.slot.slice(self.offset, self.bytes).unwrap_or_default()
    }
}

impl Body {
    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Content::Owned(Cow::Borrowed(&[])))
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.0 {
            Content::Owned(bytes) => bytes.len() as u64,
            Content::Held(held) => held.pieces.iter().map(|piece| piece.bytes as u64).sum(),
            Content::Written(writer) => writer.len() as u64,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes in place, if they are in one slot: bodies of up to 1 MiB are, unless a function wrote them in pieces.
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&[u8]> {
        self.slice().as_contiguous()
    }

    /// All bytes: in place if they are in one slot, else copied together.
    #[must_use]
    pub fn to_contiguous(&self) -> Cow<'_, [u8]> {
        self.slice().to_contiguous()
    }

    /// The bytes in place, slot by slot.
    #[must_use]
    pub fn chunks(&self) -> Chunks<'_> {
        self.slice().chunks()
    }

    /// The bytes as a stream that can be read, sought in and read by lines.
    #[must_use]
    pub fn reader(&self) -> BodyReader<'_> {
        self.slice().reader()
    }

    /// All of it, as a slice that can be cut.
    #[must_use]
    pub fn slice(&self) -> BodySlice<'_> {
        BodySlice::all(self)
    }

    pub(crate) fn piece(&self, index: usize) -> Option<&[u8]> {
        match &self.0 {
            Content::Owned(bytes) => (index == 0 && !bytes.is_empty()).then_some(bytes),
            Content::Held(held) => held.pieces.get(index).map(Piece::bytes),
            Content::Written(writer) => writer.piece(index),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    /// The length and the place, not the bytes: they may be large, and secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.0 {
            Content::Owned(_) => "private memory",
            Content::Held(_) => "the message's slots",
            Content::Written(_) => "written slots",
        };
        f.debug_struct("Body").field("bytes", &self.len()).field("place", &place).finish()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Content::Owned(Cow::Owned(bytes)))
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<&'static [u8]> for Body {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Content::Owned(Cow::Borrowed(bytes)))
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        text.as_bytes().into()
    }
}

impl From<BodyWriter> for Body {
    fn from(writer: BodyWriter) -> Self {
        Self(Content::Written(writer))
    }
}
