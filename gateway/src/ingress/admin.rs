//! `/healthz`, `/readyz` and `/metrics` on the admin address.

use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::service::service_fn;

use super::answer::AnswerBody;
use super::connection::builder;
use crate::problem::Problem;
use crate::worker::Worker;

/// Serves one connection to the admin address.
pub(super) async fn serve<I>(worker: &Rc<Worker>, io: I)
where
    I: Read + Write + Unpin + 'static,
{
    let service = service_fn(|request| {
        let worker = Rc::clone(worker);
        async move { Ok::<_, Infallible>(answer(&worker, &request).await) }
    });
    if let Err(error) = builder(worker).serve_connection(io, service).await {
        tracing::debug!(%error, "an admin connection ended with an error");
    }
}

async fn answer(worker: &Worker, request: &Request<Incoming>) -> Response<AnswerBody> {
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
        return Problem::NoChain.response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Problem::MethodNotAllowed(vec!["GET".to_owned(), "HEAD".to_owned()]).response();
    }
    match path {
        "/readyz" => {
            let waiting_for = worker.shared.waiting_for();
            match waiting_for.as_slice() {
                [] => text(StatusCode::OK, "ready\n".to_owned()),
                missing => text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", missing.join(", "))),
            }
        }
        "/metrics" => text(StatusCode::OK, worker.shared.all_metrics(worker).await),
        _ => text(StatusCode::OK, "ok\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::full(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
