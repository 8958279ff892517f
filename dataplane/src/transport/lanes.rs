//! What the ring and socket transports share: one lane per pair of instances that policy lets talk.
//!
//! The supervisor makes the lanes, so a lane's existence *is* the permission and its far end *is* the sender's
//! identity. Ownership of slots moves in the domain's ledger before the descriptor is pushed, and back if the push
//! fails.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, Kind, PacketDescriptor, Refusal};
use ramet_shm::ledger::Ledger;

use super::{patience::Patience, ring, socket};
use crate::endpoint::{Endpoint, LinkEnd, Links, ReceiveError, Receiver, SendError, Sender, TransportKind, Wait};

/// The writing end of a lane.
pub(super) trait OutLane: Debug + Send + Sync {
    /// Pushes the whole batch or nothing.
    fn push(&self, batch: &[PacketDescriptor]) -> Result<(), PushError>;
    /// How much the reader has to do, as far as this end can tell.
    fn load(&self) -> u64;
}

/// Why a push failed; nothing was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushError {
    /// No room.
    Full,
    /// The far side is gone or hostile.
    Broken,
}

/// The reading end of a lane.
pub(super) trait InLane: Debug + Send {
    /// Takes up to `most` descriptors. An error gives the lane up.
    fn pop(&mut self, most: usize, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, Broken>;
    /// Whether something is there. A lane that a look costs a system call says false and rings its descriptor instead.
    fn ready(&self) -> bool;
    /// Asks for the doorbell at the next push.
    fn announce_wait(&self);
    /// Takes that back.
    fn awake(&self);
    /// Tells the far side how many messages the reader holds.
    fn publish_load(&self, messages: u32);
    /// The same for other threads; `None` for lanes that do not tell.
    fn gauge(&self) -> Option<Box<dyn Gauge>>;
}

/// Where one lane's writer reads how many messages the lane's reader holds.
pub(super) trait Gauge: Debug + Send + Sync {
    /// Tells it.
    fn show(&self, messages: u32);
}

/// The lane's far side is gone or hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

/// Who an instance is, for a transport that has no kernel to ask.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Its id; what receivers see as the sender.
    pub instance: InstanceId,
    /// The owner that the ledger names: the instance, or [`InstanceId::NONE`] for a gateway worker.
    pub owner: InstanceId,
}

/// Makes the endpoint of an instance; links come later.
///
/// `ledger` gives the ledger that a peer's slots are in: a function knows one, a gateway worker one per domain.
///
/// # Errors
/// `epoll_create`'s error.
pub fn endpoint(
    kind: TransportKind,
    me: Member,
    ledgers: Arc<dyn Ledgers>,
    patience: Patience,
) -> io::Result<Endpoint> {
    let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    let changes = Arc::new(SegQueue::new());
    let out = Arc::new(Outgoing {
        kind,
        me,
        ledgers,
        lanes: RwLock::default(),
        gauges: RwLock::default(),
        turn: AtomicUsize::new(0),
        changes: Arc::clone(&changes),
        epoll: Arc::clone(&epoll),
    });
    let receiver = Incoming {
        me,
        epoll,
        changes,
        lanes: Vec::new(),
        first: 0,
        rejected: 0,
        patience,
        polls: kind == TransportKind::Socket,
    };
    Ok(Endpoint { sender: out.clone(), receiver: Box::new(receiver), links: Some(out) })
}

/// Where a peer's slots are accounted for.
pub trait Ledgers: Debug + Send + Sync {
    /// The ledger of the domain that this endpoint shares with `peer`.
    fn shared_with(&self, peer: InstanceId) -> Option<Ledger>;
}

impl Ledgers for Ledger {
    fn shared_with(&self, _peer: InstanceId) -> Option<Ledger> {
        Some(self.clone())
    }
}

#[derive(Debug)]
struct OutPeer {
    instance: InstanceId,
    capacity: u32,
    /// Only what names it goes to it.
    is_retiring: bool,
    ledger: Ledger,
    lane: Box<dyn OutLane>,
}

/// News for the receiving half, which another thread may be waiting in.
#[derive(Debug)]
enum Change {
    Joined(InPeer),
    Left(InstanceId),
}

#[derive(Debug)]
struct Outgoing {
    kind: TransportKind,
    me: Member,
    ledgers: Arc<dyn Ledgers>,
    lanes: RwLock<HashMap<FunctionId, Vec<OutPeer>>>,
    /// One for each lane that comes in.
    gauges: RwLock<Vec<(InstanceId, Box<dyn Gauge>)>>,
    turn: AtomicUsize,
    changes: Arc<SegQueue<Change>>,
    epoll: Arc<Epoll>,
}

