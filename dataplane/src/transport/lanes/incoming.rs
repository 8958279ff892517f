//! The receiving half: every lane in turn, each descriptor checked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_shm::ledger::Ledger;
use ramet_shm::meter::Meter;

use super::{Change, InLane, Member, Stamp};
use crate::clock;
use crate::endpoint::{ReceiveError, Receiver, TransportKind, Wait};
use crate::transport::patience::Patience;

#[derive(Debug)]
pub(super) struct InPeer {
    pub(super) instance: InstanceId,
    pub(super) function: FunctionId,
    pub(super) ledger: Ledger,
    pub(super) lane: Box<dyn InLane>,
    pub(super) state: LaneState,
    /// Hangs for as long as this is kept.
    pub(super) _bell: Bell,
}

/// What wakes the receiver. As long as the peer has it, too, an epoll that was not told goes on watching it.
#[derive(Debug)]
pub(super) struct Bell {
    bell: OwnedFd,
    epoll: Arc<Epoll>,
}

impl Bell {
    /// Hangs it where the receiver waits.
    pub(super) fn hang(bell: OwnedFd, epoll: &Arc<Epoll>, event: EpollEvent) -> io::Result<Self> {
        epoll.add(&bell, event)?;
        Ok(Self { bell, epoll: Arc::clone(epoll) })
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        // It was added, and nobody else takes it away.
        let _ = self.epoll.delete(&self.bell);
    }
}

/// Open → Draining when the peer has left → Ended when what it sent before is taken; → Ended when its far side breaks
/// the rules. Only a look that finds the lane empty tells: not every lane knows without one, and no message of a peer
/// that has left may be lost, because its slot is the receiver's already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    Open,
    Draining,
    Ended,
}

#[derive(Debug)]
pub(super) struct Incoming {
    me: Member,
    epoll: Arc<Epoll>,
    changes: Arc<SegQueue<Change>>,
    lanes: Vec<InPeer>,
    /// Which lane is looked at first, so that a busy one cannot starve the others.
    first: usize,
    rejected: u64,
    /// Whether whoever waits is to return.
    is_woken: bool,
    patience: Patience,
    /// Whether looking at a lane is a system call, so that spinning on it would be pointless.
    polls: bool,
    meter: Option<Meter>,
    /// When a look last found every lane empty.
    empty_ns: u64,
}

impl Receiver for Incoming {
    fn receive(&mut self, wait: Wait, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        let taken = self.take_ready(take)?;
        if std::mem::take(&mut self.is_woken) || taken > 0 || wait == Wait::No {
            return Ok(taken);
        }
        let deadline = match wait {
            Wait::For(timeout) => Some(Instant::now() + timeout),
            Wait::Forever | Wait::No => None,
        };
        loop {
            self.wait_until(deadline)?;
            let taken = self.take_ready(take)?;
            if std::mem::take(&mut self.is_woken)
                || taken > 0
                || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(taken);
            }
        }
    }

    fn arm(&mut self) -> Result<bool, ReceiveError> {
        self.announce_wait();
        if !self.polls {
            // An outer event loop would find the epoll readable for ever. Before the look, or a ring would be lost.
            self.wait_for_event(EpollTimeout::ZERO)?;
        }
        Ok(!self.anything_ready())
    }

    fn rejected(&self) -> u64 {
        self.rejected
    }
}

impl Incoming {
    pub(super) fn new(
        kind: TransportKind,
        me: Member,
        epoll: Arc<Epoll>,
        changes: Arc<SegQueue<Change>>,
        patience: Patience,
        meter: Option<Meter>,
    ) -> Self {
        let polls = kind == TransportKind::Socket;
        Self {
            me,
            epoll,
            changes,
            lanes: Vec::new(),
            first: 0,
            rejected: 0,
            is_woken: false,
            patience,
            polls,
            meter: meter.filter(|_| me.owner != InstanceId::NONE),
            empty_ns: clock::now_ns(),
        }
    }

    fn adopt_changes(&mut self) {
        while let Some(change) = self.changes.pop() {
            match change {
                Change::Joined(peer) => {
                    self.lanes.retain(|known| known.instance != peer.instance);
                    self.lanes.push(peer);
                }
                Change::Left(peer) => {
                    for lane in self.lanes.iter_mut().filter(|lane| lane.instance == peer) {
                        lane.state = LaneState::Draining;
                    }
                }
                Change::Woken => self.is_woken = true,
            }
        }
    }

