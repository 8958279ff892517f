//! A function's answer on its way out: status and headers copied and checked, body bytes handed to hyper from their
//! slot.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use ramet_common::SlotIndex;
use ramet_dataplane::message::{BodyPlace, HeadBlock, Part};
use ramet_dataplane::{Slot, SlotRef};

use super::full;
use crate::chains::Admission;
use crate::conduct::{Arrived, Stream};
use crate::exchange::Holdings;
use crate::flight::Piece;
use crate::http1::{is_name, is_value};
use crate::problem::Problem;
use crate::servers::Rest;
use crate::worker::Departed;

/// The body of every answer.
pub(crate) struct AnswerBody {
    now: VecDeque<Bytes>,
    /// How much is still to come, where that is known.
    bytes_left: Option<u64>,
    stream: Option<Coming>,
    /// Where a driver watches that the client reads.
    watched: Option<full::Stream>,
    /// Keeps the request among those that run until its last byte has gone.
    _admission: Option<Admission>,
}

/// What is not there yet.
enum Coming {
    Chunks { departed: Departed, holdings: Arc<Holdings> },
    Http(Box<Rest>),
}

/// The body broke off: its function died. The client must not take what it has for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the function that streamed this answer died")]
pub(crate) struct BrokenOff;

impl AnswerBody {
    /// A body that is not in a slot.
    pub(crate) fn full(bytes: Bytes) -> Self {
        let bytes_left = Some(bytes.len() as u64);
        Self { now: VecDeque::from([bytes]), bytes_left, stream: None, watched: None, _admission: None }
    }

    /// The same, watched.
    pub(super) fn on(self, stream: full::Stream) -> Self {
        Self { watched: Some(stream), ..self }
    }

    /// No body, whatever the function wrote. What it wrote is free again.
    fn none() -> Self {
        Self { now: VecDeque::new(), bytes_left: Some(0), stream: None, watched: None, _admission: None }
    }

    pub(super) fn from_slots(arrived: Arrived, holdings: &Arc<Holdings>, admission: Admission) -> Self {
        let bytes_left = arrived.exact_bytes();
        let now = match (&arrived.message.body, arrived.head) {
            (BodyPlace::Parts(parts), _) => {
                let release = |part| if is_last_use(parts, part) { Release::AtOnce } else { Release::AtEnd };
                parts.iter().map(|part| part_bytes(holdings, part, release(part))).collect()
            }
            (body, Some(head)) => pieces_of(body, head, holdings),
            (BodyPlace::Inline { .. }, None) => VecDeque::new(),
        };
        let stream = arrived.stream.map(|stream| match stream {
            Stream::Chunks(departed) => Coming::Chunks { departed, holdings: Arc::clone(holdings) },
            Stream::Http(rest) => Coming::Http(rest),
        });
        Self { now, bytes_left, stream, watched: None, _admission: Some(admission) }
    }
}

/// The bytes of a body, where they are. Its slots stay the request's.
pub(crate) fn pieces_of(body: &BodyPlace, head: SlotRef, holdings: &Arc<Holdings>) -> VecDeque<Bytes> {
    match body {
        BodyPlace::Inline { bytes: 0, .. } => VecDeque::new(),
        BodyPlace::Inline { offset, bytes } => {
            VecDeque::from([SlotBytes::hand_out(holdings, head.slot, *offset, *bytes, Release::AtEnd)])
        }
        BodyPlace::Parts(parts) => parts.iter().map(|part| part_bytes(holdings, part, Release::AtEnd)).collect(),
    }
}

fn part_bytes(holdings: &Arc<Holdings>, part: &Part, release: Release) -> Bytes {
    SlotBytes::hand_out(holdings, part.slot, part.offset as usize, part.bytes as usize, release)
}

/// Whether a slot is named by one part only, so that it is free once that part is written.
fn is_last_use(parts: &[Part], part: &Part) -> bool {
    parts.len() <= 64 && parts.iter().filter(|other| other.slot == part.slot).count() == 1
}

/// The status that a function has chosen.
pub(super) fn status_of(arrived: &Arrived) -> Result<StatusCode, Problem> {
    StatusCode::from_u16(arrived.message.envelope.status)
        .map_err(|_| Problem::BadAnswer("its status is no number that HTTP knows"))
}

/// A function's headers for the client, each checked, without those that speak of the connection.
pub(super) fn end_to_end<'b>(
    block: &'b HeadBlock,
    method: &'b str,
) -> impl Iterator<Item = Result<(&'b str, &'b [u8]), Problem>> {
    block.headers().filter(move |(name, _)| !is_ours(name, method)).map(|(name, value)| {
        if !is_name(name) {
            return Err(Problem::BadAnswer("a header's name has characters that HTTP forbids"));
        }
        if !is_value(value) {
            return Err(Problem::BadAnswer("a header's value has characters that HTTP forbids"));
        }
        Ok((name, value))
    })
}

