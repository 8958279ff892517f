//! A step whose function serves HTTP by itself: the message becomes a request, the answer becomes the client's or the
//! next step's input.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use ramet_common::{FunctionId, Refusal};
use ramet_dataplane::message::{BlockWriter, BodyPlace, Envelope, HeadBlock, Message};
use ramet_dataplane::route::Hop;
use ramet_dataplane::{Slot, SlotRef};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::conduct::{Arrived, Journey, Outset, Stream, bad_message};
use crate::ingress::{BodyLimits, Source, pieces_of, take_in};
use crate::problem::Problem;
use crate::servers::{
    Age, AnswerHead, Answered, AskError, Asked, ClientBody, ConnectError, Exchange, NEXT_HEADER, Outgoing, PlainHead,
    PlainRequest, Rest, Server, Turn,
};

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Where the chain says.
    Onward,
    /// To the step that joins the branches.
    Join,
}

/// A request's line and headers, with where it is in the chain.
#[derive(Clone, Copy)]
struct Input<'m> {
    block: &'m HeadBlock,
    envelope: Envelope,
}

impl Journey {
    /// Has an instance of a function answer the message in `head`.
    pub(crate) async fn visit(
        &self,
        message: &Message,
        head: SlotRef,
        at: u16,
        function: FunctionId,
        then: Then,
    ) -> Result<Arrived, Problem> {
        let input = Input { block: &message.block, envelope: message.envelope };
        let mut make = || asked(input.block, pieces_of(&message.body, head, &self.holdings)).map(Some);
        let answered = self.ask(function, &mut make).await?;
        self.arrive(input, answered, at, then).await
    }

    /// Has an instance of the first step's function answer a request with that body.
    pub(crate) async fn visit_with(&self, outset: Outset, body: Bytes) -> Result<Arrived, Problem> {
        let Outset { block, envelope, function } = outset;
        let input = Input { block: &block, envelope };
        let mut make = || asked(input.block, VecDeque::from([body.clone()])).map(Some);
        let answered = self.ask(function, &mut make).await?;
        self.arrive(input, answered, 0, Then::Onward).await
    }

    /// Has an instance of the first step's function answer what the client is still sending.
    pub(crate) async fn visit_first(&self, outset: Outset, body: ClientBody) -> Result<Arrived, Problem> {
        let Outset { block, envelope, function } = outset;
        let input = Input { block: &block, envelope };
        let broken = body.problem();
        let mut body = Some(Outgoing::FromClient(Box::new(body)));
        let mut make = || body.take().map(|body| request(&block, body).map(unusual)).transpose();
        let answered = self.ask(function, &mut make).await;
        let broken = broken.borrow_mut().take();
        match broken {
            Some(problem) if answered.is_err() => Err(problem),
            _ => self.arrive(input, answered?, 0, Then::Onward).await,
        }
    }

    /// Asks the instance to speak something else on the connection (RFC 9110, 7.8).
    pub(crate) async fn visit_upgrade(
        &self,
        function: FunctionId,
        block: &HeadBlock,
        protocol: &HeaderValue,
    ) -> Result<Answered, Problem> {
        let _out = self.set_out().await?;
        let mut make = || {
            let mut request = request(block, Outgoing::whole(Default::default()))?;
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            request.headers_mut().insert(header::UPGRADE, protocol.clone());
            Ok(Some(unusual(request)))
        };
        self.ask(function, &mut make).await
    }

