//! A client that speaks the version of HTTP that it is told to, over whatever carries bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ramet_tests::Answer;
use ramet_tests::wait::PATIENCE;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What a request carries.
pub(crate) type Outgoing = BoxBody<Bytes, Infallible>;

/// Which HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// A connection, ready for requests.
#[derive(Debug)]
pub(crate) enum Speaker {
    Http1(http1::SendRequest<Outgoing>),
    Http2(http2::SendRequest<Outgoing>),
}

impl Speaker {
    /// Speaks over `io`. The connection's own work is done by a task, until the runtime ends.
    pub(crate) async fn over<I>(version: Version, io: I) -> hyper::Result<Self>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Ok(Self::Http2(sender))
            }
        }
    }

    /// HTTP/2 with prior knowledge.
    pub(crate) async fn h2c(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the gateway accepts");
        Self::over(Version::Http2, stream).await.expect("an HTTP/2 connection")
    }

    /// The same connection, for a request beside those that run.
    pub(crate) fn beside(&self) -> Self {
        match self {
            Self::Http1(_) => panic!("HTTP/1.1 has one request at a time"),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }

    /// Sends a request; the answer's body is still to be read.
    pub(crate) async fn begin(&mut self, request: Request<Outgoing>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and reads all of its answer.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let request = self.request(method, path, headers, Full::new(body.into()).boxed());
        let asked = async {
            let (head, body) = self.begin(request).await?.into_parts();
            let body = body.collect().await?.to_bytes().to_vec();
            let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
            let headers = head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
            Ok::<_, hyper::Error>(Answer { status: head.status.as_u16(), headers, body })
        };
        let answer = timeout(PATIENCE, asked).await.expect("an answer in time");
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error:?}"))
    }

    /// A request in the form that the version wants.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Outgoing,
    ) -> Request<Outgoing> {
        let mut request = match self {
            Self::Http1(_) => Request::builder().uri(path).header("host", "localhost"),
            Self::Http2(_) => Request::builder().uri(format!("http://localhost{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.method(method).body(body).expect("a valid request")
    }
}

/// No body.
pub(crate) fn nothing() -> Outgoing {
    Full::new(Bytes::new()).boxed()
}

/// A body whose pieces come through a channel, and that ends with it.
#[derive(Debug)]
pub(crate) struct Fed(mpsc::Receiver<Bytes>);

impl Fed {
    pub(crate) fn channel() -> (mpsc::Sender<Bytes>, Outgoing) {
        let (sender, receiver) = mpsc::channel(1);
        (sender, Self(receiver).boxed())
    }
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A body of which some bytes come, and then never any more.
#[derive(Debug)]
pub(crate) struct Unfinished(Option<Bytes>);

impl Unfinished {
    pub(crate) fn after(bytes: &'static [u8]) -> Outgoing {
        Self(Some(Bytes::from_static(bytes))).boxed()
    }
}

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => Poll::Pending,
        }
    }
}

/// A thread of its own drives the connections, so that a test may wait for the node meanwhile.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
