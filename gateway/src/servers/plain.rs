//! Plain exchanges: the request's head and body leave at once, and of an answer of known length nothing is kept that
//! the gateway does not need.

mod head;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use ramet_dataplane::message::HeadBlock;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio_util::io::poll_read_buf;

use self::head::Parsed;
use super::Turn;
use super::connection::Age;
use super::exchange::{AskError, Break};
use super::stream::Stream;
use super::unusual::is_reset;

pub(crate) use self::head::{NEXT_HEADER, PlainHead};

/// Longer bodies are hyper's, which reads an answer that comes before all of the request has been sent.
const BODY_BYTES_MAX: usize = 16 << 10;

/// What one read may bring.
const READ_BYTES: usize = 8 << 10;
const PIECE_BYTES_MAX: usize = 64 << 10;
/// What a request's head may be longer than the block that it is made of, without growing.
const HEAD_BYTES_MORE: usize = 64;

/// A request that is sent as it is here.
pub(crate) struct PlainRequest {
    bytes: Vec<u8>,
    is_idempotent: bool,
}

/// A request that has been sent.
pub(crate) struct Plain {
    line: Line,
    age: Age,
    heard: BytesMut,
    head_bytes_max: usize,
}

/// What the answer's head turned out to be.
pub(super) enum Heard {
    Plain(PlainHead, Body),
    Unusual(Unread),
}

/// An answer that is hyper's, with what was read of it.
pub(super) struct Unread {
    pub(super) turn: Turn,
    pub(super) stream: Stream,
    pub(super) age: Age,
    pub(super) heard: Bytes,
    pub(super) head_bytes_max: usize,
}

/// An answer's body, and the connection that the rest of it comes on.
pub(crate) struct Body {
    here: Bytes,
    coming: Option<Coming>,
}

struct Coming {
    line: Line,
    bytes_left: u64,
    space: BytesMut,
}

/// A connection with the right to it. Dropped before the exchange is over it is closed.
struct Line {
    both: Option<(Turn, Stream)>,
    /// Whether it is of use when the exchange is over.
    is_kept: bool,
}

impl PlainRequest {
    /// `None`: it is not plain.
    pub(crate) fn new(block: &HeadBlock, body: &VecDeque<Bytes>) -> Option<Self> {
        let body_bytes: usize = body.iter().map(Bytes::len).sum();
        if body_bytes > BODY_BYTES_MAX {
            return None;
        }
        let mut bytes = Vec::with_capacity(block.as_bytes().len() + HEAD_BYTES_MORE + body_bytes);
        if !head::write(block, body_bytes, &mut bytes) {
            return None;
        }
        body.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Some(Self { bytes, is_idempotent: matches!(block.method(), "GET" | "PUT" | "DELETE") })
    }

    pub(super) const fn is_idempotent(&self) -> bool {
        self.is_idempotent
    }
}

impl Plain {
    pub(super) async fn send(
        turn: Turn,
        stream: Stream,
        age: Age,
        request: PlainRequest,
        head_bytes_max: usize,
    ) -> Result<Self, AskError> {
        let line = Line { both: Some((turn, stream)), is_kept: true };
        let mut plain = Self { line, age, heard: BytesMut::new(), head_bytes_max };
        let written = match plain.line.stream() {
            Ok(stream) => stream.write_all(&request.bytes).await,
            Err(error) => Err(error),
        };
        written.map_err(|error| plain.judge(error))?;
        Ok(plain)
    }

    /// Waits for the answer's head. This may be given up and begun again.
    pub(super) async fn head(&mut self) -> Result<Heard, AskError> {
        let heard = poll_fn(|context| self.poll_head(context)).await;
        heard.and_then(|heard| heard.map_or_else(|| self.unread(), Ok)).map_err(|error| self.judge(error))
    }

