//! HTTP/1.1 responses, read strictly: a load generator that guesses where an answer ends measures nothing.
//!
//! Framing is that of RFC 9112, section 6. Left out: answers to HEAD and CONNECT, which are never sent here, and
//! bodies that end with the connection, which a kept-alive connection cannot carry.

/// The longest head, chunk-size line or trailer that is read.
pub(crate) const LINE_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;

/// What is wrong with a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadResponse {
    /// The head is no HTTP.
    #[error("the head is malformed: {0}")]
    Head(httparse::Error),
    /// Head, chunk-size line or trailer are too long.
    #[error("a head, chunk size or trailer is longer than {LINE_BYTES_MAX} bytes")]
    TooLong,
    /// `Content-Length` is no number, or differs from another.
    #[error("Content-Length is not one number")]
    Length,
    /// A transfer coding besides `chunked`, or beside a length.
    #[error("Transfer-Encoding is not just `chunked`")]
    Coding,
    /// Neither a length nor chunks.
    #[error("the body's end is not marked")]
    Endless,
    /// The framing of the chunks is broken.
    #[error("a chunk is malformed")]
    Chunk,
}

/// How far some input was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// So many bytes are done with; what follows must be fed again, together with what comes next.
    pub(crate) consumed_bytes: usize,
    /// The response is complete.
    pub(crate) complete: bool,
}

/// Reads one response from pieces of input.
///
/// Transitions: `Head` → `Head` (after an interim response) | `Sized` | `ChunkSize`; `Sized` → `Complete`;
/// `ChunkSize` → `Chunk` | `Trailers`; `Chunk` → `ChunkEnd` → `ChunkSize`; `Trailers` → `Complete`.
#[derive(Debug)]
pub(crate) struct ResponseParser {
    state: State,
    /// The status; 0 until the head is complete.
    pub(crate) status: u16,
    /// Whether the connection takes another request afterwards.
    pub(crate) keeps_alive: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Head,
    Sized(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Complete,
}

impl ResponseParser {
    pub(crate) const fn new() -> Self {
        Self { state: State::Head, status: 0, keeps_alive: true }
    }

    /// Reads on; `body` is given the body's bytes in order.
    pub(crate) fn feed(&mut self, input: &[u8], mut body: impl FnMut(&[u8])) -> Result<Progress, BadResponse> {
        let mut consumed_bytes = 0;
        loop {
            let rest = &input[consumed_bytes..];
            let step = match self.state {
                State::Head => self.head(rest)?,
                State::Sized(0) => Some((0, State::Complete)),
                State::Sized(left) => {
                    data(rest, left, &mut body).map(|taken| (taken, State::Sized(left - taken as u64)))
                }
                State::ChunkSize => chunk_size(rest)?,
                State::Chunk(0) => Some((0, State::ChunkEnd)),
                State::Chunk(left) => {
                    data(rest, left, &mut body).map(|taken| (taken, State::Chunk(left - taken as u64)))
                }
                State::ChunkEnd => chunk_end(rest)?,
                State::Trailers => trailer(rest)?,
                State::Complete => return Ok(Progress { consumed_bytes, complete: true }),
            };
            let Some((taken, next)) = step else { return Ok(Progress { consumed_bytes, complete: false }) };
            consumed_bytes += taken;
            self.state = next;
        }
    }

    fn head(&mut self, input: &[u8]) -> Result<Option<(usize, State)>, BadResponse> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(taken) = head.parse(input).map_err(BadResponse::Head)? else {
            return partial(input);
        };
        let status = head.code.unwrap_or_default();
        // Switching protocols was not asked for, and what follows it would not be HTTP.
        if status == 101 {
            return Err(BadResponse::Endless);
        }
        if (100..200).contains(&status) {
            return Ok(Some((taken, State::Head)));
        }
        self.status = status;
        self.keeps_alive = head.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for header in head.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let value = content_length(header.value)?;
                if length.replace(value).is_some_and(|other| other != value) {
                    return Err(BadResponse::Length);
                }
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse::Coding);
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                let mut options = header.value.split(|&byte| byte == b',');
                self.keeps_alive &= !options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
        }
        let next = match (status, length, chunked) {
            (204 | 304, ..) => State::Complete,
            (_, Some(_), true) => return Err(BadResponse::Coding),
            (_, None, true) => State::ChunkSize,
            (_, Some(length), false) => State::Sized(length),
            (_, None, false) => return Err(BadResponse::Endless),
        };
        Ok(Some((taken, next)))
    }
}

/// Digits only: a sign, which `parse` would take, is refused.
fn content_length(value: &[u8]) -> Result<u64, BadResponse> {
    let text = std::str::from_utf8(value.trim_ascii()).map_err(|_| BadResponse::Length)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(BadResponse::Length);
    }
    text.parse().map_err(|_| BadResponse::Length)
}

/// Not all is there yet, which is fine as long as it is not too much.
fn partial(input: &[u8]) -> Result<Option<(usize, State)>, BadResponse> {
    if input.len() >= LINE_BYTES_MAX { Err(BadResponse::TooLong) } else { Ok(None) }
}

fn data(input: &[u8], left: u64, body: &mut impl FnMut(&[u8])) -> Option<usize> {
    let taken = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
    if taken == 0 {
        return None;
    }
    body(&input[..taken]);
    Some(taken)
}

fn chunk_size(input: &[u8]) -> Result<Option<(usize, State)>, BadResponse> {
    match httparse::parse_chunk_size(input).map_err(|_| BadResponse::Chunk)? {
        httparse::Status::Partial => partial(input),
        httparse::Status::Complete((taken, 0)) => Ok(Some((taken, State::Trailers))),
        httparse::Status::Complete((taken, size)) => Ok(Some((taken, State::Chunk(size)))),
    }
}

fn chunk_end(input: &[u8]) -> Result<Option<(usize, State)>, BadResponse> {
    match input {
        [b'\r', b'\n', ..] => Ok(Some((2, State::ChunkSize))),
        [] | [b'\r'] => Ok(None),
        _ => Err(BadResponse::Chunk),
    }
}

/// Trailers are skipped; an empty line is the end.
fn trailer(input: &[u8]) -> Result<Option<(usize, State)>, BadResponse> {
    match input.windows(2).position(|pair| pair == b"\r\n") {
        None => partial(input),
        Some(0) => Ok(Some((2, State::Complete))),
        Some(at) => Ok(Some((at + 2, State::Trailers))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
