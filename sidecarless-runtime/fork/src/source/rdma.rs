//! A seed on another host, whose memory is read by RDMA: its host's processor has no part in it.
//!
//! The seed's page server says over the connection what is registered where. What is not, or not worth it, is read over
//! the connection, range by range, and so is everything once a read by RDMA has failed: then the seed is gone, which
//! the connection says, or just the device's way to it. Nothing that such a read has brought is used.

mod direct;
mod places;
mod room;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use ramet_rdma::{Device, ReadError, VerbsError};
use ramet_sys::Range;
use rustix::event::epoll;

use self::direct::Direct;
use self::places::Plan;
use super::{Learned, PageSource, READS_MAX, SourceError, TcpSource, check_size, tcp};
use crate::descriptor::ForkDescriptor;
use crate::seeds::{Granted, Handle, Key};
use crate::wire::WireError;
use crate::wire::direct::{Answer, Request, decode, encode};

const OVER_TCP: u64 = 0;
const BY_DEVICE: u64 = 1;
const CLOCK: u64 = 2;

/// Why a seed cannot be read by RDMA.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its host does not let it read at all.
    #[error(transparent)]
    Tcp(#[from] tcp::ConnectError),
    /// Its host was lost meanwhile.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The device here does not do what it must.
    #[error("the RDMA device here cannot be used: {0}")]
    Device(#[from] VerbsError),
    /// The seed's host has none.
    #[error("the seed's host has no RDMA device in use")]
    NoDeviceThere,
    /// The seed's memory cannot be registered there.
    #[error("the seed's host cannot let it be read by RDMA: {0}")]
    Unable(String),
    /// Reads do not arrive.
    #[error("the seed's host is not reached by RDMA: {0}; are both devices in one network?")]
    NoWay(#[from] ReadError),
    /// Reads bring something else than is there.
    #[error("reads by RDMA bring wrong bytes, with pinned memory, too: a device or its driver is broken")]
    Wrong,
}

/// Reads the memory of a seed on another host by RDMA.
pub struct RdmaSource {
    /// What is the seed's own. The rest of what is registered is none of its children's business.
    granted: Granted,
    tcp: TcpSource,
    /// None: reads by RDMA have failed.
    direct: Option<Direct>,
    epoll: OwnedFd,
    reads: HashMap<u64, Read>,
    /// Those that were not begun yet, the oldest first.
    waiting: VecDeque<u64>,
    /// What is read over the connection. None: nobody wants it any more.
    over_tcp: HashMap<u64, Option<Part>>,
    over_tcp_next: u64,
    brought_bytes: u64,
}

/// A read that was asked for.
struct Read {
    ranges: Vec<Range>,
    bytes: usize,
    /// Where in the buffer its bytes are gathered, and what is missing there. None: it is not gathered.
    gathered: Option<Gathered>,
}

struct Gathered {
    at: usize,
    /// Pieces of work of the device, and what they bring.
    by_device: usize,
    bytes: u64,
    is_tcp_missing: bool,
}

/// What a read over the connection is for.
enum Part {
    /// All of a read.
    Whole(u64),
    /// Some bytes of a read: so many at each of these places of what is gathered.
    Some(u64, Vec<(usize, usize)>),
}

/// Opens a seed: what it is, and its pages.
///
/// # Errors
/// Why not.
pub fn connect(
    device: &Device,
    address: SocketAddr,
    handle: Handle,
    key: &Key,
) -> Result<(ForkDescriptor, RdmaSource), ConnectError> {
    let (descriptor, mut tcp) = tcp::connect(address, handle, key)?;
    let direct = Direct::connect(device, &mut tcp)?;
    let source = RdmaSource::new(Granted::of(&descriptor), tcp, direct);
    Ok((descriptor, source.map_err(SourceError::Wait)?))
}

impl RdmaSource {
    fn new(granted: Granted, tcp: TcpSource, direct: Direct) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let ends = [(OVER_TCP, tcp.readiness()), (BY_DEVICE, direct.readiness()), (CLOCK, Some(direct.clock()))];
        for (id, end) in ends {
            if let Some(end) = end {
                epoll::add(&epoll, end, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
            }
        }
        Ok(Self {
            granted,
            tcp,
            direct: Some(direct),
            epoll,
            reads: HashMap::new(),
            waiting: VecDeque::new(),
            over_tcp: HashMap::new(),
            over_tcp_next: 0,
            brought_bytes: 0,
        })
    }

    /// Whether pages still come by RDMA.
    #[must_use]
    pub const fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// How many bytes have come by RDMA.
    #[must_use]
    pub const fn brought_bytes(&self) -> u64 {
        self.brought_bytes
    }

    /// Begins what can be begun.
    fn launch(&mut self) -> Result<(), SourceError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(token) = waiting.pop_front() {
            match self.launch_one(token) {
                Ok(Launched::Begun) => {}
                Ok(Launched::Waits) => self.waiting.push_back(token),
                // Nobody overtakes it, or it might wait for ever.
                Ok(Launched::NoRoom) => {
                    self.waiting.push_back(token);
                    break;
                }
                // All of them are begun over the connection.
                Err(Failure::Device(error)) => {
                    waiting.push_front(token);
                    self.waiting.append(&mut waiting);
                    self.fall_back(&error);
                    waiting = std::mem::take(&mut self.waiting);
                }
                Err(Failure::Source(error)) => return Err(error),
            }
        }
        self.waiting.append(&mut waiting);
        Ok(())
    }

    fn launch_one(&mut self, token: u64) -> Result<Launched, Failure> {
        let Some(read) = self.reads.get_mut(&token) else { return Ok(Launched::Begun) };
        if self.over_tcp.len() >= READS_MAX {
            return Ok(Launched::NoRoom);
        }
        // What may not be read is its host's to refuse.
        let is_granted = read.ranges.iter().all(|range| self.granted.allows(*range));
        let Some(direct) = self.direct.as_mut().filter(|_| is_granted) else { return self.launch_over_tcp(token) };
        let Plan { pieces, over_tcp, unasked, is_waiting } = direct.places.plan(&read.ranges);
        for piece in unasked {
            direct.places.note_asked(piece);
            self.tcp.ask(piece, &encode(&Request::Pin(piece)))?;
        }
        if is_waiting {
            return Ok(Launched::Waits);
        }
        if pieces.is_empty() {
            return self.launch_over_tcp(token);
        }
        let Some(at) = direct.room.take(token, read.bytes) else { return Ok(Launched::NoRoom) };
        let bytes = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        let by_device = direct.post(token, at, pieces).map_err(Failure::Device)?;
        read.gathered = Some(Gathered { at, by_device, bytes, is_tcp_missing: !over_tcp.is_empty() });
        if !over_tcp.is_empty() {
            let places = over_tcp.iter().map(|(range, place)| (*place, range.bytes as usize)).collect();
            let ranges: Vec<Range> = over_tcp.iter().map(|(range, _)| *range).collect();
            self.begin_over_tcp(&ranges, Part::Some(token, places))?;
        }
        Ok(Launched::Begun)
    }

    fn launch_over_tcp(&mut self, token: u64) -> Result<Launched, Failure> {
        let Some(read) = self.reads.get_mut(&token) else { return Ok(Launched::Begun) };
        let ranges = std::mem::take(&mut read.ranges);
        self.begin_over_tcp(&ranges, Part::Whole(token))?;
        Ok(Launched::Begun)
    }

    fn begin_over_tcp(&mut self, ranges: &[Range], part: Part) -> Result<(), SourceError> {
        let token = self.over_tcp_next;
        self.over_tcp_next += 1;
        self.over_tcp.insert(token, Some(part));
        self.tcp.begin(token, ranges)
    }

    /// From now on everything is read over the connection.
    fn fall_back(&mut self, error: &ReadError) {
        tracing::warn!(%error, "reads of a seed by RDMA have failed; it is read over its connection");
        // What the device was asked for goes where nobody looks any more.
        self.direct = None;
        let mut begun: Vec<u64> = Vec::new();
        for (token, read) in &mut self.reads {
            if read.gathered.take().is_some() {
                begun.push(*token);
            }
        }
        for part in self.over_tcp.values_mut() {
            if matches!(part, Some(Part::Some(..))) {
                *part = None;
            }
        }
        // They were begun before those that wait.
        begun.into_iter().for_each(|token| self.waiting.push_front(token));
    }

    /// Takes what the device has read, and hands over what is complete.
    fn collect(&mut self, each: &mut dyn FnMut(u64, &[u8])) {
        let Self { direct: Some(direct), reads, brought_bytes, .. } = self else { return };
        let mut done = std::mem::take(&mut direct.done);
        let outcome = direct.take(&mut done);
        for token in done.drain(..) {
            if let Some(gathered) = reads.get_mut(&token).and_then(|read| read.gathered.as_mut()) {
                gathered.by_device -= 1;
                *brought_bytes += std::mem::take(&mut gathered.bytes);
                hand_over(direct, reads, token, each);
            }
        }
        direct.done = done;
        if let Err(error) = outcome {
            self.fall_back(&error);
        }
    }

    /// Takes what has come over the connection.
    fn receive(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        let Self { tcp, direct, reads, over_tcp, .. } = self;
        tcp.answers(&mut |token, pages| match over_tcp.remove(&token).flatten() {
            None => {}
            Some(Part::Whole(token)) => {
                reads.remove(&token);
                each(token, pages);
            }
            Some(Part::Some(token, places)) => {
                let Some(direct) = direct else { return };
                let Some(gathered) = reads.get_mut(&token).and_then(|read| read.gathered.as_mut()) else { return };
                let mut rest = pages;
                for (place, bytes) in places {
                    let (part, after) = rest.split_at(bytes);
                    direct.bytes_mut(gathered.at + place, bytes).copy_from_slice(part);
                    rest = after;
                }
                gathered.is_tcp_missing = false;
                hand_over(direct, reads, token, each);
            }
        })?;
        for (piece, answer) in tcp.told() {
            let Answer::Pinned(region) = decode(&answer)? else {
                return Err(WireError::Senseless("another answer than to what was asked").into());
            };
            if let Some(direct) = direct {
                direct.places.note_answer(piece, region)?;
            }
        }
        Ok(())
    }
}

/// Hands a read over if it is complete.
fn hand_over(direct: &mut Direct, reads: &mut HashMap<u64, Read>, token: u64, each: &mut dyn FnMut(u64, &[u8])) {
    let Some(read) = reads.get(&token) else { return };
    let Some(Gathered { at, by_device: 0, is_tcp_missing: false, .. }) = read.gathered else { return };
    each(token, direct.bytes(at, read.bytes));
    direct.room.give_back(token);
    reads.remove(&token);
}

/// What became of a read that was to be begun.
enum Launched {
    Begun,
    /// Something is pinned for it first.
    Waits,
    /// Others must end first.
    NoRoom,
}

enum Failure {
    Device(ReadError),
    Source(SourceError),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl PageSource for RdmaSource {
    fn begin(&mut self, token: u64, ranges: &[Range]) -> Result<(), SourceError> {
        let bytes = check_size(ranges, self.reads.len())? as usize;
        self.reads.insert(token, Read { ranges: ranges.to_vec(), bytes, gathered: None });
        self.waiting.push_back(token);
        self.launch()
    }

    fn answers(&mut self, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), SourceError> {
        self.collect(each);
        self.receive(each)?;
        if !self.waiting.is_empty() {
            self.launch()?;
        }
        Ok(())
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn take_learned(&mut self) -> Result<Learned, SourceError> {
        self.tcp.take_learned()
    }

    fn teach(&mut self, ranges: &[Range]) -> Result<(), SourceError> {
        self.tcp.teach(ranges)
    }

    fn let_go(&mut self) -> Result<bool, SourceError> {
        self.direct = None;
        self.tcp.let_go()
    }

    fn lease_ends(&self) -> Option<Instant> {
        self.tcp.lease_ends()
    }
}

impl fmt::Debug for RdmaSource {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("RdmaSource").field("is_direct", &self.is_direct()).field("tcp", &self.tcp).finish()
    }
}
