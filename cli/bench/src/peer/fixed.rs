//! hyper answering by itself: the floor under the gateway.

use std::convert::Infallible;
use std::net::TcpListener;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

use crate::setting::Protocol;

/// Serves as the gateway does: one current-thread runtime for each core. Where a listener speaks one protocol, nothing
/// has to be found out about its connections.
pub(super) fn serve(
    listeners: &[(Option<Protocol>, TcpListener)],
    status: u16,
    content_type: &str,
    body: Bytes,
) -> anyhow::Result<()> {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).context("no HTTP status")?;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(content_type)?);
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let mut threads = Vec::new();
    for _ in 0..cores {
        let mut own = Vec::new();
        for (protocol, listener) in listeners {
            own.push((*protocol, listener.try_clone()?));
        }
        let answer = answer.clone();
        threads.push(std::thread::spawn(move || serve_on_this_thread(own, &answer)));
    }
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
}

fn serve_on_this_thread(
    listeners: Vec<(Option<Protocol>, TcpListener)>,
    answer: &Response<Full<Bytes>>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut serving = tokio::task::JoinSet::new();
        for (protocol, listener) in listeners {
            serving.spawn(accept(protocol, tokio::net::TcpListener::from_std(listener)?, answer.clone()));
        }
        serving.join_next().await.context("nothing to listen on")??
    })
}

async fn accept(
    protocol: Option<Protocol>,
    listener: tokio::net::TcpListener,
    answer: Response<Full<Bytes>>,
) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (stream, answer) = (TokioIo::new(stream), answer.clone());
        let service = service_fn(move |_| std::future::ready(Ok::<_, Infallible>(answer.clone())));
        tokio::spawn(async move {
            // A client that goes away is no failure of the server.
            match protocol {
                Some(Protocol::Http1 | Protocol::Http1Close) => {
                    drop(http1::Builder::new().serve_connection(stream, service).await)
                }
                Some(Protocol::H2c) => {
                    drop(http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await);
                }
                None => drop(auto::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await),
            }
        });
    }
}
