//! Asking another function in the middle of a request, and waiting for its answer.

mod builder;
mod reply;

pub use builder::Call;
pub(crate) use reply::Granted;
pub use reply::Reply;

use std::rc::Rc;

use ramet_common::descriptor::{Failure, WANT_HEAD, want_aux};
use ramet_common::{FunctionId, Kind, PacketDescriptor, RequestId, RouteId};
use ramet_dataplane::message::{self, BlockWriter, BodyPlace, Envelope, FLAG_SHARED, MessageError};
use ramet_dataplane::{SlotRef, clock};

use crate::body::{Body, Content, Home, Keeper};
use crate::delivery::{Undelivered, after};
use crate::inbox::{Expects, WaitError};
use crate::lending::{BodyError, borrow, class_and_count};
use crate::service::Service;
use crate::writer::{BodyWriter, Space};

/// Bodies up to this size travel in the call's own head slot, so that one slot is asked for instead of two.
const INLINE_MAX: usize = 48 << 10;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The manifest does not allow this function to call that one.
    #[error("function \"{wanted}\" is not among those that this one may call: {allowed}")]
    NotCallable {
        /// What was asked for.
        wanted: String,
        /// What may be.
        allowed: String,
    },
    /// The call cannot be written down.
    #[error("the call is impossible: {0}")]
    Impossible(String),
    /// There is no memory for the call.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// No instance of the function can be reached.
    #[error("no instance of function \"{0}\" can be reached")]
    Unreachable(String),
    /// All instances of the function were busy until the deadline.
    #[error("all instances of function \"{0}\" are busy")]
    Busy(String),
    /// The function failed.
    #[error("function \"{function}\" failed: {}", describe(*failure))]
    Failed {
        /// Which.
        function: String,
        /// How.
        failure: Failure,
    },
    /// The instance that had the call died.
    #[error("the instance of function \"{0}\" that had the call died")]
    Died(String),
    /// The call's timeout or the request's deadline passed.
    #[error("function \"{0}\" did not answer in time")]
    DeadlineExceeded(String),
    /// Nobody waits for this request's own answer any more.
    #[error("the request was cancelled")]
    Cancelled,
    /// The request's answer is already on its way, as a stream.
    #[error("a function cannot call another one while it streams its answer")]
    Streaming,
    /// The answer could not be understood.
    #[error("the answer of function \"{function}\" is unusable: {error}")]
    BadAnswer {
        /// Whose.
        function: String,
        /// Why.
        error: MessageError,
    },
}

fn describe(failure: Failure) -> &'static str {
    match failure {
        Failure::FunctionError => "it returned an error",
        Failure::Panicked => "it panicked",
        Failure::Unreachable => "it could not reach another function",
        Failure::Died => "it died",
        Failure::Exhausted => "shared memory is used up",
        Failure::DeadlineExceeded => "it ran out of time",
        Failure::Full => "another function was busy",
        _ => "it did not understand the call",
    }
}

/// Calls `name` on behalf of the request that `service` is.
pub(crate) async fn call(service: &Rc<Service>, name: &str, call: Call) -> Result<Reply, CallError> {
    let instance = &service.instance;
    let function = instance.callable(name).ok_or_else(|| not_callable(service, name))?;
    if service.is_settled() {
        return Err(CallError::Streaming);
    }
    if let Some(mistake) = call.headers.mistake() {
        return Err(CallError::Impossible(mistake.to_owned()));
    }
    let mut until_ns = service.envelope.deadline_ns;
    if let Some(timeout) = call.timeout {
        until_ns = until_ns.min(after(clock::now_ns(), timeout));
    }
    let impossible = |error: MessageError| CallError::Impossible(error.to_string());
    let mut block = BlockWriter::request(&call.method, &call.target);
    call.headers.write_to(&mut block).map_err(impossible)?;
    let block = block.finish();

    let baggage = pack(service, call.body, until_ns).await?;
    let id = instance.next_call();
    let granted =
        grant(service, name, id, message::inline_slot_bytes(block.len(), baggage.tail_bytes()), until_ns).await?;
    let place = baggage.place(&granted, block.len()).map_err(impossible)?;
    let envelope = Envelope {
        generation: granted.head.generation,
        request: id,
        route: RouteId(0),
        deadline_ns: until_ns,
        reply_function: instance.function,
        reply_instance: instance.id,
        flags: if baggage.is_shared() { FLAG_SHARED } else { 0 },
        status: 0,
        step: 0,
        next_step: 0,
        ..service.envelope
    };
    message::write(&granted.slot, envelope, &block, &place).map_err(impossible)?;
    // A shared body stays in `baggage`, and with it in this function's hands, until the callee is done with it.
    exchange(service, name, function, granted, until_ns).await
}

