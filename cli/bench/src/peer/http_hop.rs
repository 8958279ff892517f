//! A function in a chain over HTTP, as lean as hyper allows: whatever ramet is measured against must be hard to beat.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::address::Address;
use super::next::{Answer, Next};
use super::pieces::Pieces;

/// Serves on one thread, as an instance of a function does.
pub(super) fn serve(listener: TcpListener, next: Option<Address>) -> anyhow::Result<()> {
    let next = next.map(Next::new).transpose()?.map(Arc::new);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        match &next {
            None => accept(listener, None).await,
            Some(own) => tokio::select! {
                outcome = accept(listener, next.clone()) => outcome,
                outcome = own.farewell() => Ok(outcome?),
            },
        }
    })
}

async fn accept(listener: tokio::net::TcpListener, next: Option<Arc<Next>>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let next = next.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(next.clone(), request));
            // A client that goes away is no failure of the server.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Takes the whole body in, as a function must that works on it, and hands it on without copying.
async fn answer(next: Option<Arc<Next>>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let answered = async {
        let body = Pieces::collect(request.into_body()).await?;
        match next {
            None => Ok(Response::new(Either::Right(Either::Left(body)))),
            Some(next) => next.call(body).await,
        }
    };
    let answer: anyhow::Result<Answer> = answered.await;
    Ok(answer.unwrap_or_else(|error| {
        let mut answer = Response::new(Either::Right(Either::Right(Full::from(format!("{error:#}")))));
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    }))
}

/// An HTTP server, with the connections to it that are open.
#[derive(Debug)]
pub(super) struct NextHttp {
    address: SocketAddr,
    host: HeaderValue,
    open: Mutex<Vec<SendRequest<Pieces>>>,
}

impl NextHttp {
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self { address, host: HeaderValue::try_from(address.to_string())?, open: Mutex::default() })
    }

    pub(super) async fn call(&self, body: Pieces) -> anyhow::Result<Response<Incoming>> {
        let mut sender = match self.take_ready() {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request =
            Request::post("/").header(HOST, &self.host).header(CONTENT_TYPE, "application/octet-stream").body(body)?;
        let response = sender.send_request(request).await?;
        // It becomes ready again once the answer's body has been read.
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        Ok(response)
    }

    /// A connection on which no request is under way.
    fn take_ready(&self) -> Option<SendRequest<Pieces>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|sender| !sender.is_closed());
        let ready = open.iter().position(SendRequest::is_ready)?;
        Some(open.swap_remove(ready))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Pieces>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its failure is that of the request it carries.
        tokio::spawn(connection);
        Ok(sender)
    }
}