    /// Sends a request to an instance until one has answered, the time is over, or it cannot be sent once more. `make`
    /// gives the request each time, or nothing if its body has gone.
    async fn ask(
        &self,
        function: FunctionId,
        make: &mut dyn FnMut() -> Result<Option<Asked>, Problem>,
    ) -> Result<Answered, Problem> {
        let (servers, mut patience_ends) = (&self.worker.shared.servers, None);
        let Some(mut request) = make()? else { return Err(Problem::BadBody) };
        loop {
            let is_safe = request.is_idempotent();
            let turn = match self.turn(function).await? {
                Ok(turn) => turn,
                Err(Refusal::Full) => return Err(Problem::Overloaded),
                Err(_) => {
                    self.wait_for_instance(&mut patience_ends, servers.changed()).await?;
                    continue;
                }
            };
            match self.ask_once(turn, Age::Used, request).await? {
                Ok(answered) => return Ok(answered),
                Err(AskError::Connect(ConnectError::Refused(error))) => {
                    tracing::debug!(%error, chain = self.route().chain, "an instance does not listen");
                    self.wait_for_instance(&mut patience_ends, servers.changed()).await?;
                }
                Err(AskError::Stale(turn)) if is_safe => {
                    let gone = Problem::HungUp("before it had answered, and the request's body has been read");
                    let again = make()?.ok_or(gone)?;
                    // The same instance, so that if it died of the request nobody else does.
                    return self.ask_once(turn, Age::New, again).await?.map_err(|error| self.unanswered(&error));
                }
                Err(error) => return Err(self.unanswered(&error)),
            }
            request = match make()? {
                Some(again) => again,
                None => return Err(Problem::FunctionDied),
            };
        }
    }

    fn unanswered(&self, error: &AskError) -> Problem {
        tracing::debug!(%error, chain = self.route().chain, "an instance did not answer");
        match error {
            AskError::Nonsense(_) => Problem::BadAnswer("it is not HTTP, or its head is too long"),
            AskError::Connect(ConnectError::Stranger { .. } | ConnectError::Exhausted(_)) => Problem::NoInstance,
            AskError::Stale(_) => {
                Problem::HungUp("before it had answered, and a request with this method is not sent twice")
            }
            AskError::Broken(_) => Problem::HungUp("before it had answered"),
            AskError::Connect(ConnectError::Refused(_)) => Problem::FunctionDied,
        }
    }

    /// Waits for a turn at the instance with the most room.
    async fn turn(&self, function: FunctionId) -> Result<Result<Turn, Refusal>, Problem> {
        let servers = &self.worker.shared.servers;
        let held = match servers.choose(function) {
            Ok(held) => held,
            Err(refusal) => return Ok(Err(refusal)),
        };
        // From here on it counts among what the instance has.
        drop(self.unsent.take());
        let turn = match held.turn_now() {
            Ok(turn) => Some(turn),
            Err(held) => timeout_at(self.deadline, held.turn()).await.map_err(|_| self.late())?,
        };
        // Without one the instance is gone, and another one may be there.
        Ok(turn.ok_or(Refusal::NoReplica))
    }

    /// One attempt. An instance that has not answered at the deadline has its `hangGrace` to do so, unread.
    async fn ask_once(&self, turn: Turn, age: Age, request: Asked) -> Result<Result<Answered, AskError>, Problem> {
        let head_bytes_max = self.worker.shared.settings.header_bytes_max;
        let server = Arc::clone(turn.server());
        let begun = before(self.deadline, pin!(Exchange::begin(turn, age, request, head_bytes_max))).await;
        let mut exchange = match begun.map_err(|_| self.late())? {
            Ok(exchange) => exchange,
            Err(error) => return Ok(Err(error)),
        };
        server.count_asked();
        let answered = timeout_at(self.deadline, exchange.head()).await;
        match &answered {
            Ok(Ok(_)) => server.count_answered(),
            Ok(Err(_)) => {}
            Err(_) => drop(tokio::task::spawn_local(see_whether_it_hangs(server, exchange))),
        }
        answered.map_err(|_| self.late())
    }

