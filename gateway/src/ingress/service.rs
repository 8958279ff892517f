//! One request from its head to its answer: chain, admission, body, journey, response.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONNECTION, EXPECT, HOST, HeaderMap, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, Request, Response, Version};
use hyper::body::Incoming;
use ramet_dataplane::clock;
use ramet_dataplane::message::{BlockWriter, Envelope, MessageError};
use tokio::time::Instant;

use super::answer::{AnswerBody, respond};
use super::intake::{self, BodyLimits};
use crate::chains::{Chain, ChainTable, NoChain};
use crate::conduct::Journey;
use crate::exchange::Holdings;
use crate::problem::Problem;
use crate::worker::Worker;

/// What is the same for all requests of a connection.
#[derive(Debug)]
pub(crate) struct Connection {
    peer: String,
    scheme: &'static str,
}

impl Connection {
    pub(crate) fn new(peer: SocketAddr, scheme: &'static str) -> Self {
        Self { peer: peer.ip().to_string(), scheme }
    }
}

/// Answers a request. Every accepted request gets exactly one answer, and this is where it comes from.
pub(crate) async fn answer(
    worker: Rc<Worker>,
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    let start = Instant::now();
    let table = worker.chains();
    let chain = match find_chain(&table, &request) {
        Ok(chain) => Arc::clone(chain),
        Err(problem) => {
            worker.shared.metrics.unrouted(problem.status());
            return problem.response();
        }
    };
    let response = match through_chain(&worker, &connection, &chain, request, start).await {
        Ok(response) => response,
        Err(problem) => {
            tracing::debug!(chain = chain.settings.route.chain, ?problem, "answered by the gateway itself");
            problem.response()
        }
    };
    chain.counters.answered(response.status(), start.elapsed());
    response
}

fn find_chain<'t>(table: &'t ChainTable, request: &Request<Incoming>) -> Result<&'t Arc<Chain>, Problem> {
    let host = host_of(request);
    let without = host.is_empty() && request.version() == Version::HTTP_11;
    if without || request.headers().get_all(HOST).iter().nth(1).is_some() {
        return Err(Problem::BadHost);
    }
    table.find(host, request.uri().path(), request.method().as_str()).map_err(|error| match error {
        NoChain::NotFound => Problem::NoChain,
        NoChain::MethodNotAllowed(allowed) => Problem::MethodNotAllowed(allowed),
    })
}

fn host_of(request: &Request<Incoming>) -> &str {
    match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

async fn through_chain(
    worker: &Rc<Worker>,
    connection: &Connection,
    chain: &Arc<Chain>,
    request: Request<Incoming>,
    start: Instant,
) -> Result<Response<AnswerBody>, Problem> {
    let admission = chain.admit(&worker.shared.on_idle).ok_or(Problem::TooManyRequests)?;
    let domain = worker.domain(chain.settings.route.domain).ok_or(Problem::NoInstance)?;
    let quota = domain.body_quota_bytes();
    let limits = BodyLimits {
        bytes_max: chain.settings.body_bytes_max.map_or(quota, |limit| limit.min(quota)),
        pause_max: worker.shared.settings.body_timeout,
        awaits_continue: request.headers().contains_key(EXPECT),
    };
    let block = head_block(&request, connection)?;
    let envelope = Envelope {
        route: chain.route_id(),
        deadline_ns: clock::now_ns()
            .saturating_add(u64::try_from(chain.settings.deadline.as_nanos()).unwrap_or(u64::MAX)),
        ..trace_context(request.headers())
    };
    let holdings = Holdings::new(domain);
    let method = request.method().clone();
    let deadline = start + chain.settings.deadline;
    let taken_in = intake::take_in(&holdings, envelope, &block, request.into_body(), limits);
    let (head, envelope) = match tokio::time::timeout_at(deadline, taken_in).await {
        Ok(taken_in) => taken_in?,
        Err(_) => return Err(Problem::BodyTimeout),
    };
    let journey = Journey { worker: Rc::clone(worker), chain: Arc::clone(chain), holdings, deadline };
    let arrived = journey.run(head, envelope).await?;
    respond(arrived, &journey.holdings, admission, &method)
}

/// Request line and end-to-end headers, as functions see them.
fn head_block(request: &Request<Incoming>, connection: &Connection) -> Result<Vec<u8>, Problem> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut block = BlockWriter::request(request.method().as_str(), target);
    let too_large = |_: MessageError| Problem::HeadTooLarge;
    let headers = request.headers();
    if !headers.contains_key(HOST) {
        block.header("host", host_of(request).as_bytes()).map_err(too_large)?;
    }
    for (name, value) in headers {
        if !is_hop_by_hop(name) {
            block.header(name.as_str(), value.as_bytes()).map_err(too_large)?;
        }
    }
    block.header("x-forwarded-for", connection.peer.as_bytes()).map_err(too_large)?;
    block.header("x-forwarded-proto", connection.scheme.as_bytes()).map_err(too_large)?;
    Ok(block.finish())
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    match *name {
        CONNECTION | TE | TRAILER | TRANSFER_ENCODING | UPGRADE => true,
        _ => matches!(name.as_str(), "keep-alive" | "proxy-connection" | "x-forwarded-for" | "x-forwarded-proto"),
    }
}

/// The client's W3C trace context, if it sent a valid one.
fn trace_context(headers: &HeaderMap) -> Envelope {
    let mut envelope = Envelope::default();
    let Some(value) = headers.get("traceparent").map(|value| value.as_bytes()) else { return envelope };
    // 00-<32 hex>-<16 hex>-<2 hex>
    let well_formed = value.len() == 55 && value.starts_with(b"00-") && value[35] == b'-' && value[52] == b'-';
    if well_formed
        && let (Some(trace_id), Some(span_id), Some([flags])) =
            (hex::<16>(&value[3..35]), hex::<8>(&value[36..52]), hex::<1>(&value[53..55]))
    {
        (envelope.trace_id, envelope.span_id, envelope.trace_flags) = (trace_id, span_id, flags);
    }
    envelope
}

fn hex<const BYTES: usize>(text: &[u8]) -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |character: u8| char::from(character).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_valid_trace_context_is_passed_on_and_garbage_is_not() {
        let mut headers = HeaderMap::new();
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", HeaderValue::from_static(valid));
        let envelope = trace_context(&headers);
        assert_eq!((envelope.trace_id[0], envelope.span_id[7], envelope.trace_flags), (0x0a, 0x31, 1));
        for garbage in ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333z-01", "01-short"] {
            headers.insert("traceparent", HeaderValue::from_str(garbage).expect("text"));
            assert_eq!(trace_context(&headers), Envelope::default(), "{garbage}");
        }
    }
}
