//! Takes a request through the steps of its chain. Plain steps pass it on among themselves (DFR): the gateway sends
//! once and receives once. Supervised steps (timeout, retries, parallel) are each sent and received here, with the
//! input kept.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use ramet_common::descriptor::Failure;
use ramet_common::{FunctionId, Refusal};
use ramet_dataplane::message::{
    self, BlockWriter, BodyPlace, Envelope, FLAG_SHARED, FLAG_STREAMED, FLAG_SUPERVISED, HeadBlock, Message,
    MessageError, Part,
};
use ramet_dataplane::route::{Hop, Step, Work};
use ramet_dataplane::{Route, SlotRef};
use tokio::time::{Instant, timeout, timeout_at};

use crate::chains::Chain;
use crate::exchange::Holdings;
use crate::flight::Outcome;
use crate::incoming::{Incoming, Interest};
use crate::problem::Problem;
use crate::room::{Out, Unsent};
use crate::servers::{ClientBody, Rest};
use crate::visit::Then;
use crate::worker::{Departed, Worker};

/// The header that tells a fan-in function where each branch's answer is in the body.
const BRANCH_HEADER: &str = "ramet-branch";

/// How long a request waits for a first instance, if its deadline allows.
const INSTANCE_WAIT: Duration = Duration::from_secs(5);

/// How often a waiting request tries again without having heard of a new instance.
const INSTANCE_RETRY: Duration = Duration::from_millis(100);

/// A request on its way through a chain.
pub(crate) struct Journey {
    pub(crate) worker: Rc<Worker>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) deadline: Instant,
    /// From when it sets out until its first message is sent.
    pub(crate) unsent: Cell<Option<Unsent>>,
    /// The request's body, until it goes to the first function that is given it while it comes.
    pub(crate) incoming: Cell<Option<Rc<Incoming>>>,
}

/// A message that has come back.
pub(crate) struct Arrived {
    /// Where it is; an answer that is not in a slot has none, and no next step.
    pub(crate) head: Option<SlotRef>,
    pub(crate) message: Message,
    /// Present when the body, or more of it, is still coming.
    pub(crate) stream: Option<Stream>,
    pub(crate) next: Option<u16>,
}

/// Where the rest of a body comes from.
pub(crate) enum Stream {
    /// Chunks in lent slots.
    Chunks(Departed),
    /// A connection to an instance that serves HTTP by itself.
    Http(Box<Rest>),
}

/// A request whose first step is given the body while it comes.
pub(crate) struct Outset {
    pub(crate) block: HeadBlock,
    pub(crate) envelope: Envelope,
    pub(crate) function: FunctionId,
}

impl Arrived {
    /// How long the body is, where that is known.
    pub(crate) fn exact_bytes(&self) -> Option<u64> {
        match &self.stream {
            None => Some(self.message.body.bytes()),
            Some(Stream::Chunks(_)) => None,
            Some(Stream::Http(rest)) => rest.exact(),
        }
    }
}

impl Journey {
    /// Runs the chain on the message in `head`, to the answer.
    pub(crate) async fn run(&self, head: SlotRef, envelope: Envelope) -> Result<Arrived, Problem> {
        let _out = self.set_out().await?;
        self.run_from(head, envelope, 0).await
    }

    /// The same for a request whose first step reads the body while the client sends it.
    pub(crate) async fn run_streaming(&self, outset: Outset, body: ClientBody) -> Result<Arrived, Problem> {
        let _out = self.set_out().await?;
        let arrived = Box::pin(self.visit_first(outset, body)).await?;
        self.run_after(arrived).await
    }

    /// The same for a request whose first step is given all of a body that is in no slot.
    pub(crate) async fn run_whole(&self, outset: Outset, body: Bytes) -> Result<Arrived, Problem> {
        let _out = self.set_out().await?;
        let arrived = self.visit_with(outset, body).await?;
        self.run_after(arrived).await
    }

    async fn run_after(&self, arrived: Arrived) -> Result<Arrived, Problem> {
        match (arrived.head, arrived.next) {
            (Some(head), Some(next)) => Box::pin(self.run_from(head, arrived.message.envelope, next)).await,
            _ => Ok(arrived),
        }
    }

    /// The same for a request whose first function begins before the body is whole.
    pub(crate) async fn run_begun(
        &self,
        (head, envelope): (SlotRef, Envelope),
        incoming: Rc<Incoming>,
        interest: Interest,
    ) -> Result<Arrived, Problem> {
        self.incoming.set(Some(incoming));
        let mut arrived = self.run(head, envelope).await?;
        if let Some(Stream::Chunks(departed)) = &mut arrived.stream {
            departed.keep(interest);
        }
        Ok(arrived)
    }