    /// Makes a message of an answer, and finds out where it goes.
    async fn arrive(&self, input: Input<'_>, answered: Answered, at: u16, then: Then) -> Result<Arrived, Problem> {
        let Answered { head, rest } = answered;
        let head = plain_head(head)?;
        match head.status.as_u16() {
            101 => return Err(Problem::BadAnswer("it is an upgrade (101), which only a chain of one step passes on")),
            200..600 => {}
            _ => return Err(Problem::BadAnswer("its status is none that an answer can have")),
        }
        let hop = match then {
            Then::Join => None,
            Then::Onward => self.hop(input, &head, at)?,
        };
        let PlainHead { status, block, .. } = head;
        let envelope = Envelope { status: status.as_u16(), ..input.envelope };
        match (hop, then) {
            (None, Then::Onward) => Ok(Self::for_client(envelope, block, rest)),
            (next, _) => {
                let block = if next.is_some() { next_block(input.block, &block)? } else { block };
                let head = Box::pin(self.keep(envelope, &block, rest)).await?;
                Ok(Arrived { head: Some(head), message: self.read(head)?, stream: None, next })
            }
        }
    }

    /// An answer that is the client's, whatever the chain says.
    pub(crate) fn declined(answered: Answered) -> Result<Arrived, Problem> {
        let Answered { head, rest } = answered;
        let PlainHead { status, block, .. } = plain_head(head)?;
        Ok(Self::for_client(Envelope { status: status.as_u16(), ..Envelope::default() }, block, rest))
    }

    fn for_client(envelope: Envelope, block: HeadBlock, rest: Rest) -> Arrived {
        let message = Message { envelope, block, body: BodyPlace::EMPTY };
        Arrived { head: None, message, stream: Some(Stream::Http(Box::new(rest))), next: None }
    }

    /// The step that an answer goes to; none: it is the client's.
    fn hop(&self, input: Input<'_>, head: &PlainHead, at: u16) -> Result<Option<u16>, Problem> {
        let decision = head.decision.as_deref();
        // An error replies at once, and so does whoever says so.
        if decision == Some("reply") || decision.is_none() && head.status >= StatusCode::BAD_REQUEST {
            return Ok(None);
        }
        let header = |name: &str| head.block.header(name).or_else(|| input.block.header(name));
        match self.route().after(at, decision, header) {
            Ok(Hop::Reply) => Ok(None),
            Ok(Hop::Function { step, .. } | Hop::Gateway { step }) => Ok(Some(step)),
            Err(error) => {
                tracing::debug!(%error, "a function named a step that is not offered");
                Err(Problem::BadAnswer("its `ramet-next` header names a step that the chain does not offer it"))
            }
        }
    }

    /// Takes an answer's body into slots.
    async fn keep(&self, envelope: Envelope, block: &HeadBlock, rest: Rest) -> Result<SlotRef, Problem> {
        let exact = rest.exact();
        let limits = BodyLimits {
            bytes_max: self.holdings.domain().body_quota_bytes(),
            pause_max: self.chain.settings.deadline,
            deadline: self.deadline,
        };
        let mut source = AnswerSource { rest, unread: Bytes::new(), late: self.late() };
        let taken = take_in(&self.holdings, envelope, block.as_bytes(), &mut source, exact, limits).await;
        taken.map(|(head, _)| head).map_err(|problem| match problem {
            Problem::BodyTooLarge(_) => Problem::BadAnswer("its body is longer than the memory for requests allows"),
            Problem::HeadTooLarge => Problem::BadAnswer("its headers do not fit"),
            problem => problem,
        })
    }
}

/// Whether that is done before the deadline. What is done at once needs no timer.
async fn before<F: Future>(deadline: Instant, mut work: Pin<&mut F>) -> Result<F::Output, Elapsed> {
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timeout_at(deadline, work).await,
    }
}

/// An instance has not answered in time. If it does before its grace is over, all is well with it; else it is replaced.
async fn see_whether_it_hangs(server: Arc<Server>, mut exchange: Exchange) {
    if timeout(server.info.hang_grace, exchange.head()).await.is_err() {
        server.complain();
    }
}

/// A request as the instance gets it.
fn asked(block: &HeadBlock, body: VecDeque<Bytes>) -> Result<Asked, Problem> {
    match PlainRequest::new(block, &body) {
        Some(request) => Ok(Asked::Plain(request)),
        None => request(block, Outgoing::whole(body)).map(unusual),
    }
}

fn unusual(request: Request<Outgoing>) -> Asked {
    Asked::Unusual(Box::new(request))
}

