//! What is asked and what must be answered: a number from a system that answers wrongly is worth nothing.

use std::net::SocketAddr;

use super::client::{Client, Prepared};
use super::connection::{Answer, NoAnswer};

/// How much of an unexpected answer an error shows.
const EXCERPT_BYTES: usize = 300;

/// What is asked of a system.
#[derive(Clone, Debug)]
pub(crate) enum Workload {
    /// A POST to this path; the answer is 200 and what was sent.
    Echo {
        /// The path.
        path: String,
    },
    /// A GET of this path; the answer is always the same.
    Fixed {
        /// The path.
        path: String,
        /// The answer.
        answer: Answer,
    },
    /// A POST; the answer is anything with a status of success.
    Any {
        /// What the request says in `Host`.
        host: String,
        /// The path.
        path: String,
    },
}

impl Workload {
    /// The exchange that the client with number `index` repeats. Each sends other bytes, so that an answer to another's
    /// request is noticed.
    pub(crate) fn exchange(&self, address: SocketAddr, payload_bytes: usize, index: usize) -> Exchange {
        let own_host = address.to_string();
        let (host, path, body, answer) = match self {
            Self::Echo { path } => (&own_host, path, Some(payload(payload_bytes, index)), Expected::Request),
            Self::Fixed { path, answer } => (&own_host, path, None, Expected::Answer(answer.clone())),
            Self::Any { host, path } => (host, path, Some(payload(payload_bytes, index)), Expected::Success),
        };
        Exchange { request: Prepared::new(address, host, path, body), answer }
    }
}

/// Bytes that look like no text and repeat only after a long time (xorshift64).
fn payload(bytes: usize, index: usize) -> Vec<u8> {
    let mut state = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// A request, serialised once, and the answer that it must have.
#[derive(Debug)]
pub(crate) struct Exchange {
    request: Prepared,
    answer: Expected,
}

#[derive(Debug)]
enum Expected {
    /// 200, and what was sent.
    Request,
    Answer(Answer),
    /// Whatever it is, if only the status is one of success.
    Success,
}

/// Why an exchange did not go as it must.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// There is no answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// Another status.
    #[error("the answer is {got} instead of {wanted}: {excerpt}")]
    Status {
        /// What came.
        got: u16,
        /// What should have come.
        wanted: u16,
        /// The beginning of the body.
        excerpt: String,
    },
    /// Another length.
    #[error("the answer has {got} bytes instead of {wanted}")]
    Length {
        /// What came.
        got: usize,
        /// What should have come.
        wanted: usize,
    },
    /// Other bytes.
    #[error("the answer's body differs from what it should be at byte {0}")]
    Differs(usize),
}

impl Exchange {
    /// One request and its answer: status and length are checked.
    pub(crate) async fn run(&self, client: &mut Client) -> Result<(), ExchangeError> {
        let mut got_bytes = 0;
        // Most answers fit one piece; that one is shown if the answer is an error.
        let mut excerpt = [0; EXCERPT_BYTES];
        let status = client
            .exchange(&self.request, |data| {
                if let Some(room) = excerpt.get_mut(got_bytes..) {
                    let shown = data.len().min(room.len());
                    room[..shown].copy_from_slice(&data[..shown]);
                }
                got_bytes += data.len();
            })
            .await?;
        self.check(status, got_bytes, &excerpt[..got_bytes.min(EXCERPT_BYTES)])
    }

    /// The same, with every byte of the body compared.
    pub(crate) async fn run_compared(&self, client: &mut Client) -> Result<(), ExchangeError> {
        let mut body = Vec::new();
        let status = client.exchange(&self.request, |data| body.extend_from_slice(data)).await?;
        self.check(status, body.len(), &body[..body.len().min(EXCERPT_BYTES)])?;
        let Some((_, expected)) = self.expected() else { return Ok(()) };
        match body.iter().zip(expected).position(|(got, wanted)| got != wanted) {
            Some(at) => Err(ExchangeError::Differs(at)),
            None => Ok(()),
        }
    }

    /// Status and body, where they are known beforehand.
    fn expected(&self) -> Option<(u16, &[u8])> {
        match &self.answer {
            Expected::Request => Some((200, self.request.body())),
            Expected::Answer(answer) => Some((answer.status, &answer.body)),
            Expected::Success => None,
        }
    }

    fn check(&self, status: u16, got: usize, excerpt: &[u8]) -> Result<(), ExchangeError> {
        let is_right = match self.expected() {
            Some((wanted, _)) => status == wanted,
            None => (200..300).contains(&status),
        };
        if !is_right {
            let wanted = self.expected().map_or(200, |(status, _)| status);
            let excerpt = String::from_utf8_lossy(excerpt).into_owned();
            return Err(ExchangeError::Status { got: status, wanted, excerpt });
        }
        match self.expected() {
            Some((_, body)) if body.len() != got => Err(ExchangeError::Length { got, wanted: body.len() }),
            _ => Ok(()),
        }
    }
}
