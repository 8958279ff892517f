//! One request and its answer on a connection to an instance. The worker's own task does all of it: there is no other
//! task to wake.
//!
//! Most requests are plain and so are their answers: a head, and a body of known length. All else is hyper's.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http::{Request, StatusCode};

use super::Turn;
use super::body::Outgoing;
use super::connection::{Age, ConnectError};
use super::plain::{self, Heard, Plain, PlainHead, PlainRequest};
use super::replay::Replay;
use super::unusual::{self, Unusual};

/// Why an instance has not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// Nothing of the request has left.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection had been used before, and broke before it brought an answer: it may have been closed for being
    /// idle. The turn is still there.
    #[error("the connection, used before, was closed")]
    Stale(Turn),
    /// The connection broke before the answer's head had come.
    #[error("the connection broke: {0}")]
    Broken(Break),
    /// What came is no HTTP.
    #[error("it is not HTTP: {0}")]
    Nonsense(hyper::Error),
}

/// What broke a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Break {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// What came, or did not, as hyper sees it.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// A request as it goes to an instance.
pub(crate) enum Asked {
    Plain(PlainRequest),
    Unusual(Box<Request<Outgoing>>),
}

impl Asked {
    /// Whether it may be sent once more, for all that anybody knows.
    pub(crate) fn is_idempotent(&self) -> bool {
        match self {
            Self::Plain(request) => request.is_idempotent(),
            Self::Unusual(request) => request.method().is_idempotent(),
        }
    }
}

/// A request that is on its way, or an answer that is.
pub(crate) enum Exchange {
    Plain(Plain),
    Unusual(Box<Unusual>),
}

/// An answer's head, and what follows it.
pub(crate) struct Answered {
    pub(crate) head: AnswerHead,
    pub(crate) rest: Rest,
}

/// An answer's head, as it was read.
pub(crate) enum AnswerHead {
    Plain(PlainHead),
    Unusual(Box<Parts>),
}

impl AnswerHead {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Plain(head) => head.status,
            Self::Unusual(head) => head.status,
        }
    }
}

/// An answer's body as it comes, and the connection that it comes on.
pub(crate) enum Rest {
    Plain(plain::Body),
    Unusual(Box<unusual::Body>),
}

impl Exchange {
    /// Sends a request on a new connection, or on one that may have been used before. `head_bytes_max` bounds the
    /// answer's head.
    pub(crate) async fn begin(turn: Turn, age: Age, asked: Asked, head_bytes_max: usize) -> Result<Self, AskError> {
        let sockets = &turn.server().sockets;
        let (stream, age) = match age {
            Age::New => (sockets.take_new().await?, age),
            Age::Used => sockets.take().await?,
        };
        Ok(match asked {
            Asked::Plain(request) => Self::Plain(Plain::send(turn, stream, age, request, head_bytes_max).await?),
            Asked::Unusual(request) => {
                let sent = Unusual::send(turn, stream, age, *request, head_bytes_max).await?;
                Self::Unusual(Box::new(sent))
            }
        })
    }

    /// Waits for the answer's head. This may be given up and begun again.
    pub(crate) async fn head(&mut self) -> Result<Answered, AskError> {
        loop {
            match self {
                Self::Plain(plain) => match plain.head().await? {
                    Heard::Plain(head, body) => {
                        return Ok(Answered { head: AnswerHead::Plain(head), rest: Rest::Plain(body) });
                    }
                    Heard::Unusual(unread) => *self = Self::Unusual(Box::new(Unusual::go_on(unread).await?)),
                },
                Self::Unusual(unusual) => {
                    let (head, body) = unusual.head().await?;
                    return Ok(Answered {
                        head: AnswerHead::Unusual(Box::new(head)),
                        rest: Rest::Unusual(Box::new(body)),
                    });
                }
            }
        }
    }
}

impl Rest {
    /// How long the body is, where that is known.
    pub(crate) fn exact(&self) -> Option<u64> {
        match self {
            Self::Plain(body) => Some(body.bytes_left()),
            Self::Unusual(body) => body.exact(),
        }
    }

