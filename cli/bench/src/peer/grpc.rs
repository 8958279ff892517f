//! Functions that are called by gRPC: tonic, with bodies as they are, so that nothing is spent on making messages of
//! them.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::address::Address;
use super::next::Next;

const PATH: &str = "/ramet.bench.Hop/Call";
/// Longer than any payload that can be asked for.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Room for a large body to come without a pause.
const WINDOW_BYTES: u32 = 4 << 20;

/// Serves on one thread, as an instance of a function does.
pub(super) fn serve(listener: TcpListener, next: Option<Address>) -> anyhow::Result<()> {
    let next = match next.map(Next::new).transpose()? {
        None => None,
        Some(Next::Grpc(next)) => Some(Arc::new(*next)),
        Some(other) => bail!("{other:?} is not called by gRPC"),
    };
    let call = move |request: Request<Bytes>| {
        let next = next.clone();
        async move {
            match next {
                None => Ok(Response::new(request.into_inner())),
                Some(next) => next.call(request.into_inner()).await.map(Response::new).map_err(failed),
            }
        }
    };
    let service = tower::service_fn(move |request| {
        let call = tower::service_fn(call.clone());
        async move {
            let mut grpc = tonic::server::Grpc::new(Bare).max_decoding_message_size(MESSAGE_BYTES_MAX);
            Ok::<_, Infallible>(grpc.unary(call, request).await)
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connections = TcpListenerStream::new(listener).map(|connection| {
            let connection = connection?;
            connection.set_nodelay(true)?;
            std::io::Result::Ok(connection)
        });
        let server =
            Server::builder().initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        server.serve_with_incoming(service, connections).await.context("the server ended")
    })
}

fn failed(error: anyhow::Error) -> Status {
    Status::unavailable(format!("{error:#}"))
}

/// Who is called by gRPC; all calls share a connection, as is usual.
#[derive(Debug)]
pub(super) struct NextCall {
    /// In a box because it is large.
    endpoint: Box<Endpoint>,
    /// Made within the runtime.
    channel: OnceLock<Channel>,
}

impl NextCall {
    pub(super) fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok(Self { endpoint: Box::new(endpoint), channel: OnceLock::new() })
    }

    pub(super) async fn call(&self, body: Bytes) -> anyhow::Result<Bytes> {
        let channel = self.channel.get_or_init(|| self.endpoint.connect_lazy()).clone();
        let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        grpc.ready().await.context("the next function does not answer")?;
        let answer = grpc.unary(Request::new(body), PathAndQuery::from_static(PATH), Bare).await?;
        Ok(answer.into_inner())
    }
}

/// Messages that are bytes.
#[derive(Clone, Copy, Debug)]
struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, body: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(body);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
