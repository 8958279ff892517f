//! The device's end of a source: a connection that reads by RDMA, tried before it is used.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ramet_rdma::canary::{self, CANARY_BYTES};
use ramet_rdma::reader::PIECES_MAX;
use ramet_rdma::{Device, Paging, Piece, ReadError, Reader, Region};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::ConnectError;
use super::places::Places;
use super::room::Room;
use crate::source::{READ_BYTES_MAX, SourceError, TcpSource};
use crate::wire::WireError;
use crate::wire::direct::{Answer, Request, decode, encode};

/// How much is read at a time: some reads of the largest kind. It is pinned, which is limited to 8 MiB in many places.
const BUFFER_BYTES: usize = 4 * READ_BYTES_MAX as usize;
/// How long a read may take. A device gives up long before, if it works.
const READ_TIMEOUT: Duration = Duration::from_secs(8);

/// A connection to the seed's memory.
pub(super) struct Direct {
    reader: Reader,
    pub(super) places: Places,
    pub(super) room: Room,
    /// What the device has no room for yet.
    unposted: VecDeque<(u64, Vec<Piece>)>,
    /// A buffer for tokens.
    pub(super) done: Vec<u64>,
    /// Rings when it is to be looked whether a read is overdue.
    clock: OwnedFd,
    is_timed: bool,
    /// When a read was done last, or the first of some was begun.
    progress: Instant,
}

impl Direct {
    /// Agrees with the seed's host on a way to read, the best that proves to be one.
    pub(super) fn connect(device: &Device, tcp: &mut TcpSource) -> Result<Self, ConnectError> {
        let (here, host) = tcp.ends().map_err(SourceError::Link)?;
        let mut asked = Paging::OnDemand;
        loop {
            let mut reader = Reader::new(device, device.address(here), BUFFER_BYTES)?;
            let request = Request::Connect { endpoint: *reader.local(), host, paging: asked };
            let answer = tcp.set_up(&encode(&request))?;
            if answer.is_empty() {
                return Err(ConnectError::NoDeviceThere);
            }
            let connected = match decode(&answer).map_err(SourceError::from)? {
                Answer::Connected(connected) => connected,
                Answer::Unable(why) => return Err(ConnectError::Unable(why)),
                Answer::Pinned(_) => return Err(SourceError::from(WireError::Senseless("another answer")).into()),
            };
            reader.connect(&connected.endpoint)?;
            if is_canary_intact(&mut reader, connected.canary)? {
                let places = Places::new(&connected.regions, &connected.pinnable).map_err(SourceError::from)?;
                return Ok(Self::new(reader, places).map_err(SourceError::Wait)?);
            }
            if connected.paging == Paging::Pinned {
                return Err(ConnectError::Wrong);
            }
            tracing::warn!(
                "a device reads wrongly what is paged on demand; the seed's memory is pinned, which copies it"
            );
            asked = Paging::Pinned;
        }
    }

    fn new(reader: Reader, places: Places) -> io::Result<Self> {
        Ok(Self {
            room: Room::new(reader.buffer_bytes()),
            reader,
            places,
            unposted: VecDeque::new(),
            done: Vec::new(),
            clock: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            is_timed: false,
            progress: Instant::now(),
        })
    }

    /// Begins to read pieces of a read to where it is gathered. How many pieces of work that is: each is told of.
    pub(super) fn post(&mut self, token: u64, at: usize, mut pieces: Vec<Piece>) -> Result<usize, ReadError> {
        pieces.iter_mut().for_each(|piece| piece.to += at);
        let mut work = 0;
        for some in pieces.chunks(PIECES_MAX / 2) {
            self.unposted.push_back((token, some.to_vec()));
            work += 1;
        }
        self.post_more()?;
        Ok(work)
    }

    fn post_more(&mut self) -> Result<(), ReadError> {
        if self.reader.under_way() == 0 {
            self.progress = Instant::now();
        }
        while let Some((token, pieces)) = self.unposted.front()
            && pieces.len() <= self.reader.room()
        {
            self.reader.post(*token, pieces)?;
            self.unposted.pop_front();
        }
        self.watch_time()
    }

    /// Tells of the pieces of work that are done.
    pub(super) fn take(&mut self, done: &mut Vec<u64>) -> Result<(), ReadError> {
        let before = done.len();
        self.reader.take(|token| done.push(token))?;
        if done.len() > before {
            self.progress = Instant::now();
        }
        if self.is_timed && rustix::io::read(&self.clock, &mut [0; 8]).is_ok() {
            self.is_timed = false;
        }
        self.post_more()
    }

    /// Lets the clock ring when a read is overdue. It is set once in a while, not for every read.
    fn watch_time(&mut self) -> Result<(), ReadError> {
        if self.is_timed || self.reader.under_way() == 0 {
            return Ok(());
        }
        let left = READ_TIMEOUT.saturating_sub(self.progress.elapsed());
        if left.is_zero() {
            return Err(ReadError::NoAnswer);
        }
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        let when = Itimerspec { it_interval: nothing, it_value: value };
        // One that cannot be set leaves the device's own limit.
        self.is_timed = timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &when).is_ok();
        Ok(())
    }

    pub(super) fn bytes(&self, at: usize, bytes: usize) -> &[u8] {
        self.reader.bytes(at, bytes)
    }

    pub(super) fn bytes_mut(&mut self, at: usize, bytes: usize) -> &mut [u8] {
        self.reader.bytes_mut(at, bytes)
    }

    pub(super) fn readiness(&self) -> Option<BorrowedFd<'_>> {
        self.reader.readiness()
    }

    pub(super) fn clock(&self) -> BorrowedFd<'_> {
        self.clock.as_fd()
    }
}

/// Reads what is known, and compares.
fn is_canary_intact(reader: &mut Reader, canary: Region) -> Result<bool, ConnectError> {
    let deadline = Instant::now() + READ_TIMEOUT;
    reader.post(0, &canary::pieces(canary))?;
    let mut is_done = false;
    loop {
        reader.take(|_| is_done = true)?;
        if is_done {
            return Ok(canary::is_intact(reader.bytes(0, CANARY_BYTES)));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let (Some(readiness), false) = (reader.readiness(), left.is_zero()) else {
            return Err(ReadError::NoAnswer.into());
        };
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut [PollFd::from_borrowed_fd(readiness, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SourceError::Wait(errno.into()).into()),
        }
    }
}
