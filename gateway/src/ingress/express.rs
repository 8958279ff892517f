//! The express lane of HTTP/1.1: requests with a body of known length, read straight into slots and answered with as
//! few steps as HTTP allows. At the first request that needs more, hyper takes the connection over for good.
//!
//! A connection's states: idle (it has no buffer) → a head has come → its body is taken in → its chain runs (more
//! bytes may be read ahead, the end of the stream cancels, if that takes long) → the answer is written → idle. One that
//! is to end waits for a last request, and says with the answer that it was.

mod body;
mod head;
mod idle;
mod overdue;
mod reply;
mod write;

use std::cell::RefCell;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use ramet_dataplane::Slot;
use ramet_dataplane::message::BodyPlace;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, timeout};

use self::body::SocketBody;
use self::head::{HEADERS_MAX, Plain};
use self::idle::Idle;
use self::overdue::Overdue;
use self::reply::{Date, Ends, Framing, HeadWriter};
use super::answer::{AnswerBody, end_to_end, status_of};
use super::open::{LAST_REQUEST, Open};
use super::request::{Accepted, Client, WHOLE_BYTES_MAX};
use super::socket::Socket;
use crate::chains::{Admission, Chain};
use crate::conduct::{Arrived, Journey, Outset, Stream};
use crate::exchange::Holdings;
use crate::problem::Problem;
use crate::worker::Worker;

/// What one read may bring; heads that do not fit are hyper's.
const BUFFER_BYTES: usize = 16 << 10;

/// How many buffers a worker keeps for the next requests.
const BUFFERS_MAX: usize = 64;

/// Bodies up to this are copied behind their head: cheaper than a second piece for the kernel.
const COPY_BYTES_MAX: usize = 4 << 10;

/// What the connections of a worker share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    buffers: RefCell<Vec<Vec<u8>>>,
    date: RefCell<Date>,
    overdue: Overdue,
}

impl Shared {
    fn take_buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Has the clients of requests that take long watched.
    pub(crate) async fn watch_always(&self) {
        self.overdue.wake_always().await;
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_MAX && buffer.capacity() == BUFFER_BYTES {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

/// What the express lane does with a head that came, and with one for its answer: 200, with a body of `answer_bytes`.
/// For whoever counts instructions; a connection does the same. The length of the request's body, or `None` for a
/// request that hyper would have to read.
#[doc(hidden)]
pub fn head_for_head(request: &[u8], answer_bytes: u64, answer: &mut Vec<u8>) -> Option<u64> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let Plain { body_bytes, .. } = head::parse(request, &mut headers)?;
    let mut head = HeadWriter::new(answer, StatusCode::OK);
    head.header("content-type", b"application/octet-stream");
    head.finish(Framing::Length(answer_bytes), "Thu, 01 Jan 1970 00:00:00 GMT", Ends::Request);
    Some(body_bytes)
}

/// How the express lane is left.
pub(super) enum Left {
    /// The connection has ended.
    Closed,
    /// A request is not plain. It is still unread, but for what is here.
    ForHyper(Socket, BytesMut),
    /// Another worker shall go on with the next request.
    ForWorker(Socket, usize),
}

/// Serves a connection for as long as its requests are plain.
pub(super) async fn serve(worker: &Rc<Worker>, socket: Socket, client: &Client, open: &Open) -> Left {
    let settings = &worker.shared.settings;
    let mut notice = pin!(open.notice());
    let now = Instant::now();
    let mut idle = pin!(Idle::new(settings.idle_timeout.max(settings.header_timeout), now));
    let mut lane = Lane { worker, socket, client, open, unread: Vec::new(), start: 0, now };
    loop {
        if lane.unread().is_empty() {
            idle.as_mut().restart(lane.now);
            let mut coming = Coming::Drain;
            if !open.is_draining() {
                coming = lane.coming(notice.as_mut(), idle.as_mut()).await;
            }
            if coming == Coming::Drain {
                let no_more = pin!(pending::<()>());
                coming = timeout(LAST_REQUEST, lane.coming(no_more, idle.as_mut())).await.unwrap_or(Coming::Nothing);
            }
            if coming != Coming::Bytes {
                return Left::Closed;
            }
        }
        worker.is_at_work();
        match lane.one_request().await {
            Ok(Served::Whole(Ends::Request)) => {}
            Ok(Served::Whole(Ends::Connection)) => return Left::Closed,
            Ok(Served::Not) => {
                let unread = BytesMut::from(lane.unread());
                return Left::ForHyper(lane.socket, unread);
            }
            Err(error) => {
                tracing::debug!(%error, "a connection ended with an error");
                return Left::Closed;
            }
        }
        if lane.unread().is_empty()
            && !open.is_draining()
            && let Some(place) = worker.place_for_old()
        {
            return Left::ForWorker(lane.socket, place);
        }
    }
}

/// What comes on an idle connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coming {
    Bytes,
    /// The client has gone, or says nothing for too long.
    Nothing,
    /// The connection is to end.
    Drain,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    Whole(Ends),
    /// It is hyper's, and nothing has been done about it.
    Not,
}

/// What a client is taken to do after the last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    More,
    Nothing,
}