    /// Waits until there is room for the request at all functions of the chain, before it gets a slot.
    pub(crate) async fn room(&self) -> Result<(), Problem> {
        if self.chain.room(self.deadline).await { Ok(()) } else { Err(self.crowded()) }
    }

    /// The same at last, when it is about to be sent.
    pub(crate) async fn set_out(&self) -> Result<Out, Problem> {
        let (out, unsent) = self.chain.set_out(self.deadline).await.ok_or_else(|| self.crowded())?;
        self.unsent.set(Some(unsent));
        Ok(out)
    }

    fn crowded(&self) -> Problem {
        if Instant::now() >= self.deadline { self.late() } else { Problem::Overloaded }
    }

    /// The function of the first step, if it can be given the body while it comes: it serves HTTP by itself, and nobody
    /// may want to send it the body once more.
    pub(crate) fn streams_to(&self) -> Option<FunctionId> {
        match self.step(0) {
            Ok(step @ Step { work: Work::Function(function), .. }) if !step.is_supervised() => {
                self.route().serves_http(*function).then_some(*function)
            }
            _ => None,
        }
    }

    /// Whether the first step's function may begin before the body is whole: it says so, and nobody may want to send it
    /// the body once more.
    pub(crate) fn begins_early(&self) -> bool {
        let is_such = |function| self.route().streamed.contains(function) && !self.route().serves_http(*function);
        matches!(self.step(0), Ok(step) if !step.is_supervised()
            && matches!(&step.work, Work::Function(function) if is_such(function)))
    }

    /// The function of a chain's only step, if it may speak something else than HTTP with the client.
    pub(crate) fn tunnels_to(&self) -> Option<FunctionId> {
        self.streams_to().filter(|_| self.route().steps.len() == 1)
    }

    async fn run_from(&self, head: SlotRef, envelope: Envelope, at: u16) -> Result<Arrived, Problem> {
        let (mut head, mut envelope, mut at) = (head, envelope, at);
        // The graph has no cycles, so a message that takes more hops than there are steps was misled by a function.
        for _ in 0..=self.route().steps.len() {
            let step = self.step(at)?;
            let arrived = match &step.work {
                Work::Function(function) if !step.is_supervised() && !self.route().serves_http(*function) => {
                    envelope.flags = 0;
                    self.fly(head, envelope, at, *function).await?
                }
                // On the heap, or every request would be as large as the few that need this.
                _ => Box::pin(self.take_step(head, step, at)).await?,
            };
            match (arrived.head, arrived.next) {
                (Some(next_head), Some(next)) => (head, envelope, at) = (next_head, arrived.message.envelope, next),
                _ => return Ok(arrived),
            }
        }
        Err(Problem::BadAnswer("it sent the request round in circles"))
    }

    /// A step that takes more than one message out and one back.
    async fn take_step(&self, head: SlotRef, step: &Step, at: u16) -> Result<Arrived, Problem> {
        let input = self.read(head)?;
        match &step.work {
            Work::Function(function) if !step.is_supervised() => {
                self.visit(&input, head, at, *function, Then::Onward).await
            }
            Work::Function(function) => self.attempts(&input, head, step, at, *function, Then::Onward).await,
            Work::Parallel(branches) => {
                let all =
                    branches.iter().map(|branch| self.attempts(&input, head, step, at, branch.function, Then::Join));
                let arrived = try_join_all(all).await?;
                let named: Vec<_> = branches.iter().map(|branch| branch.name.as_str()).zip(arrived).collect();
                self.fan_in(&input, &named, at)
            }
        }
    }

    pub(crate) fn late(&self) -> Problem {
        Problem::DeadlineExceeded(self.chain.settings.deadline)
    }

    pub(crate) fn route(&self) -> &Route {
        &self.chain.settings.route
    }

    fn step(&self, at: u16) -> Result<&Step, Problem> {
        self.route().step(at).map_err(|_| Problem::BadAnswer("it named a step that the chain does not have"))
    }

