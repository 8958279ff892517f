//! The receiving half: every lane in turn, each descriptor checked.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use ramet_common::{ABI, BATCH_MAX, FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_shm::ledger::{Ledger, Slots};
use ramet_shm::meter::MeterIn;

use super::{Change, InLane, Member, Stamp};
use crate::clock;
use crate::endpoint::{ReceiveError, Receiver, TransportKind, Wait};
use crate::transport::patience::{Looked, Patience};

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
    /// What one lane brought. Empty between two looks, and never longer than two batches.
    batch: Vec<PacketDescriptor>,
    /// Which lane is looked at first, so that a busy one cannot starve the others.
    first: usize,
    rejected: u64,
    /// Whether whoever waits is to return.
    is_woken: bool,
    patience: Patience,
    /// Whether looking at a lane is a system call, so that it is not looked at again and again.
    polls: bool,
    meter: Option<MeterIn>,
    /// Whatever is in the lanes came after this time, but for what a stamp does not tell apart.
    empty_ns: u64,
    /// What the gateway may send here, and what functions may.
    allowed: Allowed,
}

impl Receiver for Incoming {
    fn receive(&mut self, wait: Wait, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        let taken = self.take_ready(take)?;
        if std::mem::take(&mut self.is_woken) || taken > 0 || wait == Wait::No {
            return Ok(taken);
        }
        let deadline_ns = match wait {
            Wait::For(timeout) => clock::after(timeout),
            Wait::Forever | Wait::No => u64::MAX,
        };
        loop {
            self.wait_until(deadline_ns)?;
            let taken = self.take_ready(take)?;
            let is_over = || deadline_ns != u64::MAX && clock::until(deadline_ns).is_zero();
            if std::mem::take(&mut self.is_woken) || taken > 0 || is_over() {
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
        let is_empty = !self.anything_ready();
        if is_empty && self.meter.is_some() {
            self.empty_ns = clock::now_ns();
        }
        Ok(is_empty)
    }

    fn disarm(&mut self) {
        self.awake();
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
        meter: Option<MeterIn>,
    ) -> Self {
        let polls = kind == TransportKind::Socket;
        Self {
            me,
            epoll,
            changes,
            lanes: Vec::new(),
            batch: Vec::with_capacity(2 * BATCH_MAX),
            first: 0,
            rejected: 0,
            is_woken: false,
            patience: if polls { Patience::none() } else { patience },
            polls,
            meter: meter.filter(|_| me.owner != InstanceId::NONE),
            empty_ns: clock::now_ns(),
            allowed: Allowed::to(me.owner),
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
        let (mut taken, mut ending, mut has_more) = (0, false, false);
        let mut arrivals = Arrivals { empty_ns: self.empty_ns, now_ns: None, messages: 0, times_ns: 0 };
        // Lanes may have gone since.
        let first = if self.first < count { self.first } else { 0 };
        for index in (first..count).chain(0..first) {
            if taken >= BATCH_MAX {
                has_more = true;
                break;
            }
            let peer = &mut self.lanes[index];
            let most = BATCH_MAX - taken;
            let popped = peer.lane.pop(most, &mut self.batch);
            let check = Check {
                owner: self.me.owner,
                instance: peer.instance,
                kinds: self.allowed.from(peer.function),
                slots: peer.ledger.slots(),
            };
            // Those of a batch are all under way at once then, and do not come one after the other.
            self.batch.iter().for_each(|descriptor| check.slots.expect(descriptor.slot));
            if self.meter.is_some() && !self.batch.is_empty() {
                // While the ledger's words are under way.
                arrivals.came(clock::now_ns);
            }
            for descriptor in self.batch.drain(..) {
                let Some(mut descriptor) = check.admit(descriptor) else {
                    self.rejected += 1;
                    continue;
                };
                taken += 1;
                if descriptor.gives_work() {
                    arrivals.add(Stamp::of(&descriptor));
                    descriptor.aux = 0;
                }
                take(descriptor);
            }
            let is_empty = popped.is_ok_and(|count| count < most);
            has_more |= !is_empty;
            if popped.is_err() || peer.state == LaneState::Draining && is_empty {
                peer.state = LaneState::Ended;
                ending = true;
            }
        }
        self.first = first + 1;
        if ending {
            self.lanes.retain(|peer| peer.state != LaneState::Ended);
        }
        if let Some(meter) = &mut self.meter {
            if arrivals.messages > 0 {
                meter.count_arrivals(arrivals.messages, arrivals.times_ns);
            }
            self.empty_ns = arrivals.now_ns.filter(|_| !has_more).unwrap_or(self.empty_ns);
        }
        Ok(taken)
    }

    fn wait_until(&mut self, deadline_ns: u64) -> Result<(), ReceiveError> {
        let (changes, lanes) = (&self.changes, &self.lanes);
        let since_ns = match self.patience.look(deadline_ns, || is_anything_ready(changes, lanes)) {
            Looked::Found { empty_ns } => {
                self.empty_ns = empty_ns.unwrap_or(self.empty_ns);
                return Ok(());
            }
            Looked::InVain { since_ns, empty_ns } => {
                self.empty_ns = empty_ns;
                since_ns
            }
        };
        self.announce_wait();
        if !self.anything_ready() {
            let timeout = match deadline_ns {
                u64::MAX => EpollTimeout::NONE,
                _ => {
                    let left = clock::until(deadline_ns).as_nanos().div_ceil(1_000_000);
                    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
                }
            };
            self.wait_for_event(timeout)?;
        }
        self.awake();
        if self.patience.ever_looks() {
            self.patience.slept(Duration::from_nanos(clock::now_ns().saturating_sub(since_ns)));
        }
        Ok(())
    }

    fn announce_wait(&self) {
        for peer in &self.lanes {
            peer.lane.announce_wait();
        }
    }

    fn awake(&self) {
        for peer in &self.lanes {
            peer.lane.awake();
        }
    }

    fn anything_ready(&self) -> bool {
        is_anything_ready(&self.changes, &self.lanes)
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

fn is_anything_ready(changes: &SegQueue<Change>, lanes: &[InPeer]) -> bool {
    !changes.is_empty() || lanes.iter().any(|peer| peer.lane.ready())
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
    /// Some are here.
    fn came(&mut self, clock: impl FnOnce() -> u64) {
        self.now_ns.get_or_insert_with(clock);
    }

    /// Counts one, if the time is known, that is, if anything is counted.
    fn add(&mut self, stamp: Stamp) {
        if let Some(now_ns) = self.now_ns {
            self.messages += 1;
            self.times_ns = self.times_ns.wrapping_add(stamp.time_ns(self.empty_ns, now_ns));
        }
    }
}

/// The kinds that may come, a bit for each.
#[derive(Debug)]
struct Allowed {
    from_gateway: u32,
    from_functions: u32,
}

impl Allowed {
    /// What may come to an owner of slots.
    fn to(owner: InstanceId) -> Self {
        let to_gateway = owner == InstanceId::NONE;
        let bits = |from_gateway: bool| {
            let may_come = |kind: &Kind| {
                let is_addressed = if to_gateway { *kind != Kind::Call } else { !kind.to_gateway_only() };
                is_addressed && (from_gateway || !kind.gateway_only())
            };
            (0..32).filter_map(Kind::from_u8).filter(may_come).fold(0, |bits, kind| bits | 1 << kind as u32)
        };
        Self { from_gateway: bits(true), from_functions: bits(false) }
    }

    const fn from(&self, function: FunctionId) -> u32 {
        if function.0 == FunctionId::GATEWAY.0 { self.from_gateway } else { self.from_functions }
    }
}

/// What a receiver can check of a descriptor by itself.
struct Check<'a> {
    owner: InstanceId,
    instance: InstanceId,
    kinds: u32,
    slots: Slots<'a>,
}

impl Check<'_> {
    /// The descriptor with its true sender, or `None` if the sender had no right to send it.
    #[inline]
    fn admit(&self, descriptor: PacketDescriptor) -> Option<PacketDescriptor> {
        let is_allowed = descriptor.version == ABI && self.kinds.unbounded_shr(descriptor.kind.into()) & 1 != 0;
        let is_whole =
            || !descriptor.moves_slot() || self.slots.is_owned(descriptor.slot, descriptor.generation, self.owner);
        (is_allowed && is_whole()).then(|| descriptor.to_instance(self.instance))
    }
}
