//! The sending half, and the peers' comings and goings.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, PacketDescriptor, Refusal};
use ramet_shm::ledger::Ledger;
use ramet_shm::meter::Meter;

use super::incoming::{Bell, InPeer, LaneState};
use super::{Change, Ledgers, Member, OutLane, PushError, Stamp};
use crate::clock;
use crate::endpoint::{LinkEnd, Links, SendError, Sender, TransportKind};
use crate::transport::{ring, socket};

#[derive(Debug)]
struct OutPeer {
    instance: InstanceId,
    capacity: u32,
    /// Only what names it goes to it.
    is_retiring: bool,
    ledger: Ledger,
    lane: Box<dyn OutLane>,
    /// The load that was seen last, and what was sent since.
    at_most: AtomicU32,
}

impl OutPeer {
    /// How many more messages it may be given; zero or less when its queue is full.
    fn residual(&self) -> i64 {
        let load = self.ledger.load(self.instance);
        self.at_most.store(load, Ordering::Relaxed);
        i64::from(self.capacity) - i64::from(load)
    }

    /// Whether it may be given more. Looking costs the lines of all who count there, so as long as what was sent since
    /// the last look is less than half of what it may have, it is not looked again: then others gave it more at most.
    fn has_room(&self) -> bool {
        self.at_most.load(Ordering::Relaxed) < self.capacity / 2 || self.residual() > 0
    }
}

#[derive(Debug)]
pub(super) struct Outgoing {
    kind: TransportKind,
    me: Member,
    ledgers: Arc<dyn Ledgers>,
    lanes: RwLock<HashMap<FunctionId, Vec<OutPeer>>>,
    turn: AtomicUsize,
    changes: Arc<SegQueue<Change>>,
    epoll: Arc<Epoll>,
    /// Ends the wait of whoever receives.
    alarm: EventFd,
    meter: Option<Meter>,
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
            return self.send_to_any(peers, batch);
        }
        let named = peers.iter().find(|peer| peer.instance == first.peer);
        self.send_to(named.ok_or(SendError::Refused(Refusal::NoReplica))?, batch)
    }
}

impl Outgoing {
    pub(super) fn new(
        kind: TransportKind,
        me: Member,
        ledgers: Arc<dyn Ledgers>,
        changes: Arc<SegQueue<Change>>,
        epoll: Arc<Epoll>,
        alarm: EventFd,
        meter: Option<Meter>,
    ) -> Self {
        Self { kind, me, ledgers, lanes: RwLock::default(), turn: AtomicUsize::new(0), changes, epoll, alarm, meter }
    }

    /// Sends to the replica with the most residual capacity; equals take turns.
    fn send_to_any(&self, peers: &[OutPeer], batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let first = if peers.len() > 1 { self.turn.fetch_add(1, Ordering::Relaxed) % peers.len() } else { 0 };
        let in_turn = || peers[first..].iter().chain(&peers[..first]).filter(|peer| !peer.is_retiring);
        let best = match peers {
            [only] if !only.is_retiring => Some((only, only.has_room())),
            // Of equals the first in turn: `min_by_key` keeps the first where `max_by_key` would keep the last.
            _ => in_turn()
                .map(|peer| (-peer.residual(), peer))
                .min_by_key(|(load, _)| *load)
                .map(|(load, peer)| (peer, load < 0)),
        };
        let (best, has_room) = best.ok_or(SendError::Refused(Refusal::NoReplica))?;
        if !has_room {
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
        let now_ns = clock::now_ns();
        peer.lane.push(batch, Stamp::at(now_ns)).map_err(|error| {
            self.undo(peer, batch, to);
            SendError::Refused(match error {
                PushError::Full => Refusal::Full,
                PushError::Broken => Refusal::Unreachable,
            })
        })?;
        self.count(peer, to, batch, now_ns);
        Ok(())
    }

    /// Books what a send did: as SPROXY does, but each in its own meter.
    fn count(&self, peer: &OutPeer, to: InstanceId, batch: &[PacketDescriptor], now_ns: u64) {
        let given = batch.iter().filter(|descriptor| descriptor.gives_work()).count();
        if given > 0 {
            peer.ledger.give_load(to, self.me.instance, given as u32);
            peer.at_most.fetch_add(given as u32, Ordering::Relaxed);
        }
        let is_function = self.me.owner != InstanceId::NONE;
        let ended = batch.iter().filter(|descriptor| is_function && descriptor.ends_work()).count();
        if ended > 0 {
            peer.ledger.ease_load(self.me.owner, ended as u32);
        }
        let (Some(meter), Some(first)) = (&self.meter, batch.first()) else { return };
        meter.count_sent(first.function, batch.len() as u64);
        if ended > 0 {
            meter.count_departures(ended as u64, now_ns);
        }
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
        peers.push(OutPeer { instance: peer, capacity, is_retiring: false, ledger, lane, at_most: AtomicU32::new(0) });
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
        let bell = Bell::hang(bell, &self.epoll, EpollEvent::new(flags, u64::from(peer.0)))?;
        // From now on the first push rings, also while the receiver waits without knowing of this lane.
        lane.announce_wait();
        self.changes.push(Change::Joined(InPeer {
            instance: peer,
            function,
            ledger,
            lane,
            state: LaneState::Open,
            _bell: bell,
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
        self.changes.push(Change::Left(peer));
    }

    fn wake(&self) {
        self.changes.push(Change::Woken);
        // An eventfd that cannot be written is at its limit, and was an event when it came there.
        let _ = self.alarm.write(1);
    }
}