/// Headers that speak of the connection, or of a length that the gateway knows better.
fn is_ours(name: &str, method: &str) -> bool {
    match name {
        "content-length" => method != "HEAD",
        "connection" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "keep-alive" | "proxy-connection" => true,
        _ => false,
    }
}

/// Turns what came back from the chain into the client's answer.
pub(crate) fn respond(
    arrived: Arrived,
    holdings: &Arc<Holdings>,
    admission: Admission,
    method: &Method,
) -> Result<Response<AnswerBody>, Problem> {
    let status = status_of(&arrived)?;
    let mut response = Response::builder().status(status);
    let headers = response.headers_mut().ok_or(Problem::BadAnswer("its status is unusable"))?;
    headers.reserve(arrived.message.block.header_count());
    for header in end_to_end(&arrived.message.block, method.as_str()) {
        let (name, value) = header?;
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) else {
            return Err(Problem::BadAnswer("a header is unusable"));
        };
        headers.append(name, value);
    }
    let is_empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    if *method == Method::HEAD
        && !is_empty
        && !headers.contains_key(CONTENT_LENGTH)
        && !matches!(arrived.stream, Some(Stream::Http(_)))
        && let Some(bytes) = arrived.exact_bytes()
    {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    let body = if *method == Method::HEAD || is_empty {
        AnswerBody::none()
    } else {
        AnswerBody::from_slots(arrived, holdings, admission)
    };
    response.body(body).map_err(|_| Problem::BadAnswer("its head is unusable"))
}

impl AnswerBody {
    fn next_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if let Some(bytes) = self.now.pop_front() {
            self.sent(&bytes);
            return Poll::Ready(Some(Ok(bytes)));
        }
        let piece = match &mut self.stream {
            None => None,
            Some(Coming::Chunks { departed, holdings }) => match ready!(departed.poll_piece(context)) {
                Piece::Bytes { slot, bytes } => {
                    Some(Ok(SlotBytes::hand_out(holdings, slot.slot, 0, bytes as usize, Release::AtOnce)))
                }
                Piece::End => None,
                Piece::Broken => Some(Err(BrokenOff)),
            },
            Some(Coming::Http(rest)) => ready!(rest.poll_piece(context)).map(|piece| {
                piece.map_err(|error| {
                    tracing::debug!(%error, "an answer broke off");
                    BrokenOff
                })
            }),
        };
        match &piece {
            Some(Ok(bytes)) => self.sent(bytes),
            Some(Err(_)) | None => self.stream = None,
        }
        Poll::Ready(piece)
    }

    fn sent(&mut self, bytes: &Bytes) {
        self.bytes_left = self.bytes_left.map(|left| left.saturating_sub(bytes.len() as u64));
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let next = self.next_piece(context);
        if let Some(watched) = &self.watched {
            if next.is_ready() { watched.waits_for_client() } else { watched.waits_for_function() }
        }
        next.map(|piece| Some(piece?.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        let is_over = match &self.stream {
            None => true,
            Some(Coming::Chunks { .. }) => false,
            Some(Coming::Http(rest)) => rest.is_end(),
        };
        self.now.is_empty() && is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes_left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// When a slot is free again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    /// With the whole request.
    AtEnd,
    /// As soon as its bytes are written.
    AtOnce,
}

/// Bytes of a slot in hyper's hands; the slot lives as long as they do.
struct SlotBytes {
    slot: Slot,
    offset: usize,
    bytes: usize,
    index: SlotIndex,
    release: Release,
    holdings: Arc<Holdings>,
}

impl SlotBytes {
    fn hand_out(holdings: &Arc<Holdings>, index: SlotIndex, offset: usize, bytes: usize, release: Release) -> Bytes {
        match holdings.slot(index) {
            // Impossible ranges were refused when the message was read; a chunk's length is checked by `slice`.
            Some(slot) => {
                let holdings = Arc::clone(holdings);
                Bytes::from_owner(Self { slot, offset, bytes, index, release, holdings })
            }
            None => Bytes::new(),
        }
    }
}

impl AsRef<[u8]> for SlotBytes {
    fn as_ref(&self) -> &[u8] {
        self.slot.slice(self.offset, self.bytes).unwrap_or_default()
    }
}

impl Drop for SlotBytes {
    fn drop(&mut self) {
        if self.release == Release::AtOnce {
            self.holdings.release(self.index);
        }
    }
}
