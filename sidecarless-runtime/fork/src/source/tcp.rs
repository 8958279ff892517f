//! A seed on another host, read from its page server.

mod greeting;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ramet_sys::Range;
use ramet_sys::pagemap::PAGE_BYTES;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::{Learned, PageSource, READ_RANGES_MAX, SourceError, check_size};
use crate::descriptor::{DecodeError, ForkDescriptor};
use crate::seeds::{Handle, Key, LEARNED_PAGES_MAX, Refusal};
use crate::wire::{self, ANSWER_BYTES_MAX, Filled, Inbox, Kind, SET_UP_BYTES_MAX, WireError};

/// How long it may take to reach a host, and to be let in.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take, of which nothing has come.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

const SOCKET: u64 = 0;
const TIMER: u64 = 1;
/// How much is received in one go before others are looked at: some answers.
const FILLS_MAX: usize = 64;

/// Why a seed cannot be read from here.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answers there.
    #[error("cannot reach a page server at {address}: {source}; is it running, and is that its address?")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It does not want to.
    #[error("{address} does not give its seed: {refusal}")]
    Refused {
        /// Who.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
    /// It does not know the key either, so what it gives is not the seed.
    #[error("who answers at {0} does not know the seed's key; it is not the seed's host")]
    Impostor(SocketAddr),
    /// Bytes of the greeting were changed.
    #[error("what {0} has sent was damaged on its way; try again")]
    Damaged(SocketAddr),
    /// What it says makes no sense.
    #[error("who answers at {address} is no page server that this one can talk to: {source}")]
    Wire {
        /// Who.
        address: SocketAddr,
        /// How it differs.
        source: WireError,
    },
    /// It ended the conversation, or said nothing.
    #[error("the conversation with {address} broke off: {source}; try again")]
    Link {
        /// Who.
        address: SocketAddr,
        /// How.
        source: io::Error,
    },
    /// The descriptor is of no use here.
    #[error(transparent)]
    Descriptor(#[from] DecodeError),
}

/// Reads the memory of a seed on another host.
pub struct TcpSource {
    stream: TcpStream,
    /// The socket, and the clock that says when an answer is overdue.
    epoll: OwnedFd,
    timer: OwnedFd,
    inbox: Inbox,
    /// Requests that the socket has not taken yet.
    outgoing: Vec<u8>,
    sent: usize,
    /// The reads that are under way, and how many bytes each brings.
    reads: HashMap<u64, u64>,
    /// How many requests about another way to read are under way, and the answers to them.
    asked: usize,
    told: Vec<(u64, Vec<u8>)>,
    /// When something came last, or was asked for when nothing was under way.
    heard: Instant,
    is_timed: bool,
    scratch: Vec<u8>,
    learned: Coming,
    lease_ends: Option<Instant>,
}

/// The pages that the seed's host gives unasked.
enum Coming {
    /// They are on their way.
    NotYet,
    Here(Learned),
}

/// Opens a seed: what it is, and its pages.
///
/// # Errors
/// Why not.
pub fn connect(address: SocketAddr, handle: Handle, key: &Key) -> Result<(ForkDescriptor, TcpSource), ConnectError> {
    let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .map_err(|source| ConnectError::Unreachable { address, source })?;
    let welcome = greeting::greet(&stream, address, handle, key)?;
    let descriptor = ForkDescriptor::decode(&welcome.descriptor)?;
    let source = TcpSource::new(stream, welcome.inbox);
    Ok((descriptor, source.map_err(|source| ConnectError::Link { address, source })?))
}

impl TcpSource {
    fn new(stream: TcpStream, inbox: Inbox) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stream, epoll::EventData::new_u64(SOCKET), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        Ok(Self {
            stream,
            epoll,
            timer,
            inbox,
            outgoing: Vec::new(),
            sent: 0,
            reads: HashMap::new(),
            asked: 0,
            told: Vec::new(),
            heard: Instant::now(),
            is_timed: false,
            scratch: Vec::new(),
            learned: Coming::NotYet,
            lease_ends: None,
        })
    }

    /// Asks the seed's host for another way to read the seed, and waits for its answer. No read may be under way. An
    /// empty answer: it has none.
    ///
    /// # Errors
    /// The seed is lost.
    pub fn set_up(&mut self, request: &[u8]) -> Result<Vec<u8>, SourceError> {
        assert!(self.reads.is_empty(), "another way is set up before the first read");
        self.ask_and_wait(Kind::SetUp, request)
    }

    /// Has the seed's lease last so long from now, if it would not. No read may be under way.
    ///
    /// # Errors
    /// The seed is lost, or its host gives no such lease; then it is not to be read any more, either.
    pub fn renew(&mut self, lease: Duration) -> Result<(), SourceError> {
        assert!(self.reads.is_empty(), "a lease is renewed by who does not read");
        let lease_ms = u64::try_from(lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        self.ask_and_wait(Kind::Renew, &lease_ms.to_le_bytes()).map(drop)
    }

    fn ask_and_wait(&mut self, kind: Kind, request: &[u8]) -> Result<Vec<u8>, SourceError> {
        self.await_learned()?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        wire::push_frame(&mut self.outgoing, kind, 0, request);
        loop {
            self.flush()?;
            greeting::wait(&self.stream, !self.outgoing.is_empty(), deadline).map_err(SourceError::Link)?;
            if self.inbox.fill(&mut &self.stream).map_err(SourceError::Link)? == Filled::End {
                return Err(ended());
            }
            match self.inbox.next()? {
                None => {}
                Some(frame) if frame.kind == kind => return Ok(frame.payload.to_vec()),
                Some(frame) if frame.kind == Kind::Error => return Err(wire::decode_refusal(frame.payload)?.into()),
                Some(_) => return Err(WireError::Senseless("an answer to what was not asked").into()),
            }
        }
    }

    /// The same without waiting, while reads may be under way. The answer will be among what was [told](Self::told).
    pub(super) fn ask(&mut self, token: u64, request: &[u8]) -> Result<(), SourceError> {
        if self.is_idle() {
            self.heard = Instant::now();
        }
        self.asked += 1;
        wire::push_frame(&mut self.outgoing, Kind::SetUp, token, request);
        self.flush()?;
        self.watch_time()
    }

    /// The answers that have come to what was asked.
    pub(super) fn told(&mut self) -> Vec<(u64, Vec<u8>)> {
        std::mem::take(&mut self.told)
    }

    /// Whether it waits for nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.reads.is_empty() && self.asked == 0
    }

    /// The addresses of both ends: ours, and the seed's host's.
    pub(super) fn ends(&self) -> io::Result<(IpAddr, IpAddr)> {
        Ok((self.stream.local_addr()?.ip(), self.stream.peer_addr()?.ip()))
    }

    /// Waits for the pages that the seed's host gives unasked.
    fn await_learned(&mut self) -> Result<(), SourceError> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while matches!(self.learned, Coming::NotYet) {
            match self.inbox.next()? {
                Some(frame) if frame.kind == Kind::Learned => self.learned = Coming::Here(learned(frame.payload)?),
                Some(frame) if frame.kind == Kind::Error => return Err(wire::decode_refusal(frame.payload)?.into()),
                Some(_) => return Err(WireError::Senseless("an answer to what was not asked").into()),
                None => match self.inbox.fill(&mut &self.stream).map_err(SourceError::Link)? {
                    Filled::End => return Err(ended()),
                    Filled::NotYet => greeting::wait(&self.stream, false, deadline).map_err(SourceError::Link)?,
                    Filled::Some => {}
                },
            }
        }
        // No other answer is that long.
        self.inbox.limit(if SET_UP_BYTES_MAX > ANSWER_BYTES_MAX { SET_UP_BYTES_MAX } else { ANSWER_BYTES_MAX });
        Ok(())
    }

    /// Sends what the socket takes now.
    fn flush(&mut self) -> Result<(), SourceError> {
        let had_more = self.sent > 0;
        while self.sent < self.outgoing.len() {
            match (&self.stream).write(&self.outgoing[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.listen(epoll::EventFlags::IN | epoll::EventFlags::OUT);
                }
                // What was said before the connection ended is worth more than that it has.
                Err(error) => return Err(self.last_words().unwrap_or(SourceError::Link(error))),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        if had_more { self.listen(epoll::EventFlags::IN) } else { Ok(()) }
    }

    fn listen(&self, events: epoll::EventFlags) -> Result<(), SourceError> {
        let data = epoll::EventData::new_u64(SOCKET);
        epoll::modify(&self.epoll, &self.stream, data, events).map_err(|error| SourceError::Wait(error.into()))
    }

    /// What the server has said about the end of the connection.
    fn last_words(&mut self) -> Option<SourceError> {
        while let Ok(Filled::Some) = self.inbox.fill(&mut &self.stream) {}
        while let Ok(Some(frame)) = self.inbox.next() {
            if frame.kind == Kind::Error {
                return wire::decode_refusal(frame.payload).ok().map(SourceError::from);
            }
        }
        None
    }

    /// Lets the clock ring when the answers are overdue. It is set only when it has rung or was not set, not for
    /// every read.
    fn watch_time(&mut self) -> Result<(), SourceError> {
        if self.is_timed || self.is_idle() {
            return Ok(());
        }
        let left = ANSWER_TIMEOUT.saturating_sub(self.heard.elapsed());
        if left.is_zero() {
            return Err(SourceError::Silent(ANSWER_TIMEOUT));
        }
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let when = Itimerspec { it_interval: nothing, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &when)
            .map_err(|error| SourceError::Wait(error.into()))?;
        self.is_timed = true;
        Ok(())
    }

    fn hear_clock(&mut self) -> Result<(), SourceError> {
        if self.is_timed && rustix::io::read(&self.timer, &mut [0; 8]).is_ok() {
            self.is_timed = false;
        }
        self.watch_time()
    }
}

impl PageSource for TcpSource {
    fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
        let bytes = check_size(ranges, self.reads.len())?;
        if self.is_idle() {
            self.heard = Instant::now();
        }
        self.reads.insert(token, bytes);
        wire::push_ranges_frame(&mut self.outgoing, Kind::Read, token, ranges);
        self.flush()?;
        self.watch_time()
    }

    fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        if !self.outgoing.is_empty() {
            self.flush()?;
        }
        for _ in 0..FILLS_MAX {
            match self.inbox.fill(&mut &self.stream) {
                Ok(Filled::Some) => self.heard = Instant::now(),
                Ok(Filled::NotYet) => break,
                Ok(Filled::End) => return Err(ended()),
                Err(error) => return Err(SourceError::Link(error)),
            }
            let Self { inbox, reads, asked, told, scratch, learned: coming, lease_ends, .. } = self;
            while let Some(frame) = inbox.next()? {
                match frame.kind {
                    Kind::Pages => {
                        const UNASKED: WireError = WireError::Senseless("an answer to what was not asked");
                        let bytes = reads.remove(&frame.token).ok_or(UNASKED)?;
                        each(frame.token, wire::restore(frame.payload, bytes as usize, scratch)?);
                    }
                    Kind::SetUp if *asked > 0 => {
                        *asked -= 1;
                        told.push((frame.token, frame.payload.to_vec()));
                    }
                    Kind::Learned if matches!(coming, Coming::NotYet) => {
                        *coming = Coming::Here(learned(frame.payload)?);
                    }
                    Kind::LetGo => {
                        let left_ms = frame.payload.try_into().map(u64::from_le_bytes);
                        let left_ms = left_ms.map_err(|_| WireError::Senseless("a lease that is none"))?;
                        *lease_ends = Instant::now().checked_add(Duration::from_millis(left_ms));
                    }
                    Kind::Error => return Err(wire::decode_refusal(frame.payload)?.into()),
                    _ => return Err(WireError::Senseless("an answer of another kind").into()),
                }
            }
        }
        self.hear_clock()
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn take_learned(&mut self) -> Result<Learned, SourceError> {
        self.await_learned()?;
        match std::mem::replace(&mut self.learned, Coming::Here(Learned::default())) {
            Coming::Here(learned) => Ok(learned),
            Coming::NotYet => Ok(Learned::default()),
        }
    }

    fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError> {
        for some in ranges.chunks(READ_RANGES_MAX) {
            wire::push_ranges_frame(&mut self.outgoing, Kind::Teach, 0, some);
        }
        self.flush()
    }

    fn let_go(&mut self) -> Result<bool, SourceError> {
        wire::push_frame(&mut self.outgoing, Kind::LetGo, 0, &[]);
        self.flush().map(|()| true)
    }

    fn lease_ends(&self) -> Option<Instant> {
        self.lease_ends
    }
}

impl fmt::Debug for TcpSource {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("TcpSource").field("peer", &self.stream.peer_addr()).finish_non_exhaustive()
    }
}

/// What came unasked.
fn learned(payload: &[u8]) -> Result<Learned, WireError> {
    const SENSELESS: WireError = WireError::Senseless("learned pages that end too soon");
    let (ranges_count, rest) = payload.split_first_chunk().ok_or(SENSELESS)?;
    let ranges_bytes = (u32::from_le_bytes(*ranges_count) as usize).saturating_mul(size_of::<Range>());
    let (ranges_came, pages_came) = rest.split_at_checked(ranges_bytes).ok_or(SENSELESS)?;
    let mut ranges = Vec::new();
    wire::ranges(ranges_came, &mut ranges)?;
    let bytes = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.bytes));
    if bytes > LEARNED_PAGES_MAX as u64 * PAGE_BYTES {
        return Err(WireError::Senseless("more learned pages than there may be"));
    }
    Ok(Learned { ranges, pages: wire::restore_owned(pages_came, bytes as usize)? })
}

fn ended() -> SourceError {
    SourceError::Link(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"))
}
