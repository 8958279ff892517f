//! One client connection: a request out, its answer in, on a plain socket.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use crate::wire::{BadResponse, LINE_BYTES_MAX, Progress, ResponseParser};

/// Room for what one read brings. Larger than any line, so that a read always has room.
const BUFFER_BYTES: usize = 128 << 10;
const _: () = assert!(BUFFER_BYTES > LINE_BYTES_MAX);

/// Why there was no usable answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// The connection could not be made.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// A read or write failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server closed the connection within an answer, or without one.
    #[error("the server closed the connection before the answer was complete")]
    Closed,
    /// The answer is not HTTP as it should be.
    #[error("the answer is unusable: {0}")]
    Bad(#[from] BadResponse),
    /// Bytes follow the answer, though nothing more was asked.
    #[error("{0} bytes follow the answer")]
    Excess(usize),
    /// The HTTP/2 connection or its stream failed.
    #[error("the request failed: {0}")]
    H2c(#[from] hyper::Error),
    /// The answer was complete before the request was.
    #[error("the answer (status {0}) came before the request was sent")]
    Early(u16),
}

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The server has said that it closes the connection.
    ended: bool,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, NoAnswer> {
        Ok(Self { address, stream: connect(address).await?, buffer: vec![0; BUFFER_BYTES], ended: false })
    }

    /// Sends `request` and reads its answer: `body` is given the body's bytes in order; the status is returned.
    pub(crate) async fn exchange(&mut self, request: &[u8], body: impl FnMut(&[u8])) -> Result<u16, NoAnswer> {
        if self.ended {
            self.stream = connect(self.address).await?;
        }
        let (mut reader, mut writer) = self.stream.split();
        let send = writer.write_all(request);
        let receive = receive(&mut reader, &mut self.buffer, body);
        tokio::pin!(send, receive);
        // Both at once: a server may refuse a large body before it has all of it, and stop reading.
        let answer = tokio::select! {
            biased;
            sent = &mut send => {
                sent?;
                receive.await?
            }
            answer = &mut receive => return Err(NoAnswer::Early(answer?.status)),
        };
        self.ended = !answer.keeps_alive;
        Ok(answer.status)
    }
}

pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, NoAnswer> {
    let stream = TcpStream::connect(address).await.map_err(|source| NoAnswer::Connect { address, source })?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn receive(
    reader: &mut ReadHalf<'_>,
    buffer: &mut [u8],
    mut body: impl FnMut(&[u8]),
) -> Result<ResponseParser, NoAnswer> {
    let mut parser = ResponseParser::new();
    let mut filled_bytes = 0;
    loop {
        let read_bytes = reader.read(&mut buffer[filled_bytes..]).await?;
        if read_bytes == 0 {
            return Err(NoAnswer::Closed);
        }
        filled_bytes += read_bytes;
        let Progress { consumed_bytes, complete } = parser.feed(&buffer[..filled_bytes], &mut body)?;
        let left_bytes = filled_bytes - consumed_bytes;
        match (complete, left_bytes) {
            (true, 0) => return Ok(parser),
            (true, _) => return Err(NoAnswer::Excess(left_bytes)),
            (false, _) => buffer.copy_within(consumed_bytes..filled_bytes, 0),
        }
        filled_bytes = left_bytes;
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// One GET on a connection of its own.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> Result<Answer, NoAnswer> {
    let mut connection = Connection::open(address).await?;
    let mut body = Vec::new();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let status = connection.exchange(request.as_bytes(), |data| body.extend_from_slice(data)).await?;
    Ok(Answer { status, body })
}
