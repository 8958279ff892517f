//! A request that hyper has read, from its head to its answer.

use std::future::{Future, ready};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::future::Either;
use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use httparse::Header;
use hyper::body::Incoming;
use ramet_dataplane::Slot;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{AnswerBody, respond};
use super::intake::{BodyLimits, Source};
use super::request::{Accepted, Client, Head, WHOLE_BYTES_MAX, is_host};
use super::{full, tunnel};
use crate::chains::Chain;
use crate::conduct::Outset;
use crate::incoming;
use crate::problem::Problem;
use crate::servers::ClientBody;
use crate::worker::Worker;

/// Answers a request. Every accepted request gets exactly one answer.
///
/// What is refused at once is answered at once, and the rest is on the heap: hyper moves what is returned here around
/// once more for each request, whether it ever runs or not.
pub(super) fn answer(
    worker: &Rc<Worker>,
    client: &Client,
    stream: full::Stream,
    request: Request<Incoming>,
) -> impl Future<Output = Response<AnswerBody>> + use<> {
    let start = Instant::now();
    let table = worker.chains();
    let routed = {
        let headers = headers_of(&request);
        let head = head_of(&request, &headers);
        check(&request, head.host)
            .and_then(|()| head.chain(&table))
            .map(|chain| (Arc::clone(chain), head.accept(worker, client, chain, start)))
    };
    let on_stream = |body: AnswerBody| body.on(stream);
    match routed {
        Ok((chain, accepted)) => {
            let answered = answer_routed(chain, accepted, request, start);
            Either::Left(Box::pin(async { answered.await.map(on_stream) }))
        }
        Err(problem) => {
            worker.shared.metrics.unrouted(problem.status());
            Either::Right(ready(problem.response().map(on_stream)))
        }
    }
}

async fn answer_routed(
    chain: Arc<Chain>,
    accepted: Result<Accepted, Problem>,
    request: Request<Incoming>,
    start: Instant,
) -> Response<AnswerBody> {
    let answered = match accepted {
        Ok(accepted) => match accepted.outset() {
            Some(outset) => Box::pin(through_server(accepted, outset, request)).await,
            None if accepted.journey.begins_early() && !is_short(request.body()) => {
                Box::pin(through_chain_begun(accepted, request)).await
            }
            None => through_chain(accepted, request).await,
        },
        Err(problem) => Err(problem),
    };
    let response = answered.unwrap_or_else(|problem| {
        tracing::debug!(chain = chain.settings.route.chain, ?problem, "answered by the gateway itself");
        problem.response()
    });
    chain.counters.answered(response.status(), start.elapsed());
    response
}

async fn through_chain(accepted: Accepted, request: Request<Incoming>) -> Result<Response<AnswerBody>, Problem> {
    let method = request.method().clone();
    let awaits_continue = request.headers().contains_key(EXPECT);
    let body = request.into_body();
    accepted.journey.room().await?;
    let exact = body.size_hint().exact();
    let mut source = HyperBody { body, rest: Bytes::new() };
    let taken_in = accepted.take_in(&mut source, exact).await;
    if matches!(taken_in, Err(Problem::BodyTooLarge(_))) && !awaits_continue {
        spawn_local(discard(source.body));
    }
    let (head, envelope) = taken_in?;
    let arrived = accepted.journey.run(head, envelope).await?;
    respond(arrived, &accepted.journey.holdings, accepted.admission, &method)
}