struct Lane<'w> {
    worker: &'w Rc<Worker>,
    socket: Socket,
    client: &'w Client,
    open: &'w Open,
    unread: Vec<u8>,
    start: usize,
    /// When something came last: bytes, or an outcome. Asking for the time is not for nothing.
    now: Instant,
}

/// A request whose head has been read.
struct Begun {
    chain: Option<Arc<Chain>>,
    accepted: Result<Accepted, Problem>,
    body_bytes: u64,
    start: Instant,
    ends: Ends,
}

impl Lane<'_> {
    fn unread(&self) -> &[u8] {
        &self.unread[self.start..]
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.unread.len() {
            self.start = 0;
            self.worker.express.give_back(std::mem::take(&mut self.unread));
        }
    }

    /// Waits for bytes of the next request.
    async fn coming(&mut self, mut notice: Pin<&mut impl Future>, mut idle: Pin<&mut Idle>) -> Coming {
        poll_fn(|context| {
            if let Poll::Ready(read) = self.poll_read(context) {
                self.now = Instant::now();
                return Poll::Ready(if matches!(read, Ok(1..)) { Coming::Bytes } else { Coming::Nothing });
            }
            if notice.as_mut().poll(context).is_ready() {
                return Poll::Ready(Coming::Drain);
            }
            idle.as_mut().poll(context).map(|()| Coming::Nothing)
        })
        .await
    }

    /// What ends with an answer, if it should be that: the connection, too, when it drains.
    fn ends_with(&self, asked: Ends) -> Ends {
        if self.open.is_draining() { Ends::Connection } else { asked }
    }

    /// Reads what there is, as far as there is room. 0: the client sends no more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_read_ready(context))?;
        if self.unread.capacity() == 0 {
            self.unread = self.worker.express.take_buffer();
        }
        let read = self.socket.poll_read(context, &mut self.unread);
        if read.is_pending() {
            self.worker.express.give_back(std::mem::take(&mut self.unread));
        }
        read
    }

    async fn one_request(&mut self) -> io::Result<Served> {
        let Some(begun) = self.begin() else { return Ok(Served::Not) };
        let Begun { chain, accepted, body_bytes, start, ends: asked } = begun;
        let answered = match accepted {
            Ok(accepted) => self.through_chain(accepted, body_bytes, asked).await?,
            Err(problem) => {
                self.consume(body_bytes as usize);
                Err((problem, asked))
            }
        };
        let is_whole = answered.is_ok();
        let (status, ends) = match answered {
            Ok(answered) => answered,
            Err((problem, ends)) => {
                let ends = self.ends_with(ends);
                tracing::debug!(?problem, "answered by the gateway itself");
                // It may have waited in vain.
                self.now = Instant::now();
                self.apologise(&problem, ends).await?;
                (problem.status(), ends)
            }
        };
        match chain {
            Some(chain) => chain.counters.answered(status, self.now - start),
            None => self.worker.shared.metrics.unrouted(status),
        }
        if ends == Ends::Connection {
            // Who asked for that, and has sent all of the request, sends no more.
            self.end(if is_whole && asked == Ends::Connection { Sends::Nothing } else { Sends::More }).await;
        }
        Ok(Served::Whole(ends))
    }

    /// Reads the head that is next. `None`: hyper shall.
    fn begin(&mut self) -> Option<Begun> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let Plain { head, head_bytes, body_bytes, closes } = head::parse(&self.unread[self.start..], &mut headers)?;
        if head_bytes > self.worker.shared.settings.header_bytes_max {
            return None;
        }
        let start = self.now;
        let table = self.worker.chains();
        let (chain, accepted) = match head.chain(&table) {
            Ok(chain) => (Some(Arc::clone(chain)), head.accept(self.worker, self.client, chain, start)),
            Err(problem) => (None, Err(problem)),
        };
        // A refusal is only simple if there is no body to wait for.
        match &accepted {
            Ok(accepted) if body_bytes > accepted.body_bytes_max() => return None,
            // It goes on while it comes, which is hyper's.
            Ok(accepted) if body_bytes > COPY_BYTES_MAX as u64 && accepted.journey.streams_to().is_some() => {
                return None;
            }
            Ok(accepted) if body_bytes > WHOLE_BYTES_MAX && accepted.journey.begins_early() => return None,
            Err(_) if body_bytes > (self.unread().len() - head_bytes) as u64 => return None,
            Ok(_) | Err(_) => {}
        }
        self.consume(head_bytes);
        let ends = if closes { Ends::Connection } else { Ends::Request };
        Some(Begun { chain, accepted, body_bytes, start, ends })
    }

    /// Body in, chain, answer out. The inner error is still to be told to the client.
    async fn through_chain(
        &mut self,
        accepted: Accepted,
        body_bytes: u64,
        ends: Ends,
    ) -> io::Result<Result<(StatusCode, Ends), (Problem, Ends)>> {
        if body_bytes <= self.unread().len() as u64
            && let Some(outset) = accepted.outset()
        {
            return self.through_server(accepted, outset, body_bytes as usize, ends).await;
        }
        if let Err(problem) = self.unless_gone(accepted.journey.room()).await? {
            // The next request begins behind a body that is here; else who knows where.
            let is_here = body_bytes <= self.unread().len() as u64;
            self.consume(if is_here { body_bytes as usize } else { 0 });
            return Ok(Err((problem, if is_here { ends } else { Ends::Connection })));
        }
        let mut source = SocketBody { lane: self, left: body_bytes };
        let (head, envelope) = match accepted.take_in(&mut source, Some(body_bytes)).await {
            Ok(taken_in) => taken_in,
            // Who knows where the next request begins.
            Err(problem) => return Ok(Err((problem, Ends::Connection))),
        };
        let Accepted { journey, admission, .. } = accepted;
        let outcome = self.unless_gone(journey.run(head, envelope)).await?;
        self.come_to_an_end(outcome, &journey, admission, ends).await
    }

    /// The same where the first step's function serves HTTP by itself, and the body has come with the head: no slot
    /// needs to hold it.
    async fn through_server(
        &mut self,
        accepted: Accepted,
        outset: Outset,
        body_bytes: usize,
        ends: Ends,
    ) -> io::Result<Result<(StatusCode, Ends), (Problem, Ends)>> {
        let body = Bytes::copy_from_slice(&self.unread()[..body_bytes]);
        self.consume(body_bytes);
        let Accepted { journey, admission, .. } = accepted;
        let outcome = self.unless_gone(Box::pin(journey.run_whole(outset, body))).await?;
        self.come_to_an_end(outcome, &journey, admission, ends).await
    }

    async fn come_to_an_end(
        &mut self,
        outcome: Result<Arrived, Problem>,
        journey: &Journey,
        admission: Admission,
        ends: Ends,
    ) -> io::Result<Result<(StatusCode, Ends), (Problem, Ends)>> {
        self.now = Instant::now();
        let arrived = match outcome {
            Ok(arrived) => arrived,
            Err(problem) => return Ok(Err((problem, ends))),
        };
        let ends = self.ends_with(ends);
        let answered = self.answer(arrived, &journey.holdings, admission, ends).await?;
        Ok(answered.map(|status| (status, ends)).map_err(|problem| (problem, ends)))
    }

    /// Waits for `work` unless the client ends the stream, which cancels it. If bytes of a later request come, they are
    /// kept, and the client is taken to be there. So it is at first on a connection that is not watched yet.
    async fn unless_gone<T>(&mut self, work: impl Future<Output = T>) -> io::Result<T> {
        let (mut work, mut overdue) = (pin!(work), pin!(None::<Notified<'_>>));
        let shared = &self.worker.express;
        poll_fn(|context| {
            loop {
                if let Poll::Ready(result) = work.as_mut().poll(context) {
                    return Poll::Ready(Ok(result));
                }
                if !self.unread().is_empty() {
                    return Poll::Pending;
                }
                if self.socket.is_unwatched() {
                    if overdue.is_none() {
                        overdue.set(Some(shared.overdue.wait()));
                    }
                    ready!(overdue.as_mut().as_pin_mut().map_or(Poll::Ready(()), |overdue| overdue.poll(context)));
                    self.socket.watch()?;
                }
                match ready!(self.poll_read(context)) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        })
        .await
    }

    async fn answer(
        &mut self,
        arrived: Arrived,
        holdings: &Arc<Holdings>,
        admission: Admission,
        ends: Ends,
    ) -> io::Result<Result<StatusCode, Problem>> {
        let mut out = self.worker.express.take_buffer();
        let (status, framing) = match self.write_head(&mut out, &arrived, ends) {
            Ok(written) => written,
            Err(problem) => return Ok(Err(problem)),
        };
        match inline(&arrived, holdings) {
            _ if matches!(framing, Framing::NoBody | Framing::Length(0)) => {}
            Some(Inline::Slot(slot, offset, bytes)) if bytes <= COPY_BYTES_MAX => {
                out.extend_from_slice(slot.slice(offset, bytes).unwrap_or_default());
            }
            Some(Inline::Answer(bytes)) if bytes.len() <= COPY_BYTES_MAX => out.extend_from_slice(bytes),
            _ => {
                let body = AnswerBody::from_slots(arrived, holdings, admission);
                return self.write_pieces(Bytes::from(out), body, framing).await.map(|()| Ok(status));
            }
        }
        self.write_all(&out, ends).await?;
        self.worker.express.give_back(out);
        Ok(Ok(status))
    }

    fn write_head(&self, out: &mut Vec<u8>, arrived: &Arrived, ends: Ends) -> Result<(StatusCode, Framing), Problem> {
        let status = status_of(arrived)?;
        let framing = Framing::of(status, arrived.exact_bytes());
        let mut head = HeadWriter::new(out, status);
        for header in end_to_end(&arrived.message.block, "") {
            let (name, value) = header?;
            head.header(name, value);
        }
        head.finish(framing, self.worker.express.date.borrow_mut().at(self.now), ends);
        Ok((status, framing))
    }

    /// Answers for the gateway itself.
    async fn apologise(&mut self, problem: &Problem, ends: Ends) -> io::Result<()> {
        let body = problem.body();
        let mut out = self.worker.express.take_buffer();
        let mut head = HeadWriter::new(&mut out, problem.status());
        for (name, value) in problem.headers() {
            head.header(name.as_str(), value.as_bytes());
        }
        let framing = Framing::Length(body.len() as u64);
        head.finish(framing, self.worker.express.date.borrow_mut().at(self.now), ends);
        out.extend_from_slice(&body);
        self.write_all(&out, ends).await?;
        self.worker.express.give_back(out);
        Ok(())
    }
}

/// The whole of an answer's body.
enum Inline<'a> {
    /// In its head's slot.
    Slot(Slot, usize, usize),
    /// As an instance that serves HTTP by itself sent it.
    Answer(&'a [u8]),
}

/// Where an answer's body is, if it is in one place.
fn inline<'a>(arrived: &'a Arrived, holdings: &Holdings) -> Option<Inline<'a>> {
    match (&arrived.stream, &arrived.message.body, arrived.head) {
        (Some(Stream::Http(rest)), ..) => rest.whole().map(Inline::Answer),
        (None, BodyPlace::Inline { offset, bytes }, Some(head)) => {
            Some(Inline::Slot(holdings.slot(head.slot)?, *offset, *bytes))
        }
        _ => None,
    }
}