    /// All of the body, if it is here.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(body) => body.whole(),
            Self::Unusual(_) => None,
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::Plain(body) => body.bytes_left() == 0,
            Self::Unusual(body) => body.is_end(),
        }
    }

    /// The next piece.
    pub(crate) fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Break>>> {
        match self {
            Self::Plain(body) => body.poll_piece(context).map_err(Break::Socket),
            Self::Unusual(body) => body.poll_piece(context).map_err(Break::Http),
        }
    }

    /// The connection itself, after the instance has agreed to speak something else on it, with what it has said so
    /// far.
    pub(crate) async fn into_tunnel(self) -> Option<(Replay, Turn)> {
        match self {
            Self::Plain(_) => None,
            Self::Unusual(body) => body.into_tunnel().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use ramet_control::gateway::Address;
    use ramet_dataplane::message::{BlockWriter, HeadBlock};

    use super::*;
    use crate::servers::tests::server_at;
    use crate::servers::{Purpose, Server, Servers};

    const BODY: &[u8] = b"a question";
    const HEAD_BYTES_MAX: usize = 8192;

    /// What a peer says to a request for that path, and whether it closes the connection then.
    fn reply(path: &str) -> (Vec<u8>, bool) {
        let of = |head: &str, body: &[u8]| [head.as_bytes(), b"\r\n\r\n", body].concat();
        match path {
            "/whole" | "/slow" => (of("HTTP/1.1 200 OK\r\nContent-Length: 5", b"hello"), false),
            "/long" => (of("HTTP/1.1 200 OK\r\nContent-Length: 300000", &long()), false),
            "/none" => (of("HTTP/1.1 204 No Content", b""), false),
            "/surplus" => (of("HTTP/1.1 200 OK\r\nContent-Length: 5", b"hello, and more"), false),
            "/closing" => (of("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5", b"hello"), true),
            "/chunked" => (of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"), false),
            "/continue" => (of("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5", b"hello"), false),
            "/endless" => (of("HTTP/1.1 200 OK", b"hello"), true),
            "/broken-head" => (b"HTTP/1.1 200 OK\r\nContent-".to_vec(), true),
            "/broken-body" => (of("HTTP/1.1 200 OK\r\nContent-Length: 5", b"hel"), true),
            "/nonsense" => (b"hello\r\n\r\n".to_vec(), true),
            _ => (Vec::new(), true),
        }
    }

    fn long() -> Vec<u8> {
        (0..300_000_u32).map(|place| (place / 7) as u8).collect()
    }

    /// Answers on one connection until it is closed.
    fn speak(mut stream: UnixStream) {
        let mut heard = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            let Ok(count @ 1..) = stream.read(&mut bytes) else { return };
            heard.extend_from_slice(&bytes[..count]);
            let Some(end) = heard.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
            if heard.len() < end + 4 + BODY.len() {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut heard)).expect("text");
            assert!(text.ends_with("\r\n\r\na question"), "{text}");
            let path = text.split(' ').nth(1).expect("a path").to_owned();
            let (reply, closes) = reply(&path);
            let pieces = if path == "/slow" { 1 } else { reply.len().max(1) };
            if reply.chunks(pieces).any(|piece| stream.write_all(piece).is_err()) || closes {
                return;
            }
        }
    }

    /// An instance that is such a peer, and how many connections it has had.
    fn instance(folder: &std::path::Path) -> (Servers, Arc<Server>, Arc<AtomicUsize>) {
        let path = folder.join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || speak(stream));
            }
        });
        let servers = Servers::new(Arc::new(|_| {}));
        let server = server_at(&servers, 1, Address::Socket { path, user: None });
        (servers, server, connections)
    }

    async fn ask(server: &Arc<Server>, path: &str) -> Result<(StatusCode, Result<Vec<u8>, Break>), AskError> {
        let block = HeadBlock::parse(BlockWriter::request("PUT", path).finish()).expect("well-formed");
        let request = PlainRequest::new(&block, &VecDeque::from([Bytes::from_static(BODY)])).expect("plain");
        let turn = server.hold(Purpose::Request).and_then(|held| held.turn_now().ok()).expect("a turn");
        let mut exchange = Exchange::begin(turn, Age::Used, Asked::Plain(request), HEAD_BYTES_MAX).await?;
        let Answered { head, mut rest } = exchange.head().await?;
        let (mut body, exact) = (Vec::new(), rest.exact());
        while let Some(piece) = poll_fn(|context| rest.poll_piece(context)).await {
            match piece {
                Ok(piece) => body.extend_from_slice(&piece),
                Err(error) => return Ok((head.status(), Err(error))),
            }
        }
        assert!(exact.is_none_or(|exact| exact == body.len() as u64));
        Ok((head.status(), Ok(body)))
    }

    fn with_instance(test: impl AsyncFnOnce(Arc<Server>, Arc<AtomicUsize>)) {
        let folder = tempfile::tempdir().expect("a folder");
        let (_servers, server, connections) = instance(folder.path());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(test(server, connections));
    }

    #[test]
    fn answers_of_every_kind_are_read_and_their_connection_is_used_again_where_it_can_be() {
        let long = long();
        for (path, status, body, connections) in [
            ("/whole", 200, &b"hello"[..], 1),
            ("/slow", 200, b"hello", 1),
            ("/long", 200, &long, 1),
            ("/none", 204, b"", 1),
            ("/chunked", 200, b"hello", 1),
            ("/continue", 200, b"hello", 1),
            ("/surplus", 200, b"hello", 2),
            ("/closing", 200, b"hello", 2),
            ("/endless", 200, b"hello", 2),
        ] {
            with_instance(async |server, count| {
                for _ in 0..2 {
                    let (found_status, found) = ask(&server, path).await.expect(path);
                    assert_eq!(found_status.as_u16(), status, "{path}");
                    assert!(found.expect(path) == body, "{path}: another body");
                }
                assert_eq!(count.load(Ordering::SeqCst), connections, "{path}: connections");
            });
        }
    }

    #[test]
    fn answers_that_break_off_are_told_from_whole_ones() {
        with_instance(async |server, _| {
            assert!(matches!(ask(&server, "/broken-head").await, Err(AskError::Broken(_))));
            assert!(matches!(ask(&server, "/nonsense").await, Err(AskError::Nonsense(_))));
            assert!(matches!(ask(&server, "/broken-body").await, Ok((_, Err(_)))));
            assert!(matches!(ask(&server, "/hang-up").await, Err(AskError::Broken(_))), "the first on its connection");
            ask(&server, "/whole").await.map_or_else(|error| panic!("{error}"), drop);
            assert!(matches!(ask(&server, "/hang-up").await, Err(AskError::Stale(_))), "not the first on it");
            assert_eq!(server.held(), 0, "no place is lost");
        });
    }
}
