//! What becomes of a message after its handler: where it goes, what its head says, where its body is.

mod placing;
mod streaming;

use std::borrow::Cow;
use std::rc::Rc;

use ramet_common::descriptor::Failure;
use ramet_common::{FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_dataplane::message::{self, BlockWriter, Envelope, FLAG_SHARED, FLAG_SUPERVISED, MessageError};
use ramet_dataplane::route::{Hop, RouteError};

use crate::body::{Body, Content, Keeper};
use crate::error::{Error, Result};
use crate::lending::BodyError;
use crate::request::BRANCH_HEADER;
use crate::response::{Onward, Response};
use crate::service::Service;

/// A head block without headers.
const EMPTY_BLOCK: &[u8] = &[0; 8];

/// Why a handler's response cannot be sent.
#[derive(Debug, thiserror::Error)]
enum OutcomeError {
    #[error("{0}")]
    Header(String),
    #[error("a response's status is 200 to 599, not {0}")]
    Status(u16),
    #[error("the request is on a version of its chain that this instance does not know")]
    UnknownRoute,
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("a call is answered, not forwarded; there is no step \"{0}\"")]
    CallForwarded(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the response's headers do not fit: {0}")]
    Head(#[from] MessageError),
    #[error("the handler has kept a body, context or reply of its request beyond its return")]
    Kept,
    #[error("the streamed body failed: {0}")]
    Source(Error),
    #[error("the streamed body panicked")]
    SourcePanicked,
}

impl OutcomeError {
    fn failure(&self) -> Failure {
        match self {
            Self::Body(error) => error.failure(),
            Self::UnknownRoute | Self::Route(RouteError::NoStep { .. }) => Failure::BadMessage,
            Self::SourcePanicked => Failure::Panicked,
            _ => Failure::FunctionError,
        }
    }
}

/// Ends a message with what its handler returned. The descriptor goes with the next flush.
pub(crate) async fn conclude(service: Rc<Service>, result: Result<Response>) {
    let response = match result {
        Ok(response) => response,
        Err(error) => {
            log(&service, &error);
            return service.fail_with(Failure::FunctionError);
        }
    };
    if service.is_cancelled() {
        drop(response);
        if is_last(&service) {
            service.fail(Failure::DeadlineExceeded);
        }
        return;
    }
    if let Err(error) = send_on(&service, response).await {
        log(&service, &error);
        // Dropping the service sends it, once nobody reads its slots any more.
        service.fail_with(error.failure());
    }
}

fn log(service: &Service, error: &dyn std::fmt::Display) {
    service.instance.log(format_args!("request {}: {error}", service.envelope.request));
}

/// Whether nobody else can reach the message's slots.
fn is_last(service: &Rc<Service>) -> bool {
    Rc::strong_count(service) == 1
}

async fn send_on(service: &Rc<Service>, mut response: Response) -> Result<(), OutcomeError> {
    if let Some(mistake) = response.headers.mistake() {
        return Err(OutcomeError::Header(mistake.to_owned()));
    }
    if !(200..600).contains(&response.status) {
        return Err(OutcomeError::Status(response.status));
    }
    let hop = next_hop(service, &response)?;
    if let Some(source) = response.source.take() {
        let to_client = service.envelope.reply_function == FunctionId::GATEWAY
            && service.envelope.flags & FLAG_SUPERVISED == 0
            && !service.is_call;
        if hop == Hop::Reply && to_client {
            return streaming::stream(service, &response, source).await;
        }
        response.body = streaming::gather(service, source).await?;
    }

    let keeps_body = is_own_body(service, &response.body);
    let block = head_block(service, &response, hop, keeps_body)?;
    let place = placing::place(service, std::mem::take(&mut response.body), block.len(service)).await?;
    if !is_last(service) {
        return Err(OutcomeError::Kept);
    }
    let envelope = next_envelope(service, response.status, hop, keeps_body);
    match (&block, &place) {
        (Block::AsItCame, _) if keeps_body && service.is_untouched() => {
            message::rewrite_envelope(&service.slot, &envelope)?;
        }
        (block, place) => {
            message::write(&service.slot, envelope, block.bytes(service), place)?;
        }
    }
    service.leave(descriptor(service, hop));
    Ok(())
}

/// Where the outcome goes. A function's own decision comes first, then the rule that an error replies at once.
fn next_hop(service: &Service, response: &Response) -> Result<Hop, OutcomeError> {
    if service.is_call {
        return match &response.onward {
            Onward::Step(step) if step != "reply" => Err(OutcomeError::CallForwarded(step.to_string())),
            _ => Ok(Hop::Reply),
        };
    }
    let decision = match &response.onward {
        Onward::Reply => return Ok(Hop::Reply),
        Onward::Chain if response.status >= 400 => return Ok(Hop::Reply),
        Onward::Chain => None,
        Onward::Step(step) => Some(&**step),
    };
    let envelope = &service.envelope;
    let route = service.instance.route(envelope.route).ok_or(OutcomeError::UnknownRoute)?;
    let header = |name: &str| response.headers.get(name).or_else(|| service.block.header(name));
    Ok(match route.after(envelope.step, decision, header)? {
        // The gateway keeps the input of a step that it supervises, so it has to see the outcome.
        Hop::Function { step, .. } if envelope.flags & FLAG_SUPERVISED != 0 => Hop::Gateway { step },
        hop => hop,
    })
}

fn is_own_body(service: &Rc<Service>, body: &Body) -> bool {
    matches!(&body.0, Content::Held(held)
        if matches!(&held.keeper, Keeper::Request(reading) if reading.is_of(service)))
}

/// The head block of the outcome.
enum Block {
    /// The request's, unchanged.
    AsItCame,
    New(Cow<'static, [u8]>),
}

impl Block {
    fn len(&self, service: &Service) -> usize {
        self.bytes(service).len()
    }

    fn bytes<'a>(&'a self, service: &'a Service) -> &'a [u8] {
        match self {
            Self::AsItCame => service.block.as_bytes(),
            Self::New(bytes) => bytes,
        }
    }
}

fn head_block(service: &Service, response: &Response, hop: Hop, keeps_body: bool) -> Result<Block, MessageError> {
    let headers = &response.headers;
    if hop == Hop::Reply {
        if headers.is_empty() {
            return Ok(Block::New(Cow::Borrowed(EMPTY_BLOCK)));
        }
        let mut block = BlockWriter::response();
        headers.write_to(&mut block)?;
        return Ok(Block::New(Cow::Owned(block.finish())));
    }
    // Headers that describe the body go along only with that body.
    let is_kept =
        |name: &str| headers.get(name).is_none() && (keeps_body || !matches!(name, "content-length" | BRANCH_HEADER));
    if headers.is_empty() && service.block.headers().all(|(name, _)| is_kept(name)) {
        return Ok(Block::AsItCame);
    }
    let mut block = BlockWriter::request(service.block.method(), service.block.target());
    for (name, value) in service.block.headers().filter(|(name, _)| is_kept(name)) {
        block.header(name, value)?;
    }
    headers.write_to(&mut block)?;
    Ok(Block::New(Cow::Owned(block.finish())))
}

fn next_envelope(service: &Service, status: u16, hop: Hop, keeps_body: bool) -> Envelope {
    let envelope =
        Envelope { flags: if keeps_body { service.envelope.flags & FLAG_SHARED } else { 0 }, ..service.envelope };
    match hop {
        Hop::Reply => Envelope { status, ..envelope },
        // A joining gateway wants to know each branch's status.
        Hop::Gateway { step } => Envelope { status, next_step: step, ..envelope },
        Hop::Function { step, .. } => Envelope { status: 0, step, ..envelope },
    }
}

fn descriptor(service: &Service, hop: Hop) -> PacketDescriptor {
    match hop {
        Hop::Reply => service.reply_descriptor(Kind::Reply),
        Hop::Function { function, .. } => service.descriptor(Kind::Request, function, InstanceId::NONE),
        Hop::Gateway { .. } => service.descriptor(Kind::Forward, FunctionId::GATEWAY, service.envelope.gateway),
    }
}