    /// Sends the message in `head` to an instance of `function` and waits for what comes back.
    async fn fly(&self, head: SlotRef, envelope: Envelope, at: u16, function: FunctionId) -> Result<Arrived, Problem> {
        let (mut patience_ends, incoming) = (None, self.incoming.take());
        let streamed = if incoming.is_some() { FLAG_STREAMED } else { 0 };
        loop {
            let slot = self.holdings.slot(head.slot).ok_or(Problem::BadAnswer("its slot is not in the pool"))?;
            let departed =
                self.worker.depart(&self.holdings, head, (function, self.unsent.take()), self.deadline, |id| {
                    let envelope = Envelope {
                        request: id,
                        step: at,
                        generation: head.generation,
                        reply_function: FunctionId::GATEWAY,
                        reply_instance: self.worker.instance,
                        gateway: self.worker.instance,
                        flags: envelope.flags | streamed,
                        ..envelope
                    };
                    if let Some(incoming) = &incoming {
                        self.worker.with_flight(id, |flight| flight.incoming = Some(Rc::clone(incoming)));
                    }
                    message::rewrite_envelope(&slot, &envelope).map_err(|error| bad_message(&error))
                })?;
            match departed.outcome().await {
                Outcome::Reply { more } => {
                    let message = self.answer(head)?;
                    let stream = more.then_some(Stream::Chunks(departed));
                    return Ok(Arrived { head: Some(head), message, stream, next: None });
                }
                Outcome::Forward => {
                    let message = self.read(head)?;
                    let next = Some(message.envelope.next_step);
                    return Ok(Arrived { head: Some(head), message, stream: None, next });
                }
                // Whoever waits for something in a function sees the deadline, too, and may do so first.
                Outcome::Failed(_) if Instant::now() >= self.deadline => return Err(self.late()),
                Outcome::Failed(failure) => {
                    let of_client = incoming.and_then(|incoming| incoming.problem());
                    return Err(of_client.unwrap_or_else(|| failed(failure)));
                }
                Outcome::Died => return Err(Problem::FunctionDied),
                Outcome::Late => return Err(self.late()),
                Outcome::Refused(Refusal::NoReplica | Refusal::EdgeDenied | Refusal::Unreachable) => {
                    self.wait_for_instance(&mut patience_ends, self.worker.instance_joined()).await?;
                }
                Outcome::Refused(Refusal::Full) => return Err(Problem::Overloaded),
                Outcome::Refused(refusal) => {
                    tracing::error!(?refusal, chain = self.route().chain, "the data plane refused the gateway");
                    return Err(Problem::NoInstance);
                }
            }
        }
    }

    /// Waits for an instance of a function that has none, until `change` says that there may be one. The first wait
    /// begins a request's patience.
    pub(crate) async fn wait_for_instance(
        &self,
        patience_ends: &mut Option<Instant>,
        change: impl Future<Output = ()>,
    ) -> Result<(), Problem> {
        let now = Instant::now();
        if now >= self.deadline {
            return Err(self.late());
        }
        if now >= *patience_ends.get_or_insert(now + INSTANCE_WAIT) {
            return Err(Problem::NoInstance);
        }
        // Either way the next attempt decides: the wait only keeps it from being busy.
        let retry_at = self.deadline.min(now + INSTANCE_RETRY);
        let _ = timeout_at(retry_at, change).await;
        Ok(())
    }

    /// Runs one function under supervision: each attempt on a head of its own, the input untouched.
    async fn attempts(
        &self,
        input: &Message,
        input_head: SlotRef,
        step: &Step,
        at: u16,
        function: FunctionId,
        then: Then,
    ) -> Result<Arrived, Problem> {
        let mut left = step.retries;
        loop {
            let attempt = async {
                if self.route().serves_http(function) {
                    // It reads the body from where it is, and can write nothing there.
                    return self.visit(input, input_head, at, function, then).await;
                }
                let (head, envelope) = self.copy_of(input, input_head)?;
                let envelope = Envelope { flags: FLAG_SHARED | FLAG_SUPERVISED, ..envelope };
                self.fly(head, envelope, at, function).await
            };
            match within(step.timeout, pin!(attempt)).await {
                Ok(arrived) => return Ok(arrived),
                Err(problem) if left == 0 || !may_be_retried(&problem) => return Err(problem),
                Err(problem) if Instant::now() >= self.deadline => return Err(problem),
                Err(problem) => {
                    tracing::info!(chain = self.route().chain, step = step.name, ?problem, "an attempt failed; again");
                    left -= 1;
                }
            }
        }
    }

    /// A head of its own for one attempt, whose body is the input's, shared.
    fn copy_of(&self, input: &Message, input_head: SlotRef) -> Result<(SlotRef, Envelope), Problem> {
        let parts = parts_of(input, input_head);
        self.new_head(input.envelope, input.block.as_bytes(), parts)
    }

    fn new_head(&self, envelope: Envelope, block: &[u8], parts: Vec<Part>) -> Result<(SlotRef, Envelope), Problem> {
        let needed = message::inline_slot_bytes(block.len(), parts.len() * size_of::<Part>());
        let head = self.holdings.allocate_bytes(needed).ok_or(Problem::PoolExhausted)?;
        let slot = self.holdings.slot(head.slot).ok_or(Problem::PoolExhausted)?;
        let envelope = Envelope { generation: head.generation, ..envelope };
        let body = if parts.is_empty() { BodyPlace::EMPTY } else { BodyPlace::Parts(parts) };
        let envelope = message::write(&slot, envelope, block, &body).map_err(|error| bad_message(&error))?;
        Ok((head, envelope))
    }