impl Sender for Outgoing {
    fn send(&self, batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let first = batch.first().ok_or(SendError::Refused(Refusal::Malformed))?;
        if batch.len() > BATCH_MAX {
            return Err(SendError::Refused(Refusal::Malformed));
        }
        if batch.iter().any(|descriptor| (descriptor.function, descriptor.peer) != (first.function, first.peer)) {
            return Err(SendError::Refused(Refusal::MixedBatch));
        }
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let peers = lanes.get(&first.function).ok_or(SendError::Refused(Refusal::EdgeDenied))?;
        if first.peer == InstanceId::NONE {
            return self.send_to_least_loaded(peers, batch);
        }
        let named = peers.iter().find(|peer| peer.instance == first.peer);
        self.send_to(named.ok_or(SendError::Refused(Refusal::NoReplica))?, batch)
    }
}

impl Outgoing {
    /// Sends to the replica with the least to do; those of equal load take turns.
    fn send_to_least_loaded(&self, peers: &[OutPeer], batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let first = if peers.len() > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % peers.len() } else { 0 };
        let in_turn = || peers[first..].iter().chain(&peers[..first]).filter(|peer| !peer.is_retiring);
        let best = in_turn().min_by_key(|peer| peer.lane.load()).ok_or(SendError::Refused(Refusal::NoReplica))?;
        if best.lane.load() >= u64::from(best.capacity) {
            return Err(SendError::Refused(Refusal::Full));
        }
        match self.send_to(best, batch) {
            Err(SendError::Refused(Refusal::Full | Refusal::Unreachable)) if peers.len() > 1 => {}
            done => return done,
        }
        let others = in_turn().filter(|peer| peer.instance != best.instance);
        for peer in others {
            match self.send_to(peer, batch) {
                Err(SendError::Refused(Refusal::Full | Refusal::Unreachable)) => {}
                done => return done,
            }
        }
        Err(SendError::Refused(Refusal::Full))
    }

    fn send_to(&self, peer: &OutPeer, batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let to_gateway = batch.first().is_some_and(|first| first.function == FunctionId::GATEWAY);
        let to = if to_gateway { InstanceId::NONE } else { peer.instance };
        for (done, descriptor) in batch.iter().enumerate() {
            if descriptor.moves_slot()
                && !peer.ledger.hand_over(descriptor.slot, descriptor.generation, self.me.owner, to)
            {
                self.undo(peer, &batch[..done], to);
                return Err(SendError::Refused(Refusal::NotOwner));
            }
        }
        peer.lane.push(batch).map_err(|error| {
            self.undo(peer, batch, to);
            SendError::Refused(match error {
                PushError::Full => Refusal::Full,
                PushError::Broken => Refusal::Unreachable,
            })
        })
    }

    fn undo(&self, peer: &OutPeer, sent: &[PacketDescriptor], to: InstanceId) {
        for descriptor in sent.iter().filter(|descriptor| descriptor.moves_slot()) {
            // False means that somebody with more right took the slot meanwhile: then it is not ours to restore.
            let _ = peer.ledger.hand_over(descriptor.slot, descriptor.generation, to, self.me.owner);
        }
    }
}

impl Links for Outgoing {
    fn add_outgoing(&self, peer: InstanceId, function: FunctionId, capacity: u32, end: LinkEnd) -> io::Result<()> {
        let lane = match self.kind {
            TransportKind::Ring => ring::out_lane(end)?,
            TransportKind::Socket => socket::out_lane(end)?,
            TransportKind::SkMsg => return Err(io::Error::other("S mode has no lanes")),
        };
        let ledger =
            self.ledgers.shared_with(peer).ok_or_else(|| io::Error::other("the peer is of no known domain"))?;
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let peers = lanes.entry(function).or_default();
        peers.retain(|known| known.instance != peer);
        peers.push(OutPeer { instance: peer, capacity, is_retiring: false, ledger, lane });
        Ok(())
    }

    fn add_incoming(&self, peer: InstanceId, function: FunctionId, end: LinkEnd) -> io::Result<()> {
        let (lane, bell) = match self.kind {
            TransportKind::Ring => ring::in_lane(end)?,
            TransportKind::Socket => socket::in_lane(end)?,
            TransportKind::SkMsg => return Err(io::Error::other("S mode has no lanes")),
        };
        let ledger =
            self.ledgers.shared_with(peer).ok_or_else(|| io::Error::other("the peer is of no known domain"))?;
        // Edge-triggered: each ring is one event, and nobody has to silence the bell.
        let mut flags = EpollFlags::EPOLLIN;
        if self.kind == TransportKind::Ring {
            flags |= EpollFlags::EPOLLET;
        }
        self.epoll.add(&bell, EpollEvent::new(flags, u64::from(peer.0)))?;
        // From now on the first push rings, also while the receiver waits without knowing of this lane.
        lane.announce_wait();
        if let Some(gauge) = lane.gauge() {
            let mut gauges = self.gauges.write().unwrap_or_else(PoisonError::into_inner);
            gauges.retain(|(known, _)| *known != peer);
            gauges.push((peer, gauge));
        }
        self.changes.push(Change::Joined(InPeer {
            instance: peer,
            function,
            ledger,
            lane,
            bell,
            state: LaneState::Open,
        }));
        Ok(())
    }

