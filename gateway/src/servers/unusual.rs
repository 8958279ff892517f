//! Requests and answers that need more of HTTP/1.1 than a head and a body of known length: hyper drives the
//! connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::Turn;
use super::body::Outgoing;
use super::connection::Age;
use super::exchange::{AskError, Break};
use super::plain::Unread;
use super::replay::Replay;
use super::stream::Stream;

/// The least that hyper lets its buffer be limited to.
pub(super) const BUFFER_BYTES_MIN: usize = 8192;

type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>>>>;

/// A request that is on its way.
pub(crate) struct Unusual {
    link: Link,
    response: Sent,
    age: Age,
}

/// An answer's body as it comes, and the connection that it comes on.
pub(crate) struct Body {
    body: Incoming,
    link: Link,
}

/// A connection with the right to it. Dropped after a whole exchange it is kept for the next one, else it is closed.
#[derive(Default)]
struct Link {
    turn: Option<Turn>,
    driver: Option<Driver>,
}

struct Driver {
    connection: Connection<TokioIo<Replay>, Outgoing>,
    sender: SendRequest<Outgoing>,
}

impl Unusual {
    pub(super) async fn send(
        turn: Turn,
        stream: Stream,
        age: Age,
        request: Request<Outgoing>,
        head_bytes_max: usize,
    ) -> Result<Self, AskError> {
        Self::begin(turn, Replay::nothing(stream), age, request, head_bytes_max).await
    }

    /// Goes on with what has been sent and, in part, read.
    pub(super) async fn go_on(unread: Unread) -> Result<Self, AskError> {
        let Unread { turn, stream, age, heard, head_bytes_max } = unread;
        // Of a request hyper keeps no more than whether its answer has a body, as all of the plain ones have.
        let as_sent = Request::new(Outgoing::whole(Default::default()));
        Self::begin(turn, Replay::of(stream, heard), age, as_sent, head_bytes_max).await
    }

    async fn begin(
        turn: Turn,
        connection: Replay,
        age: Age,
        request: Request<Outgoing>,
        head_bytes_max: usize,
    ) -> Result<Self, AskError> {
        let mut builder = Builder::new();
        builder.max_buf_size(head_bytes_max.max(BUFFER_BYTES_MIN));
        let shaken = builder.handshake(TokioIo::new(connection)).await;
        let (mut sender, connection) = shaken.map_err(|error| AskError::Broken(error.into()))?;
        let sent = sender.send_request(request);
        let link = Link { turn: Some(turn), driver: Some(Driver { connection, sender }) };
        Ok(Self { link, response: Box::pin(sent), age })
    }

    /// Waits for the answer's head.
    pub(super) async fn head(&mut self) -> Result<(Parts, Body), AskError> {
        let response = poll_fn(|context| {
            // What the connection has to say comes with the response.
            let _ = self.link.poll(context);
            self.response.as_mut().poll(context)
        });
        match response.await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                Ok((head, Body { body, link: std::mem::take(&mut self.link) }))
            }
            Err(error) => Err(self.link.judge(error, self.age)),
        }
    }
}

/// Whether the peer has closed the connection.
pub(super) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Body {
    /// How long the body is, where that is known.
    pub(super) fn exact(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    pub(super) fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next piece.
    pub(super) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            let _ = self.link.poll(context);
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                // Trailers are not passed on.
                Poll::Ready(Some(Ok(frame))) => {
                    if let Ok(data) = Frame::into_data(frame) {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }

    /// The connection itself, after the instance has agreed to speak something else on it, with what it has said so
    /// far.
    pub(super) async fn into_tunnel(mut self) -> Option<(Replay, Turn)> {
        let driver = self.link.driver.as_mut()?;
        poll_fn(|context| driver.connection.poll_without_shutdown(context)).await.ok()?;
        let Driver { connection, .. } = self.link.driver.take()?;
        let parts = connection.into_parts();
        // The turn lasts as long as the tunnel. One that is asked for was never plain, so nothing was read before.
        let (stream, _) = parts.io.into_inner().into_parts();
        Some((Replay::passing(stream, parts.read_buf), self.link.turn.take()?))
    }
}

impl Link {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        match &mut self.driver {
            Some(driver) => driver.connection.poll_without_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn judge(&mut self, error: hyper::Error, age: Age) -> AskError {
        if error.is_parse() || error.is_parse_too_large() {
            return AskError::Nonsense(error);
        }
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let is_closed = error.is_incomplete_message() || error.is_canceled() || source.is_some_and(is_reset);
        if age == Age::Used && is_closed {
            self.finish();
            if let Some(turn) = self.turn.take() {
                return AskError::Stale(turn);
            }
        }
        AskError::Broken(Break::Http(error))
    }

    /// Gives the connection back.
    fn finish(&mut self) {
        let Some(mut driver) = self.driver.take() else { return };
        // It notices that the exchange is over when it is driven once more.
        let is_open = driver.connection.poll_without_shutdown(&mut Context::from_waker(Waker::noop())).is_pending();
        let is_whole = is_open && driver.sender.is_ready();
        let parts = driver.connection.into_parts();
        let Some(turn) = &self.turn else { return };
        let (stream, unread) = parts.io.into_inner().into_parts();
        let sockets = &turn.server().sockets;
        if is_whole && parts.read_buf.is_empty() && unread.is_empty() {
            sockets.keep(stream);
        } else {
            sockets.close(stream);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.finish();
    }
}