/// The first step reads the body while the client sends it.
async fn through_server(
    accepted: Accepted,
    outset: Outset,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Problem> {
    if let Some(protocol) = tunnel::wanted(&request)
        && let Some(function) = accepted.journey.tunnels_to()
    {
        return Box::pin(tunnel::open(accepted, &outset.block, function, protocol, request)).await;
    }
    let method = request.method().clone();
    let body = body_of(&accepted, request)?;
    let arrived = accepted.journey.run_streaming(outset, body).await?;
    respond(arrived, &accepted.journey.holdings, accepted.admission, &method)
}

/// The first step begins before the client has sent all of the body.
async fn through_chain_begun(accepted: Accepted, request: Request<Incoming>) -> Result<Response<AnswerBody>, Problem> {
    let method = request.method().clone();
    let body = body_of(&accepted, request)?;
    let journey = &accepted.journey;
    journey.room().await?;
    let message = accepted.take_in_head()?;
    let (incoming, interest) =
        incoming::Incoming::begin(&journey.worker, &journey.holdings, body, accepted.pause_max());
    let arrived = journey.run_begun(message, incoming, interest).await?;
    respond(arrived, &accepted.journey.holdings, accepted.admission, &method)
}

/// A request's body to be passed on while it comes, unless it says that it is too long.
fn body_of(accepted: &Accepted, request: Request<Incoming>) -> Result<ClientBody, Problem> {
    let bytes_max = accepted.body_bytes_max();
    if request.body().size_hint().lower() > bytes_max {
        if !request.headers().contains_key(EXPECT) {
            spawn_local(discard(request.into_body()));
        }
        return Err(Problem::BodyTooLarge(bytes_max));
    }
    Ok(ClientBody::new(request.into_body(), bytes_max, accepted.pause_max()))
}

fn is_short(body: &Incoming) -> bool {
    body.size_hint().exact().is_some_and(|bytes| bytes <= WHOLE_BYTES_MAX)
}

fn headers_of(request: &Request<Incoming>) -> Vec<Header<'_>> {
    let header = |(name, value)| {
        let (name, value): (&http::HeaderName, &http::HeaderValue) = (name, value);
        Header { name: name.as_str(), value: value.as_bytes() }
    };
    request.headers().iter().map(header).collect()
}

fn head_of<'a>(request: &'a Request<Incoming>, headers: &'a [Header<'a>]) -> Head<'a> {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    };
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    Head { method: request.method().as_str(), target, host, headers }
}

fn check(request: &Request<Incoming>, host: &str) -> Result<(), Problem> {
    let without = host.is_empty() && request.version() != Version::HTTP_10;
    if without || !is_host(host) || request.headers().get_all(HOST).iter().nth(1).is_some() {
        return Err(Problem::BadHost);
    }
    // A tunnel would begin with success, and ends here.
    if request.method() == Method::CONNECT {
        return Err(Problem::NotImplemented("CONNECT"));
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Problem::NotImplemented("a transfer coding other than chunked"));
    }
    Ok(())
}

/// A body that hyper brings in pieces.
struct HyperBody {
    body: Incoming,
    rest: Bytes,
}

impl Source for HyperBody {
    async fn fill(
        &mut self,
        slot: &mut Slot,
        offset: usize,
        bytes_max: usize,
        limits: BodyLimits,
    ) -> Result<usize, Problem> {
        while self.rest.is_empty() {
            match timeout_at(limits.next_pause_ends(), self.body.frame()).await {
                Err(_) => return Err(Problem::BodyTimeout),
                Ok(None) => return Ok(0),
                Ok(Some(Err(_))) => return Err(Problem::BadBody),
                // Trailers are not passed on.
                Ok(Some(Ok(frame))) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let bytes = self.rest.len().min(bytes_max);
        slot.copy_in(offset, &self.rest[..bytes]).map_err(|_| Problem::BadBody)?;
        self.rest.advance(bytes);
        Ok(bytes)
    }
}

/// Reads what a client is still sending while it is told that it is too much: a connection that is closed on unread
/// bytes is reset, and the client would never see why.
async fn discard(mut body: Incoming) {
    const BYTES_MAX: usize = 64 << 20;
    const TIME_MAX: Duration = Duration::from_secs(2);
    let read = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BYTES_MAX {
                break;
            }
        }
    };
    // Whoever sends for longer is cut off.
    let _ = timeout(TIME_MAX, read).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_that_needs_nothing_special_takes_little_memory() {
        let bytes = bytes_of(through_chain);
        assert!(bytes <= 4096, "it takes {bytes} bytes: what few requests need belongs on the heap");
    }
}
