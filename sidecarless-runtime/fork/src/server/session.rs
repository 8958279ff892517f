//! One connection whose other end knows the key of a seed.

use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_sys::{Range, latency};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::door::refuse;
use super::{Bound, Means, SEND_TIMEOUT, Stop};
use crate::seeds::{Ending, Link, Reader, Refusal};
use crate::source::{READ_BYTES_MAX, READ_RANGES_MAX};
use crate::wire::{self, Elided, Filled, Frame, Inbox, Kind, PROOF_BYTES, REQUEST_BYTES_MAX, WireError};

/// For so long the next request is expected at once: whoever reads one page reads another soon.
const EXPECTED: Duration = Duration::from_micros(50);

/// A connection that may read a seed.
pub(super) struct Session {
    stream: TcpStream,
    /// Counts it.
    link: Link,
    /// None: all that it wanted is there, and it only waits for the seed's end.
    reader: Option<Reader>,
    means: Option<Arc<dyn Means>>,
    /// What was set up over this connection.
    bound: Vec<Bound>,
    stop: Arc<Stop>,
    room: Room,
}

/// Buffers that are used again.
#[derive(Default)]
struct Room {
    ranges: Vec<Range>,
    pages: Vec<u8>,
    zeros: Vec<u8>,
}

/// Why a connection ends.
enum End {
    /// Its other end is told why.
    Refused(Refusal),
    /// It has gone, or takes nothing.
    Gone,
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<WireError> for End {
    fn from(_: WireError) -> Self {
        Self::Refused(Refusal::Senseless)
    }
}

impl Session {
    pub(super) fn new(
        stream: TcpStream,
        link: Link,
        reader: Reader,
        means: Option<Arc<dyn Means>>,
        stop: Arc<Stop>,
    ) -> Self {
        Self { stream, link, reader: Some(reader), means, bound: Vec::new(), stop, room: Room::default() }
    }

    /// Serves until the seed or the connection ends, or the server stops.
    pub(super) fn run(mut self, proof: &[u8; PROOF_BYTES]) {
        let end = self.welcome(proof).and_then(|()| self.serve());
        let Err(end) = end else { return };
        // First nobody reads any more, then it is said.
        self.bound.clear();
        if let End::Refused(refusal) = end {
            tracing::debug!(handle = %self.link.0.handle, %refusal, "a connection to a seed ends");
            refuse(&self.stream, refusal);
            self.drain();
        }
    }