/// Asks the gateway for a head slot of at least `bytes`.
async fn grant(
    service: &Rc<Service>,
    name: &str,
    id: RequestId,
    bytes: usize,
    until_ns: u64,
) -> Result<Rc<Granted>, CallError> {
    let instance = &service.instance;
    let Some((class, 1)) = class_and_count(instance.pool.layout(), bytes) else {
        return Err(CallError::Body(BodyError::TooLarge { bytes: bytes as u64 }));
    };
    let ticket = instance.expect(service, id, Expects::Grant, until_ns);
    let want = service.descriptor(Kind::Want, FunctionId::GATEWAY, service.envelope.gateway);
    let want = PacketDescriptor { request: id, ..want }.with_aux(want_aux(WANT_HEAD, class as u16));
    instance.deliver(&want, until_ns).await.map_err(|_| CallError::Body(BodyError::Unreachable))?;
    let granted = ticket.await.map_err(|error| match error {
        WaitError::Sorry(_) => CallError::Body(BodyError::Exhausted { bytes: bytes as u64 }),
        error => in_vain(error, name),
    })?;
    let head = granted.first().map(|grant| SlotRef { slot: grant.slot, generation: grant.generation });
    let slot = head.and_then(|head| instance.pool.slot(head.slot));
    let (Some(head), Some(slot)) = (head, slot) else { return Err(CallError::Body(BodyError::Unreachable)) };
    Ok(Rc::new(Granted::new(Rc::clone(service), head, slot, id)))
}

/// Sends the call and waits for what comes back.
async fn exchange(
    service: &Rc<Service>,
    name: &str,
    function: FunctionId,
    granted: Rc<Granted>,
    until_ns: u64,
) -> Result<Reply, CallError> {
    let instance = &service.instance;
    let ticket = instance.expect(service, granted.call, Expects::Answer(granted.head), until_ns);
    let SlotRef { slot, generation } = granted.head;
    let descriptor = PacketDescriptor::new(Kind::Call, function, slot, generation, granted.call);
    instance.deliver(&descriptor, until_ns).await.map_err(|undelivered| match undelivered {
        Undelivered::Full => CallError::Busy(name.to_owned()),
        _ => CallError::Unreachable(name.to_owned()),
    })?;
    granted.is_away();
    let got = ticket.await.map_err(|error| in_vain(error, name))?;
    granted.is_back();
    match got.first() {
        Some(answer) if answer.kind() == Some(Kind::Reply) => {
            Reply::read(granted).map_err(|error| CallError::BadAnswer { function: name.to_owned(), error })
        }
        Some(failed) => Err(CallError::Failed { function: name.to_owned(), failure: Failure::from_u32(failed.aux) }),
        None => Err(CallError::Died(name.to_owned())),
    }
}

fn not_callable(service: &Service, wanted: &str) -> CallError {
    let names: Vec<_> = service.instance.callable.iter().map(|(name, _)| name.as_str()).collect();
    let allowed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    CallError::NotCallable { wanted: wanted.to_owned(), allowed }
}