    fn retire(&self, peer: InstanceId) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        let known = lanes.values_mut().flatten().find(|known| known.instance == peer);
        known.into_iter().for_each(|known| known.is_retiring = true);
    }

    fn close(&self, peer: InstanceId) {
        let mut lanes = self.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes.values_mut().for_each(|peers| peers.retain(|known| known.instance != peer));
    }

    fn remove(&self, peer: InstanceId) {
        self.close(peer);
        self.gauges.write().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != peer);
        self.changes.push(Change::Left(peer));
    }

    fn publish_load(&self, messages: u32) {
        for (_, gauge) in self.gauges.read().unwrap_or_else(PoisonError::into_inner).iter() {
            gauge.show(messages);
        }
    }
}

#[derive(Debug)]
struct InPeer {
    instance: InstanceId,
    function: FunctionId,
    ledger: Ledger,
    lane: Box<dyn InLane>,
    bell: OwnedFd,
    state: LaneState,
}

/// Open → Draining when the peer has left, → Broken when its far side breaks the rules. Both end in removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    Open,
    Draining,
    Broken,
}

#[derive(Debug)]
struct Incoming {
    me: Member,
    epoll: Arc<Epoll>,
    changes: Arc<SegQueue<Change>>,
    lanes: Vec<InPeer>,
    /// Which lane is looked at first, so that a busy one cannot starve the others.
    first: usize,
    rejected: u64,
    patience: Patience,
    /// Whether looking at a lane is a system call, so that spinning on it would be pointless.
    polls: bool,
}

impl Receiver for Incoming {
    fn receive(&mut self, wait: Wait, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        let taken = self.take_ready(take)?;
        if taken > 0 || wait == Wait::No {
            return Ok(taken);
        }
        let deadline = match wait {
            Wait::For(timeout) => Some(Instant::now() + timeout),
            Wait::Forever | Wait::No => None,
        };
        loop {
            self.wait_until(deadline)?;
            let taken = self.take_ready(take)?;
            if taken > 0 || deadline.is_some_and(|deadline| Instant::now() >= deadline) {
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

    fn publish_load(&mut self, messages: u32) {
        for peer in &self.lanes {
            peer.lane.publish_load(messages);
        }
    }

    fn rejected(&self) -> u64 {
        self.rejected
    }
}

impl Incoming {
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
            }
        }
    }

    fn take_ready(&mut self, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        if !self.changes.is_empty() {
            self.adopt_changes();
        }
        let count = self.lanes.len();
        let (mut taken, mut ending) = (0, false);
        for turn in 0..count {
            if taken >= BATCH_MAX {
                break;
            }
            let index = (self.first + turn) % count;
            let peer = &mut self.lanes[index];
            let check =
                Check { owner: self.me.owner, instance: peer.instance, function: peer.function, ledger: &peer.ledger };
            let rejected = &mut self.rejected;
            let popped = peer.lane.pop(BATCH_MAX - taken, &mut |descriptor| match check.admit(descriptor) {
                Some(descriptor) => {
                    taken += 1;
                    take(descriptor);
                }
                None => *rejected += 1,
            });
            if popped.is_err() {
                peer.state = LaneState::Broken;
            }
            ending |= peer.state != LaneState::Open;
        }
        self.first = self.first.wrapping_add(1) % count.max(1);
        if ending {
            self.remove_ended();
        }
        Ok(taken)
    }

    fn remove_ended(&mut self) {
        let epoll = &self.epoll;
        self.lanes.retain(|peer| {
            let ended = match peer.state {
                LaneState::Open => false,
                LaneState::Draining => !peer.lane.ready(),
                LaneState::Broken => true,
            };
            if ended {
                let _ = epoll.delete(&peer.bell);
            }
            !ended
        });
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<(), ReceiveError> {
        let start = Instant::now();
        if !self.polls && self.spin(start) {
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
    fn spin(&self, start: Instant) -> bool {
        let budget = self.patience.budget();
        while start.elapsed() < budget {
            for _ in 0..Patience::LOOKS {
                if self.anything_ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        false
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
            let word = self.ledger.read(descriptor.slot)?;
            if word.owner != self.owner || word.generation != descriptor.generation {
                return None;
            }
        }
        Some(descriptor.to_instance(self.instance))
    }
}
