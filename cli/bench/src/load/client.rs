//! A client of either protocol, as exchanges see it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::connection::{Connection, NoAnswer, connect};
use crate::setting::Protocol;

/// How many requests are in flight on one HTTP/2 connection.
const STREAMS_PER_CONNECTION: usize = 32;

/// One request at a time.
#[derive(Debug)]
pub(crate) enum Client {
    /// On a connection of its own, or a new one for each.
    Http1 { connection: Box<Connection>, closes: bool },
    /// On one that it shares.
    H2c(http2::SendRequest<Full<Bytes>>),
}

/// Opens clients.
#[derive(Debug)]
pub(super) struct Clients {
    address: SocketAddr,
    protocol: Protocol,
    opened: usize,
    shared: Option<http2::SendRequest<Full<Bytes>>>,
}

/// A request in the forms of all protocols, made once.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    http1: Vec<u8>,
    /// Where in it the body begins.
    body_at: usize,
    /// The same for a connection that has no other.
    closing: Vec<u8>,
    h2c: Request<Full<Bytes>>,
}

impl Clients {
    pub(super) fn new(address: SocketAddr, protocol: Option<Protocol>) -> Self {
        Self { address, protocol: protocol.unwrap_or(Protocol::Http1), opened: 0, shared: None }
    }

    pub(super) async fn next(&mut self) -> Result<Client, NoAnswer> {
        if self.protocol != Protocol::H2c {
            let connection = Box::new(Connection::open(self.address).await?);
            return Ok(Client::Http1 { connection, closes: self.protocol == Protocol::Http1Close });
        }
        let sender = match &self.shared {
            Some(sender) if !self.opened.is_multiple_of(STREAMS_PER_CONNECTION) => sender.clone(),
            _ => {
                let stream = TokioIo::new(connect(self.address).await?);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                // It ends with its last sender, and its failure is that of the requests on it.
                tokio::spawn(connection);
                sender
            }
        };
        self.shared = Some(sender.clone());
        self.opened += 1;
        Ok(Client::H2c(sender))
    }
}

impl Client {
    /// Sends the request and reads its answer: `body` is given the body's bytes in order; the status is returned.
    pub(super) async fn exchange(&mut self, request: &Prepared, mut body: impl FnMut(&[u8])) -> Result<u16, NoAnswer> {
        let sender = match self {
            Self::Http1 { connection, closes: true } => return connection.exchange(&request.closing, body).await,
            Self::Http1 { connection, closes: false } => return connection.exchange(&request.http1, body).await,
            Self::H2c(sender) => sender,
        };
        sender.ready().await?;
        let mut answer = sender.send_request(request.h2c.clone()).await?;
        let status = answer.status().as_u16();
        while let Some(frame) = answer.body_mut().frame().await {
            if let Some(data) = frame?.data_ref() {
                body(data);
            }
        }
        Ok(status)
    }
}

impl Prepared {
    /// A POST if there is a body, and a GET otherwise.
    pub(super) fn new(address: SocketAddr, host: &str, path: &str, body: Option<Vec<u8>>) -> Self {
        let head = match &body {
            None => format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n"),
            Some(body) => format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Length: {}\r\n",
                body.len()
            ),
        };
        let with = |end: &str| [head.as_bytes(), end.as_bytes(), body.as_deref().unwrap_or_default()].concat();
        let (http1, closing) = (with("\r\n"), with("Connection: close\r\n\r\n"));
        let body_at = http1.len() - body.as_ref().map_or(0, Vec::len);
        let mut h2c = Request::new(Full::new(Bytes::from(body.clone().unwrap_or_default())));
        if body.is_some() {
            *h2c.method_mut() = http::Method::POST;
        }
        *h2c.version_mut() = Version::HTTP_2;
        // What cannot be a URI is refused by the server in the other form, and by nobody in this one.
        *h2c.uri_mut() = format!("http://{address}{path}").parse().unwrap_or_default();
        Self { http1, body_at, closing, h2c }
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.http1[self.body_at..]
    }
}