fn request(block: &HeadBlock, body: Outgoing) -> Result<Request<Outgoing>, Problem> {
    let unusable = Problem::BadAnswer("the request that it passed on cannot be written as HTTP");
    let (Ok(method), Ok(uri)) = (Method::from_bytes(block.method().as_bytes()), block.target().parse::<Uri>()) else {
        return Err(unusable);
    };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    for (name, value) in block.headers().filter(|(name, _)| *name != header::CONTENT_LENGTH) {
        let (Ok(name), Ok(value)) = (header::HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value))
        else {
            return Err(unusable);
        };
        headers.append(name, value);
    }
    if !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    Ok(request)
}

/// An answer's head, without what was for the connection.
fn plain_head(head: AnswerHead) -> Result<PlainHead, Problem> {
    match head {
        AnswerHead::Plain(head) => Ok(head),
        AnswerHead::Unusual(head) => {
            let decision = head.headers.get(NEXT_HEADER).map(|value| value.to_str().map(str::to_owned));
            let no_text = |_| Problem::BadAnswer("its `ramet-next` header is not text");
            let (status, block) = (head.status, answer_block(&head)?);
            Ok(PlainHead { status, block, decision: decision.transpose().map_err(no_text)? })
        }
    }
}

/// An answer's headers, without those that were for the connection.
fn answer_block(head: &Parts) -> Result<HeadBlock, Problem> {
    let too_many = |_| Problem::BadAnswer("its headers do not fit");
    let mut block = BlockWriter::response();
    let named: Vec<_> = head.headers.get_all(header::CONNECTION).iter().collect();
    let is_named = |name: &str| {
        let mut names = named.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        names.any(|named| named.trim().eq_ignore_ascii_case(name))
    };
    for (name, value) in head.headers.iter().filter(|(name, _)| *name != NEXT_HEADER && !is_named(name.as_str())) {
        block.header(name.as_str(), value.as_bytes()).map_err(too_many)?;
    }
    HeadBlock::parse(block.finish()).map_err(|error| bad_message(&error))
}

/// The next step's request: as this one's, with the answer's headers over its own and the answer's body.
fn next_block(request: &HeadBlock, answer: &HeadBlock) -> Result<HeadBlock, Problem> {
    let too_many = |_| Problem::BadAnswer("its headers do not fit");
    let mut block = BlockWriter::request(request.method(), request.target());
    let of_connection =
        |name: &str| matches!(name, "content-length" | "transfer-encoding" | "connection" | "keep-alive");
    let is_kept = |name: &str| !of_connection(name) && answer.header(name).is_none();
    for (name, value) in request.headers().filter(|(name, _)| is_kept(name)) {
        block.header(name, value).map_err(too_many)?;
    }
    for (name, value) in answer.headers().filter(|(name, _)| !of_connection(name)) {
        block.header(name, value).map_err(too_many)?;
    }
    HeadBlock::parse(block.finish()).map_err(|error| bad_message(&error))
}

/// An answer's body on its way into slots.
struct AnswerSource {
    rest: Rest,
    unread: Bytes,
    late: Problem,
}

impl Source for AnswerSource {
    async fn fill(
        &mut self,
        slot: &mut Slot,
        offset: usize,
        bytes_max: usize,
        limits: BodyLimits,
    ) -> Result<usize, Problem> {
        while self.unread.is_empty() {
            let piece = std::future::poll_fn(|context| self.rest.poll_piece(context));
            match timeout_at(limits.deadline, piece).await {
                Err(_) => return Err(self.late.clone()),
                Ok(None) => return Ok(0),
                Ok(Some(Err(_))) => return Err(Problem::HungUp("within its answer")),
                Ok(Some(Ok(piece))) => self.unread = piece,
            }
        }
        let bytes = self.unread.len().min(bytes_max);
        let piece = self.unread.split_to(bytes);
        slot.copy_in(offset, &piece).map_err(|_| Problem::BadAnswer("its body does not fit"))?;
        Ok(bytes)
    }
}
