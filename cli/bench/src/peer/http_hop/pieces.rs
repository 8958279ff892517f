//! A body in memory as it came from the socket, so that forwarding it copies nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// A whole body; its length is known.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    /// Takes a body in. Trailers are dropped.
    pub(super) async fn collect(mut body: Incoming) -> Result<Self, hyper::Error> {
        let mut whole = Self::default();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                whole.bytes += data.len() as u64;
                whole.pieces.push_back(data);
            }
        }
        Ok(whole)
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}
