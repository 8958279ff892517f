//! A connection that a client and an instance use for something else than HTTP, such as WebSocket: bytes pass through,
//! both ways, each as fast as the other side reads.

use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use ramet_common::FunctionId;
use ramet_dataplane::message::HeadBlock;
use tokio::io::copy_bidirectional;
use tokio::task::spawn_local;

use super::answer::{AnswerBody, respond};
use super::request::Accepted;
use crate::conduct::Journey;
use crate::problem::Problem;
use crate::servers::{AnswerHead, Answered, Rest};

/// What the client wants to speak instead of HTTP/1.1, if it does.
pub(super) fn wanted(request: &Request<Incoming>) -> Option<HeaderValue> {
    let mut connection = request.headers().get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names_it = connection.any(|names| names.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    if names_it { request.headers().get(UPGRADE).cloned() } else { None }
}

/// Asks the instance to speak it, and passes its answer on. If that is yes, the bytes that follow pass through.
pub(super) async fn open(
    accepted: Accepted,
    block: &HeadBlock,
    function: FunctionId,
    protocol: HeaderValue,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Problem> {
    let on_upgrade = hyper::upgrade::on(&mut request);
    let answered = accepted.journey.visit_upgrade(function, block, &protocol).await?;
    let (head, rest) = match answered {
        Answered { head: AnswerHead::Unusual(head), rest } if head.status == StatusCode::SWITCHING_PROTOCOLS => {
            (head, rest)
        }
        declined => {
            let arrived = Journey::declined(declined)?;
            return respond(arrived, &accepted.journey.holdings, accepted.admission, request.method());
        }
    };
    let mut response = Response::new(AnswerBody::full(Bytes::new()));
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    spawn_local(async move {
        // Both ends of the chain's request last as long as the tunnel.
        let _admission = accepted.admission;
        pass(on_upgrade, rest).await;
    });
    Ok(response)
}

async fn pass(on_upgrade: OnUpgrade, rest: Rest) {
    let Some((mut server, _turn)) = rest.into_tunnel().await else { return };
    match on_upgrade.await {
        Ok(client) => {
            if let Err(error) = copy_bidirectional(&mut TokioIo::new(client), &mut server).await {
                tracing::debug!(%error, "a tunnel ended with an error");
            }
        }
        Err(error) => tracing::debug!(%error, "a client did not go on after the answer to its upgrade"),
    }
}