    fn take_ready(&mut self, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        if !self.changes.is_empty() {
            self.adopt_changes();
        }
        let count = self.lanes.len();
        let (mut taken, mut ending) = (0, false);
        let mut arrivals = Arrivals { empty_ns: self.empty_ns, now_ns: None, messages: 0, times_ns: 0 };
        for turn in 0..count {
            if taken >= BATCH_MAX {
                break;
            }
            let index = (self.first + turn) % count;
            let peer = &mut self.lanes[index];
            let check =
                Check { owner: self.me.owner, instance: peer.instance, function: peer.function, ledger: &peer.ledger };
            let (rejected, is_counted) = (&mut self.rejected, self.meter.is_some());
            let most = BATCH_MAX - taken;
            let popped = peer.lane.pop(most, &mut |descriptor| match check.admit(descriptor) {
                Some(mut descriptor) => {
                    taken += 1;
                    if descriptor.gives_work() {
                        if is_counted {
                            arrivals.add(Stamp::of(&descriptor));
                        }
                        descriptor.aux = 0;
                    }
                    take(descriptor);
                }
                None => *rejected += 1,
            });
            let is_empty = popped.is_ok_and(|count| count < most);
            if popped.is_err() || peer.state == LaneState::Draining && is_empty {
                peer.state = LaneState::Ended;
                ending = true;
            }
        }
        self.first = self.first.wrapping_add(1) % count.max(1);
        if ending {
            self.lanes.retain(|peer| peer.state != LaneState::Ended);
        }
        if let Some(meter) = &self.meter {
            if taken == 0 {
                self.empty_ns = clock::now_ns();
            } else if arrivals.messages > 0 {
                meter.count_arrivals(arrivals.messages, arrivals.times_ns);
            }
        }
        Ok(taken)
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        let start = Instant::now();
        if !self.polls && self.spin(start, deadline) {
            self.patience.waited(start.elapsed());
            return Ok(());
        }
        self.announce_wait();
        if !self.anything_ready() {
            let timeout = match deadline {
                None => EpollTimeout::NONE,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now()).as_nanos().div_ceil(1_000_000);
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
                }
            };
            self.wait_for_event(timeout)?;
        }
        for peer in &self.lanes {
            peer.lane.awake();
        }
        self.patience.waited(start.elapsed());
        Ok(())
    }

    /// Looks at the lanes again and again, letting others run in between, for as long as that has paid lately.
    fn spin(&self, start: Instant, deadline: Option<Instant>) -> bool {
        let until = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(start));
        let budget = self.patience.budget().min(until);
        if budget.is_zero() {
            return false;
        }
        if self.look_a_while() {
            return true;
        }
        if self.patience.is_pointless_here() {
            return false;
        }
        while start.elapsed() < budget {
            std::thread::yield_now();
            if self.look_a_while() {
                return true;
            }
        }
        false
    }

    fn look_a_while(&self) -> bool {
        (0..Patience::LOOKS).any(|_| {
            let is_ready = self.anything_ready();
            if !is_ready {
                std::hint::spin_loop();
            }
            is_ready
        })
    }

    fn announce_wait(&self) {
        for peer in &self.lanes {
            peer.lane.announce_wait();
        }
    }

    fn anything_ready(&self) -> bool {
        !self.changes.is_empty() || self.lanes.iter().any(|peer| peer.lane.ready())
    }

    fn wait_for_event(&self, timeout: EpollTimeout) -> Result<(), ReceiveError> {
        let mut events = [EpollEvent::empty(); 16];
        match self.epoll.wait(&mut events, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(errno) => Err(ReceiveError::System(errno.into())),
        }
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

/// The messages that one look brought.
struct Arrivals {
    empty_ns: u64,
    /// Asked for once, and only if there are any.
    now_ns: Option<u64>,
    messages: u64,
    times_ns: u64,
}

impl Arrivals {
    fn add(&mut self, stamp: Stamp) {
        let now_ns = *self.now_ns.get_or_insert_with(clock::now_ns);
        self.messages += 1;
        self.times_ns = self.times_ns.wrapping_add(stamp.time_ns(self.empty_ns, now_ns));
    }
}

/// What a receiver can check of a descriptor by itself.
struct Check<'a> {
    owner: InstanceId,
    instance: InstanceId,
    function: FunctionId,
    ledger: &'a Ledger,
}

impl Check<'_> {
    /// The descriptor with its true sender, or `None` if the sender had no right to send it.
    fn admit(&self, descriptor: PacketDescriptor) -> Option<PacketDescriptor> {
        let kind = descriptor.kind()?;
        let from_gateway = self.function == FunctionId::GATEWAY;
        let to_gateway = self.owner == InstanceId::NONE;
        if kind.gateway_only() && !from_gateway || kind.to_gateway_only() && !to_gateway {
            return None;
        }
        if kind == Kind::Call && to_gateway {
            return None;
        }
        if descriptor.moves_slot() {
            let is_mine = self.ledger.is_owned(descriptor.slot, descriptor.generation, self.owner);
            if !is_mine {
                return None;
            }
        }
        Some(descriptor.to_instance(self.instance))
    }
}
