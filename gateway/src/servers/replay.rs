//! A connection of which some bytes have been read already, which come first. Where the gateway has sent the request
//! itself and read some of the answer, hyper is given that to read, and what it writes meanwhile is a request that
//! nobody is sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// A connection, and what of it has been read and is still to be given.
pub(crate) struct Replay {
    stream: Stream,
    unread: Bytes,
    stage: Stage,
}

/// Who sends the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Who writes to the connection.
    Writer,
    /// It has been sent. Hyper does not know of one yet, and would not take an answer.
    SentUnknown,
    /// Hyper takes its own for the one that was sent.
    SentKnown,
}

impl Replay {
    /// A connection on which hyper does everything.
    pub(super) const fn nothing(stream: Stream) -> Self {
        Self::passing(stream, Bytes::new())
    }

    /// A connection on which so much has come.
    pub(super) const fn passing(stream: Stream, unread: Bytes) -> Self {
        Self { stream, unread, stage: Stage::Writer }
    }

    /// A connection on which a request has been sent and so much of the answer has come.
    pub(super) const fn of(stream: Stream, unread: Bytes) -> Self {
        Self { stream, unread, stage: Stage::SentUnknown }
    }

    /// The connection, and what has not been given.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.unread)
    }
}

impl AsyncRead for Replay {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stage == Stage::SentUnknown {
            // It is about to write.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let bytes = self.unread.len().min(into.remaining());
        into.put_slice(&self.unread[..bytes]);
        self.unread.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.stage == Stage::Writer {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        self.stage = Stage::SentKnown;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stage == Stage::Writer && self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }
}
