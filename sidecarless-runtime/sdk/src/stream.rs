//! A body that goes out while it is still being written.

use std::fmt;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use ramet_common::descriptor::{FLAG_BROKEN, FLAG_MORE};
use ramet_common::{FunctionId, Kind, PacketDescriptor};
use ramet_dataplane::clock;
use ramet_dataplane::pool::PoolLayout;

use crate::body::Body;
use crate::delivery::{Undelivered, after};
use crate::error::Result;
use crate::lending::{BodyError, Lent, borrow_class, class_and_count};
use crate::service::Service;
use crate::wait::{Pause, block_on};
use crate::writer::BodyWriter;

/// How much is gathered before it goes out by itself.
const CHUNK_BYTES: usize = 16 << 10;

/// How many slots are asked for at once, at most. The gateway lends as the client reads.
const AHEAD_MAX: u16 = 4;

/// How long the client may take to read enough for another chunk.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(60);

/// The pause after the pool was used up in the middle of a stream: the client's reading frees slots.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(5);

/// What writes a streamed body, on its own thread.
type BlockingSource = Box<dyn FnOnce(&mut StreamWriter) -> Result<()>>;

/// What writes a streamed body.
pub(crate) enum Source {
    Blocking(BlockingSource),
    #[cfg(feature = "async")]
    Async(crate::asynchronous::AsyncSource),
}

/// Writes a streamed body, as an [`io::Write`].
///
/// Bytes go out when 16 KiB have gathered and at each `flush`.
pub struct StreamWriter {
    service: Rc<Service>,
    mode: Mode,
    current: Option<(Lent, usize)>,
    /// Slots that are lent and empty.
    spare: Vec<Lent>,
    ahead: u16,
}

enum Mode {
    /// The answer's head has gone to the gateway; so does each chunk.
    Live,
    /// The body is gathered, to be sent as a whole.
    Gather { full: Vec<Lent>, bytes: usize },
}

impl StreamWriter {
    /// The head has left with the promise of more.
    pub(crate) fn live(service: &Rc<Service>) -> Self {
        Self::new(service, Mode::Live)
    }

    pub(crate) fn gathering(service: &Rc<Service>) -> Self {
        Self::new(service, Mode::Gather { full: Vec::new(), bytes: 0 })
    }

    fn new(service: &Rc<Service>, mode: Mode) -> Self {
        Self { service: Rc::clone(service), mode, current: None, spare: Vec::new(), ahead: 1 }
    }

    /// Takes some of `bytes`, at least one, and says how many.
    pub(crate) async fn put(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let (lent, filled) = match self.current.take() {
            Some(current) => current,
            None => (self.empty_slot().await?, 0),
        };
        let taken = bytes.len().min(lent.slot.bytes() - filled);
        let is_full = filled + taken == lent.slot.bytes();
        // The range is inside the slot by the line above.
        let _ = lent.slot.copy_in(filled, &bytes[..taken]);
        self.current = Some((lent, filled + taken));
        if is_full {
            self.emit().await?;
        }
        Ok(taken)
    }

    /// Sends what has gathered, if it is sent at all before the end.
    pub(crate) async fn push(&mut self) -> Result<(), BodyError> {
        match self.mode {
            Mode::Live => self.emit().await,
            Mode::Gather { .. } => Ok(()),
        }
    }

    /// Ends a live stream: whole, or visibly broken off.
    pub(crate) async fn end_live(mut self, is_whole: bool) -> Result<(), BodyError> {
        self.spare.clear();
        // Slots that were not needed go back while the gateway still knows the request.
        self.service.instance.flush().await;
        let last = self.current.take().filter(|(_, filled)| is_whole && *filled > 0);
        let (slot, filled) = match last {
            Some((lent, filled)) => (Some(lent), filled),
            None => (None, 0),
        };
        self.chunk(slot, filled, if is_whole { 0 } else { FLAG_BROKEN }).await
    }

    /// The whole body, if it was gathered.
    pub(crate) fn into_body(self) -> Body {
        let Mode::Gather { mut full, mut bytes } = self.mode else { return Body::empty() };
        if let Some((lent, filled)) = self.current {
            full.push(lent);
            bytes += filled;
        }
        if bytes == 0 { Body::empty() } else { BodyWriter::filled(full, bytes).into() }
    }

    async fn emit(&mut self) -> Result<(), BodyError> {
        let Some((lent, filled)) = self.current.take().filter(|(_, filled)| *filled > 0) else { return Ok(()) };
        match &mut self.mode {
            Mode::Live => self.chunk(Some(lent), filled, FLAG_MORE).await,
            Mode::Gather { full, bytes } => {
                full.push(lent);
                *bytes += filled;
                Ok(())
            }
        }
    }

    async fn chunk(&self, lent: Option<Lent>, filled: usize, flags: u8) -> Result<(), BodyError> {
        let service = &self.service;
        let mut chunk = service.descriptor(Kind::Chunk, FunctionId::GATEWAY, service.envelope.gateway);
        if let Some(lent) = lent {
            let part = lent.into_part(filled);
            chunk = PacketDescriptor { slot: part.slot, generation: part.generation, aux: part.bytes, ..chunk };
        }
        let until_ns = after(clock::now_ns(), CLIENT_WAIT_MAX);
        let delivered = service.instance.deliver(&chunk.with_flags(flags), until_ns).await;
        delivered.map_err(|undelivered| match undelivered {
            Undelivered::Full => BodyError::DeadlineExceeded,
            Undelivered::Refused(_) => BodyError::Cancelled,
            Undelivered::Unreachable | Undelivered::Closed => BodyError::Unreachable,
        })
    }

    async fn empty_slot(&mut self) -> Result<Lent, BodyError> {
        if let Some(lent) = self.spare.pop() {
            return Ok(lent);
        }
        let service = &self.service;
        let until_ns = match self.mode {
            Mode::Live => after(clock::now_ns(), CLIENT_WAIT_MAX),
            Mode::Gather { .. } => service.envelope.deadline_ns,
        };
        let class = chunk_class(service.instance.pool.layout())?;
        loop {
            let count = self.ahead;
            self.ahead = (self.ahead * 2).min(AHEAD_MAX);
            match borrow_class(service, class, count, until_ns).await {
                Ok(slots) => {
                    self.spare = slots;
                    return self.spare.pop().ok_or(BodyError::Unreachable);
                }
                Err(BodyError::Exhausted { .. }) if count > 1 => self.ahead = 1,
                Err(BodyError::Exhausted { .. }) if matches!(self.mode, Mode::Live) => {
                    if clock::now_ns() >= until_ns {
                        return Err(BodyError::DeadlineExceeded);
                    }
                    self.ahead = 1;
                    Pause::until(&service.instance, after(clock::now_ns(), EXHAUSTED_PAUSE)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The class of slots that chunks are gathered in.
fn chunk_class(layout: &PoolLayout) -> Result<usize, BodyError> {
    let none = BodyError::TooLarge { bytes: CHUNK_BYTES as u64 };
    class_and_count(layout, CHUNK_BYTES).map(|(class, _)| class).ok_or(none)
}

impl io::Write for StreamWriter {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        let service = Rc::clone(&self.service);
        Ok(block_on(&service.instance, self.put(from))?)
    }

    fn flush(&mut self) -> io::Result<()> {
        let service = Rc::clone(&self.service);
        Ok(block_on(&service.instance, self.push())?)
    }
}

impl fmt::Debug for StreamWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWriter").field("is_live", &matches!(self.mode, Mode::Live)).finish_non_exhaustive()
    }
}
