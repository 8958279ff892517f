//! A response body that grows while it is read.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use tokio::sync::mpsc::Receiver;

/// The pieces that a channel gives, until it is closed.
#[derive(Debug)]
pub(super) struct Lines(Receiver<Result<Bytes, Infallible>>);

impl Lines {
    pub(super) fn new(pieces: Receiver<Result<Bytes, Infallible>>) -> Self {
        Self(pieces)
    }
}

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
