//! Answers on their way to the socket, and what has to be read before it is closed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::time::timeout;

use super::reply::{Ends, Framing};
use super::{Lane, Sends};
use crate::ingress::answer::AnswerBody;
use crate::ingress::socket::Then;

/// How many pieces of a body are written at once.
const PIECES_MAX: usize = 16;

impl Lane<'_> {
    /// Ends the stream, and reads what the client is still sending: a connection that is closed on unread bytes is
    /// reset, and the client might never see its answer (RFC 9112, 9.6).
    pub(super) async fn end(&mut self, sends: Sends) {
        self.socket.end();
        let is_over = sends == Sends::Nothing && !matches!(self.socket.try_read(&mut [0; 64]), Ok(1..));
        if !is_over {
            Box::pin(self.linger()).await;
        }
    }

    async fn linger(&mut self) {
        const TIME_MAX: Duration = Duration::from_secs(2);
        // Whoever sends for longer is cut off.
        let _ = timeout(TIME_MAX, self.socket.read_to_end()).await;
    }

    /// Writes all of an answer. If the connection ends with it, the end of the stream goes with its last bytes.
    pub(super) async fn write_all(&mut self, mut bytes: &[u8], ends: Ends) -> io::Result<()> {
        let then = if ends == Ends::Connection { Then::End } else { Then::More };
        while !bytes.is_empty() {
            match self.socket.try_write(bytes, then) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until the client has made room by reading.
    async fn writable(&mut self) -> io::Result<()> {
        let patience = self.worker.shared.settings.body_timeout;
        timeout(patience, self.socket.writable()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Writes head and body from where they are.
    pub(super) async fn write_pieces(&mut self, head: Bytes, mut body: AnswerBody, framing: Framing) -> io::Result<()> {
        let mut pieces = VecDeque::from([head]);
        let mut is_whole = false;
        while !is_whole || !pieces.is_empty() {
            while !is_whole && pieces.len() < PIECES_MAX {
                let has_pieces = !pieces.is_empty();
                let next = self.unless_gone(poll_fn(|context| match Pin::new(&mut body).poll_frame(context) {
                    Poll::Pending if has_pieces => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(frame) => Poll::Ready(Some(frame)),
                }));
                match next.await? {
                    None => break,
                    Some(None) => {
                        is_whole = true;
                        pieces.extend((framing == Framing::Chunked).then(|| Bytes::from_static(b"0\r\n\r\n")));
                    }
                    // The client must not take what it has for the whole, so the connection breaks off.
                    Some(Some(Err(broken))) => return Err(io::Error::other(broken)),
                    Some(Some(Ok(frame))) => {
                        let data = frame.into_data().unwrap_or_default();
                        if framing == Framing::Chunked {
                            let length = Bytes::from(format!("{:x}\r\n", data.len()));
                            pieces.extend([length, data, Bytes::from_static(b"\r\n")]);
                        } else {
                            pieces.push_back(data);
                        }
                    }
                }
            }
            self.write_some(&mut pieces).await?;
        }
        Ok(())
    }

    async fn write_some(&mut self, pieces: &mut VecDeque<Bytes>) -> io::Result<()> {
        let written = {
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            self.socket.try_write_vectored(&slices)
        };
        let mut written = match written {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.writable().await,
            Err(error) => return Err(error),
        };
        while let Some(piece) = pieces.front_mut() {
            let bytes = piece.len().min(written);
            piece.advance(bytes);
            written -= bytes;
            if !piece.is_empty() {
                break;
            }
            pieces.pop_front();
        }
        Ok(())
    }
}
