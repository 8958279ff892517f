//! hyper answering by itself: the floor under the gateway, which is hyper too.

use std::convert::Infallible;
use std::net::TcpListener;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Serves as the gateway does: one current-thread runtime for each core.
pub(super) fn serve(listener: &TcpListener, status: u16, content_type: &str, body: Bytes) -> anyhow::Result<()> {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).context("no HTTP status")?;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_str(content_type)?);
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            let (listener, answer) = (listener.try_clone()?, answer.clone());
            anyhow::Ok(std::thread::spawn(move || serve_on_this_thread(listener, answer)))
        })
        .collect::<Result<_, _>>()?;
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
}

fn serve_on_this_thread(listener: TcpListener, answer: Response<Full<Bytes>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let answer = answer.clone();
            tokio::spawn(async move {
                let service = service_fn(|_| std::future::ready(Ok::<_, Infallible>(answer.clone())));
                // A client that goes away is no failure of the server.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}