    /// `None`: it is hyper's.
    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Heard>>> {
        loop {
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut space);
            ready!(Pin::new(self.line.stream()?).poll_read(context, &mut read))?;
            let more = read.filled();
            if more.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            // Nearly always all of it comes at once.
            let is_first = self.heard.is_empty();
            if !is_first {
                self.heard.extend_from_slice(more);
            }
            let bytes = if is_first { more } else { &self.heard };
            let parsed = head::parse(bytes, self.head_bytes_max);
            if let Parsed::Plain { head, head_bytes, body_bytes, closes } = parsed {
                let here = &bytes[head_bytes..];
                let own = usize::try_from(body_bytes).unwrap_or(usize::MAX).min(here.len());
                self.line.is_kept = !closes && own == here.len();
                let body = Body::new(Bytes::copy_from_slice(&here[..own]), body_bytes, self.line.take());
                return Poll::Ready(Ok(Some(Heard::Plain(head, body))));
            }
            if is_first {
                self.heard.extend_from_slice(more);
            }
            if matches!(parsed, Parsed::Unusual) {
                return Poll::Ready(Ok(None));
            }
        }
    }

    fn unread(&mut self) -> io::Result<Heard> {
        let (turn, stream) = self.line.both.take().ok_or(io::ErrorKind::NotConnected)?;
        let heard = self.heard.split().freeze();
        Ok(Heard::Unusual(Unread { turn, stream, age: self.age, heard, head_bytes_max: self.head_bytes_max }))
    }

    /// What it means that the connection broke.
    fn judge(&mut self, error: io::Error) -> AskError {
        let is_closed = error.kind() == io::ErrorKind::UnexpectedEof || is_reset(&error);
        match self.line.close() {
            Some(turn) if self.age == Age::Used && is_closed => AskError::Stale(turn),
            _ => AskError::Broken(Break::Socket(error)),
        }
    }
}

impl Body {
    fn new(here: Bytes, bytes: u64, line: Line) -> Self {
        let bytes_left = bytes - here.len() as u64;
        let mut body = Self { here, coming: Some(Coming { line, bytes_left, space: BytesMut::new() }) };
        body.finish_if_whole();
        body
    }

    /// How much of it has not been taken.
    pub(super) fn bytes_left(&self) -> u64 {
        self.here.len() as u64 + self.coming.as_ref().map_or(0, |coming| coming.bytes_left)
    }

    /// All of it, if it is here.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        self.coming.is_none().then_some(&self.here)
    }

    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.here.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.here))));
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(None) };
        let piece = ready!(coming.poll_piece(context));
        self.finish_if_whole();
        Poll::Ready(Some(piece))
    }

    fn finish_if_whole(&mut self) {
        if let Some(coming) = self.coming.take_if(|coming| coming.bytes_left == 0) {
            coming.line.finish();
        }
    }
}

impl Coming {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(self.bytes_left).unwrap_or(usize::MAX).min(PIECE_BYTES_MAX);
        self.space.reserve(most);
        let space = &mut (&mut self.space).limit(most);
        match ready!(poll_read_buf(Pin::new(self.line.stream()?), context, space))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            bytes => {
                self.bytes_left -= bytes as u64;
                Poll::Ready(Ok(self.space.split().freeze()))
            }
        }
    }
}

impl Line {
    fn stream(&mut self) -> io::Result<&mut Stream> {
        let (_, stream) = self.both.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(stream)
    }

    fn take(&mut self) -> Self {
        Self { both: self.both.take(), is_kept: self.is_kept }
    }

    /// The exchange is over.
    fn finish(mut self) {
        if let Some((turn, stream)) = self.both.take_if(|_| self.is_kept) {
            turn.server().sockets.keep(stream);
        }
    }

    /// Closes the connection. The right to one is the caller's.
    fn close(&mut self) -> Option<Turn> {
        let (turn, stream) = self.both.take()?;
        turn.server().sockets.close(stream);
        Some(turn)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}
