//! One request and its answer on a connection to an instance. The worker's own task drives the connection: there is no
//! other task to wake.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::response::Parts;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;

use super::body::Outgoing;
use super::connection::{Age, ConnectError};
use super::stream::Stream;
use super::{Server, Turn};

/// The least that hyper lets its buffer be limited to.
const BUFFER_BYTES_MIN: usize = 8192;

/// Why an instance has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nothing of the request has left.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection had been used before, and broke before it brought an answer: it may have been closed for being
    /// idle. The turn is still there.
    #[error("the connection, used before, was closed")]
    Stale(Turn),
    /// The connection broke before the answer's head had come.
    #[error("the connection broke: {0}")]
    Broken(hyper::Error),
    /// What came is no HTTP.
    #[error("it is not HTTP: {0}")]
    Nonsense(hyper::Error),
}

type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>>>>;

/// A request that is on its way, or an answer that is.
pub(crate) struct Exchange {
    link: Link,
    response: Sent,
    age: Age,
}

/// An answer's head, and what follows it.
pub(crate) struct Answered {
    pub(crate) head: Parts,
    pub(crate) rest: Rest,
}

/// An answer's body as it comes, and the connection that it comes on.
pub(crate) struct Rest {
    body: Incoming,
    link: Link,
}

/// A connection with the right to it. Dropped after a whole exchange it is kept for the next one, else it is closed.
struct Link {
    turn: Option<Turn>,
    driver: Option<Driver>,
}

struct Driver {
    connection: Connection<TokioIo<Stream>, Outgoing>,
    sender: SendRequest<Outgoing>,
}

impl Exchange {
    /// Sends a request on a new connection, or on one that may have been used before. `head_bytes_max` bounds the
    /// answer's head.
    pub(crate) async fn begin(
        turn: Turn,
        age: Age,
        request: Request<Outgoing>,
        head_bytes_max: usize,
    ) -> Result<Self, AskError> {
        let sockets = &turn.server().sockets;
        let (stream, age) = match age {
            Age::New => (sockets.take_new().await?, age),
            Age::Used => sockets.take().await?,
        };
        let mut builder = Builder::new();
        builder.max_buf_size(head_bytes_max.max(BUFFER_BYTES_MIN));
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(AskError::Broken)?;
        let sent = sender.send_request(request);
        let link = Link { turn: Some(turn), driver: Some(Driver { connection, sender }) };
        Ok(Self { link, response: Box::pin(sent), age })
    }

    /// Waits for the answer's head.
    pub(crate) async fn head(&mut self) -> Result<Response<Incoming>, AskError> {
        poll_fn(|context| {
            // What the connection has to say comes with the response.
            let _ = self.link.poll(context);
            self.response.as_mut().poll(context)
        })
        .await
        .map_err(|error| self.link.judge(error, self.age))
    }

    /// The answer, once its head is there.
    pub(crate) fn answered(self, response: Response<Incoming>) -> Answered {
        let (head, body) = response.into_parts();
        Answered { head, rest: Rest { body, link: self.link } }
    }

    pub(crate) fn server(&self) -> Option<&Arc<Server>> {
        self.link.turn.as_ref().map(Turn::server)
    }
}

fn is_reset(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| matches!(source.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe))
}

impl Rest {
    /// How long the body is, where that is known.
    pub(crate) fn exact(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The next piece.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
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
    pub(crate) async fn into_tunnel(mut self) -> Option<(Stream, Bytes, Turn)> {
        let driver = self.link.driver.as_mut()?;
        poll_fn(|context| driver.connection.poll_without_shutdown(context)).await.ok()?;
        let Driver { connection, .. } = self.link.driver.take()?;
        let parts = connection.into_parts();
        // The turn lasts as long as the tunnel.
        Some((parts.io.into_inner(), parts.read_buf, self.link.turn.take()?))
    }
}

impl Link {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        match &mut self.driver {
            Some(driver) => driver.connection.poll_without_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Link {
    fn judge(&mut self, error: hyper::Error, age: Age) -> AskError {
        if error.is_parse() || error.is_parse_too_large() {
            return AskError::Nonsense(error);
        }
        let is_closed = error.is_incomplete_message() || error.is_canceled() || is_reset(&error);
        if age == Age::Used && is_closed {
            self.finish();
            if let Some(turn) = self.turn.take() {
                return AskError::Stale(turn);
            }
        }
        AskError::Broken(error)
    }

    /// Gives the connection back.
    fn finish(&mut self) {
        let Some(mut driver) = self.driver.take() else { return };
        // It notices that the exchange is over when it is driven once more.
        let is_open = driver.connection.poll_without_shutdown(&mut Context::from_waker(Waker::noop())).is_pending();
        let is_whole = is_open && driver.sender.is_ready();
        let parts = driver.connection.into_parts();
        let Some(turn) = &self.turn else { return };
        let sockets = &turn.server().sockets;
        if is_whole && parts.read_buf.is_empty() {
            sockets.keep(parts.io.into_inner());
        } else {
            sockets.close(parts.io.into_inner());
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.finish();
    }
}
