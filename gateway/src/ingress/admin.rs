//! `/healthz`, `/readyz` and `/metrics` on the admin address.

use std::future::pending;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpStream;

use super::answer::AnswerBody;
use super::full;
use crate::problem::Problem;
use crate::worker::Worker;

/// Serves one connection to the admin address.
pub(super) async fn serve(worker: &Rc<Worker>, stream: TcpStream) {
    let answer = |request| {
        let worker = Rc::clone(worker);
        async move { answer(&worker, &request).await }
    };
    full::serve(worker, stream, BytesMut::new(), &full::Streams::default(), answer, pending()).await;
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
