//! Functions that speak frames, plainly: a length of 8 bytes and as many bytes, one request at a time on each
//! connection. Nothing is checked that need not be, so that this is hard to beat.

use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::address::Address;
use super::next::Next;
use super::pieces::Pieces;

const LENGTH_BYTES: usize = 8;
/// A read has room for at least so much.
const READ_BYTES: usize = 64 << 10;
/// Longer than any payload that can be asked for.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// Serves on one thread, as an instance of a function does.
pub(super) fn serve(listen: &Address, next: Option<Address>) -> anyhow::Result<()> {
    let next = next.map(Next::new).transpose()?.map(Arc::new);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match listen {
            Address::Unix(path) => {
                let listener =
                    StdUnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
                listener.set_nonblocking(true)?;
                let listener = tokio::net::UnixListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    tokio::spawn(answer_all(stream, next.clone()));
                }
            }
            Address::Tcp(address) => {
                let listener = tokio::net::TcpListener::from_std(super::bind(*address)?)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    tokio::spawn(answer_all(stream, next.clone()));
                }
            }
            Address::Http(_) | Address::Grpc(_) | Address::Samples(_) => bail!("{listen} is no address for frames"),
        }
    })
}

/// Answers until the other side goes away, or this one fails, which the other side sees as the same.
async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(stream: S, next: Option<Arc<Next>>) {
    let mut connection = Framed { stream, buffer: BytesMut::new() };
    loop {
        let Ok(body) = connection.receive().await else { return };
        let answered = match &next {
            None => connection.send(&Pieces::from(body)).await,
            Some(next) => match next.as_ref() {
                Next::Frames(next) => match next.call(&Pieces::from(body)).await {
                    Ok(answer) => connection.send(&Pieces::from(answer)).await,
                    Err(_) => return,
                },
                _ => return,
            },
        };
        if answered.is_err() {
            return;
        }
    }
}

/// A connection, with what was read too much.
#[derive(Debug)]
struct Framed<S> {
    stream: S,
    buffer: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    async fn send(&mut self, body: &Pieces) -> anyhow::Result<()> {
        // Small bodies go in one call with their length; of large ones no byte is copied.
        let mut head = Vec::with_capacity(READ_BYTES.min(LENGTH_BYTES + body.bytes() as usize));
        head.extend_from_slice(&body.bytes().to_le_bytes());
        for piece in body.iter() {
            if head.len() + piece.len() > READ_BYTES {
                self.stream.write_all(&head).await?;
                self.stream.write_all(piece).await?;
                head.clear();
            } else {
                head.extend_from_slice(piece);
            }
        }
        Ok(self.stream.write_all(&head).await?)
    }

    async fn receive(&mut self) -> anyhow::Result<Bytes> {
        while self.buffer.len() < LENGTH_BYTES {
            self.read(READ_BYTES).await?;
        }
        let length = usize::try_from(self.buffer.get_u64_le())?;
        ensure!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes is longer than {FRAME_BYTES_MAX}");
        while self.buffer.len() < length {
            self.read(length - self.buffer.len()).await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn read(&mut self, room_bytes: usize) -> anyhow::Result<()> {
        self.buffer.reserve(room_bytes);
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the next function has closed the connection");
        Ok(())
    }
}

/// Who speaks frames, with the connections to it that are open.
#[derive(Debug)]
pub(super) struct NextFrames {
    address: Address,
    unix: Mutex<Vec<Framed<UnixStream>>>,
    tcp: Mutex<Vec<Framed<TcpStream>>>,
}

impl NextFrames {
    pub(super) fn new(address: Address) -> Self {
        Self { address, unix: Mutex::default(), tcp: Mutex::default() }
    }

    pub(super) async fn call(&self, body: &Pieces) -> anyhow::Result<Bytes> {
        match &self.address {
            Address::Unix(path) => exchange(&self.unix, UnixStream::connect(path), body).await,
            Address::Tcp(address) => exchange(&self.tcp, connect(*address), body).await,
            Address::Http(_) | Address::Grpc(_) | Address::Samples(_) => {
                bail!("{} does not speak frames", self.address)
            }
        }
    }
}

async fn connect(address: std::net::SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer on a connection that is open, or on a new one.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    open: &Mutex<Vec<Framed<S>>>,
    connecting: impl Future<Output = std::io::Result<S>>,
    body: &Pieces,
) -> anyhow::Result<Bytes> {
    let idle = open.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut connection = match idle {
        Some(connection) => connection,
        None => Framed { stream: connecting.await?, buffer: BytesMut::new() },
    };
    connection.send(body).await?;
    let answer = connection.receive().await?;
    open.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    Ok(answer)
}