fn in_vain(error: WaitError, name: &str) -> CallError {
    match error {
        WaitError::Sorry(Failure::Died) => CallError::Died(name.to_owned()),
        WaitError::Sorry(failure) => CallError::Failed { function: name.to_owned(), failure },
        WaitError::DeadlineExceeded => CallError::DeadlineExceeded(name.to_owned()),
        WaitError::Cancelled => CallError::Cancelled,
        WaitError::Closed => CallError::Unreachable(name.to_owned()),
    }
}

/// The body of a call, on its way into the call's message.
enum Baggage {
    /// To be copied behind the call's head block.
    Inline(Body),
    /// In slots that the message names, with the body that keeps them, if it came with the request.
    Parts(Vec<message::Part>, Option<Body>),
}

impl Baggage {
    fn tail_bytes(&self) -> usize {
        match self {
            Self::Inline(body) => body.len() as usize,
            Self::Parts(parts, _) => size_of_val(parts.as_slice()),
        }
    }

    fn is_shared(&self) -> bool {
        matches!(self, Self::Parts(_, Some(_)))
    }

    /// Puts the body where the message in the granted slot will say it is.
    fn place(&self, granted: &Granted, block_bytes: usize) -> Result<BodyPlace, MessageError> {
        let body = match self {
            Self::Parts(parts, _) => return Ok(BodyPlace::Parts(parts.clone())),
            Self::Inline(body) if body.is_empty() => return Ok(BodyPlace::EMPTY),
            Self::Inline(body) => body,
        };
        let bytes = body.len() as usize;
        let slot = &granted.slot;
        let too_large = MessageError::TooLarge { needed: block_bytes + bytes, available: slot.bytes() };
        let offset = message::inline_offset(slot.bytes(), block_bytes, bytes).ok_or(too_large.clone())?;
        let mut at = offset;
        for chunk in body.chunks() {
            slot.copy_in(at, chunk).map_err(|_| too_large.clone())?;
            at += chunk.len();
        }
        Ok(BodyPlace::Inline { offset, bytes })
    }
}

/// Finds the way for a call's body with the fewest copies: none if it is in slots of this request already.
async fn pack(service: &Rc<Service>, body: Body, until_ns: u64) -> Result<Baggage, BodyError> {
    if let Content::Held(held) = &body.0
        && let Keeper::Request(reading) = &held.keeper
        && reading.is_of(service)
    {
        let part = |piece: &crate::body::Piece| match piece.home {
            Home::Part(SlotRef { slot, generation }) => {
                Some(message::Part { slot, generation, offset: piece.offset as u32, bytes: piece.bytes as u32 })
            }
            Home::Head => None,
        };
        if let Some(parts) = held.pieces.iter().map(part).collect::<Option<Vec<_>>>() {
            return Ok(Baggage::Parts(parts, Some(body)));
        }
    }
    match body {
        Body(Content::Written(writer)) if matches!(writer.space, Space::Lent(_)) && !writer.is_empty() => {
            Ok(Baggage::Parts(writer.into_parts(), None))
        }
        body if body.len() <= INLINE_MAX as u64 => Ok(Baggage::Inline(body)),
        body => Ok(Baggage::Parts(copied(service, &body, until_ns).await?.into_parts(), None)),
    }
}

/// A copy of a body in slots lent for it.
pub(crate) async fn copied(service: &Rc<Service>, body: &Body, until_ns: u64) -> Result<BodyWriter, BodyError> {
    use std::io::Write;
    let bytes = usize::try_from(body.len()).map_err(|_| BodyError::TooLarge { bytes: body.len() })?;
    let mut writer = BodyWriter::new(Space::Lent(borrow(service, bytes, until_ns).await?), bytes);
    for chunk in body.chunks() {
        writer.write_all(chunk).map_err(|_| BodyError::TooLarge { bytes: body.len() })?;
    }
    Ok(writer)
}