    /// Joins the branches' answers into one message for the next step: the request's headers, one header per branch,
    /// and the bodies one after the other.
    fn fan_in(&self, input: &Message, branches: &[(&str, Arrived)], at: u16) -> Result<Arrived, Problem> {
        let mut writer = BlockWriter::request(input.block.method(), input.block.target());
        for (name, value) in input.block.headers() {
            writer.header(name, value).map_err(|error| bad_message(&error))?;
        }
        let mut parts = Vec::new();
        for (name, arrived) in branches {
            if arrived.stream.is_some() {
                return Err(Problem::BadAnswer("a parallel branch cannot stream"));
            }
            let bytes = arrived.message.body.bytes();
            let value = format!("{name};status={};bytes={bytes}", arrived.message.envelope.status);
            writer.header(BRANCH_HEADER, value.as_bytes()).map_err(|error| bad_message(&error))?;
            parts.extend(arrived.head.map(|head| parts_of(&arrived.message, head)).unwrap_or_default());
        }
        let (head, _) = self.new_head(input.envelope, &writer.finish(), parts)?;
        let message = self.read(head)?;
        let hop = self.route().after(at, None, |name| input.block.header(name));
        match hop {
            Ok(Hop::Gateway { step } | Hop::Function { step, .. }) => {
                Ok(Arrived { head: Some(head), message, stream: None, next: Some(step) })
            }
            Ok(Hop::Reply) | Err(_) => Err(Problem::BadAnswer("a parallel step must be followed by one that joins")),
        }
    }

    /// The message in `head`, checked: every part belongs to this request.
    pub(crate) fn read(&self, head: SlotRef) -> Result<Message, Problem> {
        let slot = self.holdings.slot(head.slot).ok_or(Problem::BadAnswer("its slot is not in the pool"))?;
        let message = Message::read(&slot, head.generation, self.holdings.domain().pool.layout())
            .map_err(|error| bad_message(&error))?;
        if let BodyPlace::Parts(parts) = &message.body {
            let owned = |part: &Part| self.holdings.owns(SlotRef { slot: part.slot, generation: part.generation });
            if !parts.iter().all(owned) {
                return Err(Problem::BadAnswer("its body names memory of another request"));
            }
        }
        Ok(message)
    }

    fn answer(&self, head: SlotRef) -> Result<Message, Problem> {
        let message = self.read(head)?;
        if (200..600).contains(&message.envelope.status) {
            Ok(message)
        } else {
            Err(Problem::BadAnswer("its status is none that an answer can have"))
        }
    }
}

/// The body as parts, also where it is inline.
fn parts_of(message: &Message, head: SlotRef) -> Vec<Part> {
    match &message.body {
        BodyPlace::Parts(parts) => parts.clone(),
        BodyPlace::Inline { bytes: 0, .. } => Vec::new(),
        BodyPlace::Inline { offset, bytes } => {
            vec![Part { slot: head.slot, generation: head.generation, offset: *offset as u32, bytes: *bytes as u32 }]
        }
    }
}

async fn within<T>(limit: Option<Duration>, attempt: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    match limit {
        None => attempt.await,
        Some(limit) => timeout(limit, attempt).await.unwrap_or(Err(Problem::DeadlineExceeded(limit))),
    }
}

fn may_be_retried(problem: &Problem) -> bool {
    matches!(
        problem,
        Problem::FunctionDied
            | Problem::HungUp(_)
            | Problem::FunctionFailed(_)
            | Problem::BadAnswer(_)
            | Problem::DeadlineExceeded(_)
            | Problem::Overloaded
            | Problem::NoInstance
    )
}

fn failed(failure: Failure) -> Problem {
    match failure {
        Failure::FunctionError => Problem::FunctionFailed("returned an error"),
        Failure::Panicked => Problem::FunctionFailed("panicked"),
        Failure::Died => Problem::FunctionDied,
        Failure::Exhausted => Problem::PoolExhausted,
        Failure::Full => Problem::Overloaded,
        Failure::Unreachable => Problem::NoInstance,
        _ => Problem::BadAnswer("it could not make sense of its message"),
    }
}

pub(crate) fn bad_message(error: &MessageError) -> Problem {
    match error {
        MessageError::TooLarge { .. } => Problem::HeadTooLarge,
        MessageError::Version { .. } => Problem::BadAnswer("it is of another layout version"),
        MessageError::Stale => Problem::BadAnswer("it belongs to another message"),
        MessageError::Malformed(what) => Problem::BadAnswer(what),
    }
}
