//! Bodies on their way to an instance: from the slots where they are, or from the client as it sends them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::problem::Problem;

/// The body of a request to an instance.
pub(crate) enum Outgoing {
    /// Bytes that are all there.
    Whole { pieces: VecDeque<Bytes>, bytes: u64 },
    /// What the client is still sending.
    FromClient(Box<ClientBody>),
}

/// The client's body is not to be passed on any further; why is in [`ClientBody::problem`].
#[derive(Debug, thiserror::Error)]
#[error("the client's body broke off, came too slowly or is too long")]
pub(crate) struct Broken;

/// A body that comes from the client piece by piece, as fast as the instance takes it.
pub(crate) struct ClientBody {
    body: Incoming,
    left: u64,
    bytes_max: u64,
    pause_max: Duration,
    pause: Pin<Box<Sleep>>,
    is_waiting: Waiting,
    problem: Rc<RefCell<Option<Problem>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    ForClient,
    ForInstance,
}

impl Outgoing {
    pub(crate) fn whole(pieces: VecDeque<Bytes>) -> Self {
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self::Whole { pieces, bytes }
    }
}

impl ClientBody {
    /// At most `bytes_max` bytes, with at most `pause_max` between two pieces.
    pub(crate) fn new(body: Incoming, bytes_max: u64, pause_max: Duration) -> Self {
        let pause = Box::pin(sleep_until(Instant::now() + pause_max));
        let problem = Rc::default();
        Self { body, left: bytes_max, bytes_max, pause_max, pause, is_waiting: Waiting::ForInstance, problem }
    }

    /// Where it will be said why the body broke off.
    pub(crate) fn problem(&self) -> Rc<RefCell<Option<Problem>>> {
        Rc::clone(&self.problem)
    }

    fn fail(&self, problem: Problem) -> Poll<Option<Result<Bytes, Broken>>> {
        *self.problem.borrow_mut() = Some(problem);
        Poll::Ready(Some(Err(Broken)))
    }

    /// From now on the client is waited for, whatever was before.
    pub(crate) fn waits_anew(&mut self) {
        self.is_waiting = Waiting::ForInstance;
    }

    /// The next bytes; there may be none in between.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let Poll::Ready(frame) = frame else {
            // The time that the instance takes to read is not the client's.
            if self.is_waiting == Waiting::ForInstance {
                self.is_waiting = Waiting::ForClient;
                self.pause.as_mut().reset(Instant::now() + self.pause_max);
            }
            ready!(self.pause.as_mut().poll(context));
            return self.fail(Problem::BodyTimeout);
        };
        self.is_waiting = Waiting::ForInstance;
        match frame {
            None => Poll::Ready(None),
            Some(Err(_)) => self.fail(Problem::BadBody),
            Some(Ok(frame)) => {
                // Trailers are not passed on.
                let data = frame.into_data().unwrap_or_default();
                match self.left.checked_sub(data.len() as u64) {
                    Some(left) => {
                        self.left = left;
                        Poll::Ready(Some(Ok(data)))
                    }
                    None => self.fail(Problem::BodyTooLarge(self.bytes_max)),
                }
            }
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole { pieces, bytes } => match pieces.pop_front() {
                Some(piece) => {
                    *bytes -= piece.len() as u64;
                    Poll::Ready(Some(Ok(Frame::data(piece))))
                }
                None => Poll::Ready(None),
            },
            Self::FromClient(body) => body.poll_piece(context).map_ok(Frame::data),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { pieces, .. } => pieces.is_empty(),
            Self::FromClient(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole { bytes, .. } => SizeHint::with_exact(*bytes),
            Self::FromClient(body) => body.body.size_hint(),
        }
    }
}