    /// Lets the other end go first: what it has said meanwhile and nobody has heard would make the kernel take back
    /// what it was told last.
    fn drain(&self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let deadline = Instant::now() + PATIENCE;
        let mut nothing = [0; 4096];
        while Instant::now() < deadline {
            match (&self.stream).read(&mut nothing) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    let timeout = Timespec::try_from(left).ok();
                    let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::IN)], timeout.as_ref());
                }
                Err(_) => return,
            }
        }
    }

    /// Gives all that a new reader needs. The descriptor goes ahead: the reader has enough to do with it until the
    /// pages come.
    fn welcome(&mut self, proof: &[u8; PROOF_BYTES]) -> Result<(), End> {
        let descriptor = Arc::clone(&self.link.0.descriptor);
        self.send(Kind::Welcome, 0, &[proof, &descriptor])?;
        let learned = self.reader()?.learned()?;
        let mut head = Vec::with_capacity(4 + learned.ranges.len() * 16);
        head.extend((learned.ranges.len() as u32).to_le_bytes());
        wire::push_ranges(&mut head, &learned.ranges);
        let elided = Elided::of(&learned.pages, Vec::new());
        let parts: Vec<&[u8]> = std::iter::once(&head[..]).chain(elided.parts()).collect();
        self.send(Kind::Learned, 0, &parts)
    }

    fn serve(&mut self) -> Result<(), End> {
        let mut inbox = Inbox::new(REQUEST_BYTES_MAX);
        let mut expected_until = Instant::now();
        while !self.stop.is_said() {
            match inbox.fill(&mut &self.stream)? {
                Filled::End => return Ok(()),
                Filled::Some => {
                    latency::keep_awake();
                    while let Some(frame) = inbox.next()? {
                        self.answer(frame)?;
                    }
                    expected_until = Instant::now() + EXPECTED;
                }
                // Somebody else may have something to do meanwhile.
                Filled::NotYet if Instant::now() < expected_until => std::thread::yield_now(),
                Filled::NotYet => self.wait(PollFlags::IN, None)?,
            }
        }
        Err(End::Refused(Refusal::Ended(Ending::Stopped)))
    }

    fn answer(&mut self, frame: Frame<'_>) -> Result<(), End> {
        let mut room = std::mem::take(&mut self.room);
        match frame.kind {
            Kind::Read => {
                wire::ranges(frame.payload, &mut room.ranges)?;
                let bytes = room.ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.bytes));
                if bytes > READ_BYTES_MAX || room.ranges.len() > READ_RANGES_MAX {
                    return Err(Refusal::TooMuch.into());
                }
                room.pages.resize((bytes as usize).max(room.pages.len()), 0);
                let pages = &mut room.pages[..bytes as usize];
                self.reader()?.read(&room.ranges, pages)?;
                let elided = Elided::of(pages, std::mem::take(&mut room.zeros));
                self.send(Kind::Pages, frame.token, &elided.parts())?;
                room.zeros = elided.into_zeros();
            }
            Kind::Teach => {
                wire::ranges(frame.payload, &mut room.ranges)?;
                self.link.0.learn(&room.ranges)?;
            }
            Kind::SetUp => self.set_up(frame.token, frame.payload)?,
            Kind::Renew => {
                let lease_ms = frame.payload.try_into().map(u64::from_le_bytes).map_err(|_| Refusal::Senseless)?;
                self.link.0.extend(Duration::from_millis(lease_ms))?;
                self.send(Kind::Renew, frame.token, &[])?;
            }
            Kind::LetGo => {
                self.bound.clear();
                self.reader = None;
                let left = self.link.0.expires().saturating_duration_since(Instant::now());
                let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                self.send(Kind::LetGo, frame.token, &[&left_ms.to_le_bytes()])?;
            }
            Kind::Welcome | Kind::Learned | Kind::Pages | Kind::Error => return Err(Refusal::Senseless.into()),
        }
        self.room = room;
        Ok(())
    }

    fn reader(&self) -> Result<&Reader, Refusal> {
        self.reader.as_ref().ok_or(Refusal::Senseless)
    }

    /// An empty answer: there is no other way.
    fn set_up(&mut self, token: u64, request: &[u8]) -> Result<(), End> {
        const BOUND_MAX: usize = 64;
        let answer = match &self.means {
            Some(_) if self.reader.is_none() => return Err(Refusal::Senseless.into()),
            Some(means) if self.bound.len() < BOUND_MAX => {
                let (answer, bound) = means.set_up(&self.link.0, request)?;
                self.bound.extend(bound);
                answer
            }
            Some(_) => return Err(Refusal::TooMuch.into()),
            None => Vec::new(),
        };
        self.send(Kind::SetUp, token, &[&answer])
    }

    /// Sends a frame, and waits for as long as the other end may take.
    fn send(&mut self, kind: Kind, token: u64, parts: &[&[u8]]) -> Result<(), End> {
        /// The most parts that one call takes (`IOV_MAX`).
        const PARTS_MAX: usize = 1024;
        let header = wire::header(kind, token, parts);
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(1 + parts.len());
        slices.push(IoSlice::new(&header));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        let mut rest = &mut slices[..];
        // Not `advance_slices` of nothing: an empty part must not look like the end.
        IoSlice::advance_slices(&mut rest, 0);
        let deadline = Instant::now() + SEND_TIMEOUT;
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(PARTS_MAX)];
            match (&self.stream).write_vectored(some) {
                Ok(0) => return Err(End::Gone),
                Ok(sent) => IoSlice::advance_slices(&mut rest, sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT, Some(deadline))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the connection, which ends with the seed and with the server.
    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> Result<(), End> {
        let seed = &self.link.0;
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let stream = PollFd::from_borrowed_fd(self.stream.as_fd(), events);
        let ended = PollFd::from_borrowed_fd(seed.ended(), PollFlags::IN);
        let mut ready = [stream, ended, PollFd::new(&self.stop.event, PollFlags::IN)];
        match poll(&mut ready, timeout.as_ref()) {
            Ok(0) => Err(End::Gone),
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(_) => Err(End::Gone),
            Ok(_) if !ready[1].revents().is_empty() => {
                let ending = seed.check().err();
                Err(End::Refused(ending.unwrap_or(Refusal::Ended(Ending::Stopped))))
            }
            Ok(_) if !ready[2].revents().is_empty() => Err(End::Refused(Refusal::Ended(Ending::Stopped))),
            Ok(_) => Ok(()),
        }
    }
}
