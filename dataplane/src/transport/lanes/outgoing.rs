//! The sending half, and the peers' comings and goings.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use ramet_common::{BATCH_MAX, FunctionId, InstanceId, PacketDescriptor, Refusal};
use ramet_shm::doorbell;
use ramet_shm::ledger::{Ledger, Slots};
use ramet_shm::meter::MeterOut;

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
    at_most: u32,
}

impl OutPeer {
    /// How many more messages it may be given; zero or less when its queue is full.
    fn residual(&mut self) -> i64 {
        let load = self.ledger.load(self.instance);
        self.at_most = load;
        i64::from(self.capacity) - i64::from(load)
    }

    /// Whether it may be given more. Looking costs the lines of all who count there, so as long as what was sent since
    /// the last look is less than half of what it may have, it is not looked again: then others gave it more at most.
    fn has_room(&mut self) -> bool {
        self.at_most < self.capacity / 2 || self.residual() > 0
    }
}

#[derive(Debug)]
pub(super) struct Outgoing {
    kind: TransportKind,
    ledgers: Arc<dyn Ledgers>,
    lanes: Mutex<OutLanes>,
    changes: Arc<SegQueue<Change>>,
    epoll: Arc<Epoll>,
    /// Ends the wait of whoever receives.
    alarm: EventFd,
}

/// Where a member's messages go, and what it counts of them. One lock for all of it, which is held while a batch is
/// written but not while a doorbell rings: each further lock, and each number that several threads may add to at once,
/// costs a hop more than the threads of a function would win.
#[derive(Debug)]
struct OutLanes {
    me: Member,
    peers: BTreeMap<FunctionId, Vec<OutPeer>>,
    /// Which of several equal replicas is the next one's.
    turn: usize,
    meter: Option<MeterOut>,
}

/// Who waits for what was sent, if anybody does.
type Awaited = Option<Arc<OwnedFd>>;

impl Sender for Outgoing {
    fn send(&self, batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let first = batch.first().ok_or(SendError::Refused(Refusal::Malformed))?;
        if batch.len() > BATCH_MAX {
            return Err(SendError::Refused(Refusal::Malformed));
        }
        if batch.iter().any(|descriptor| (descriptor.function, descriptor.peer) != (first.function, first.peer)) {
            return Err(SendError::Refused(Refusal::MixedBatch));
        }
        let awaited = self.lanes().send(first, batch)?;
        if let Some(bell) = awaited {
            // The batch is published: a bell that cannot ring only delays it until the reader looks again.
            let _ = doorbell::ring(bell.as_fd());
        }
        Ok(())
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
        meter: Option<MeterOut>,
    ) -> Self {
        let lanes = OutLanes { me, peers: BTreeMap::new(), turn: 0, meter };
        Self { kind, ledgers, lanes: Mutex::new(lanes), changes, epoll, alarm }
    }

    fn lanes(&self) -> MutexGuard<'_, OutLanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OutLanes {
    fn send(&mut self, first: &PacketDescriptor, batch: &[PacketDescriptor]) -> Result<Awaited, SendError> {
        let Self { me, peers, turn, meter } = self;
        let peers = peers.get_mut(&first.function).ok_or(SendError::Refused(Refusal::EdgeDenied))?;
        let mut hand_over = HandOver { me: *me, meter: meter.as_mut(), batch };
        if first.peer == InstanceId::NONE {
            return hand_over.send_to_any(peers, turn);
        }
        let named = peers.iter_mut().find(|peer| peer.instance == first.peer);
        hand_over.send_to(named.ok_or(SendError::Refused(Refusal::NoReplica))?)
    }
}

/// One send.
struct HandOver<'a> {
    me: Member,
    meter: Option<&'a mut MeterOut>,
    /// All for one destination, and not empty.
    batch: &'a [PacketDescriptor],
}

impl HandOver<'_> {
    /// Sends to the replica with the most residual capacity; equals take turns.
    fn send_to_any(&mut self, peers: &mut [OutPeer], turn: &mut usize) -> Result<Awaited, SendError> {
        if let [only] = peers
            && !only.is_retiring
        {
            return if only.has_room() { self.send_to(only) } else { Err(SendError::Refused(Refusal::Full)) };
        }
        let count = peers.len();
        *turn = turn.wrapping_add(1);
        let first = *turn % count.max(1);
        let in_turn = || (first..count).chain(0..first);
        let mut best = None;
        for place in in_turn() {
            let peer = &mut peers[place];
            if peer.is_retiring {
                continue;
            }
            let residual = peer.residual();
            // Of equals the first in turn.
            if best.is_none_or(|(most, _)| residual > most) {
                best = Some((residual, place));
            }
        }
        let (residual, best) = best.ok_or(SendError::Refused(Refusal::NoReplica))?;
        if residual <= 0 {
            return Err(SendError::Refused(Refusal::Full));
        }
        for place in std::iter::once(best).chain(in_turn().filter(|&place| place != best)) {
            let peer = &mut peers[place];
            if peer.is_retiring {
                continue;
            }
            match self.send_to(peer) {
                Err(SendError::Refused(Refusal::Full | Refusal::Unreachable)) if count > 1 => {}
                done => return done,
            }
        }
        Err(SendError::Refused(Refusal::Full))
    }

    fn send_to(&mut self, peer: &mut OutPeer) -> Result<Awaited, SendError> {
        let (me, batch) = (self.me, self.batch);
        let to_gateway = batch.first().is_some_and(|first| first.function == FunctionId::GATEWAY);
        let to = if to_gateway { InstanceId::NONE } else { peer.instance };
        let slots = peer.ledger.slots();
        let mut tally = Tally::default();
        for (done, descriptor) in batch.iter().enumerate() {
            let is_moved =
                !descriptor.moves_slot() || slots.hand_over(descriptor.slot, descriptor.generation, me.owner, to);
            if !is_moved {
                undo(me, slots, &batch[..done], to);
                return Err(SendError::Refused(Refusal::NotOwner));
            }
            tally.given += u32::from(descriptor.gives_work());
            tally.ended += u32::from(descriptor.ends_work());
        }
        let now_ns = clock::now_ns();
        let awaited = peer.lane.push(batch, Stamp::at(now_ns)).map_err(|error| {
            undo(me, slots, batch, to);
            SendError::Refused(match error {
                PushError::Full => Refusal::Full,
                PushError::Broken => Refusal::Unreachable,
            })
        })?;
        self.count(peer, to, &tally, now_ns);
        Ok(awaited)
    }

    /// Books what a send did: as SPROXY does, but each in its own meter.
    fn count(&mut self, peer: &mut OutPeer, to: InstanceId, tally: &Tally, now_ns: u64) {
        let (me, batch) = (self.me, self.batch);
        if tally.given > 0 {
            peer.ledger.give_load(to, me.instance, tally.given);
            peer.at_most = peer.at_most.wrapping_add(tally.given);
        }
        // The gateway is no function, and has no load.
        let ended = if me.owner == InstanceId::NONE { 0 } else { tally.ended };
        if ended > 0 {
            peer.ledger.ease_load(me.owner, ended);
        }
        let (Some(meter), Some(first)) = (&mut self.meter, batch.first()) else { return };
        meter.count_sent(first.function, batch.len() as u64);
        if ended > 0 {
            meter.count_departures(ended.into(), now_ns);
        }
    }
}

/// What a batch does.
#[derive(Default)]
struct Tally {
    /// How many messages give their destination work.
    given: u32,
    /// How many end the sender's work on something.
    ended: u32,
}

fn undo(me: Member, slots: Slots<'_>, sent: &[PacketDescriptor], to: InstanceId) {
    for descriptor in sent.iter().filter(|descriptor| descriptor.moves_slot()) {
        // False means that somebody with more right took the slot meanwhile: then it is not ours to restore.
        let _ = slots.hand_over(descriptor.slot, descriptor.generation, to, me.owner);
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
        let mut lanes = self.lanes();
        let peers = lanes.peers.entry(function).or_default();
        peers.retain(|known| known.instance != peer);
        peers.push(OutPeer { instance: peer, capacity, is_retiring: false, ledger, lane, at_most: 0 });
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
        let mut lanes = self.lanes();
        let known = lanes.peers.values_mut().flatten().find(|known| known.instance == peer);
        known.into_iter().for_each(|known| known.is_retiring = true);
    }

    fn close(&self, peer: InstanceId) {
        self.lanes().peers.values_mut().for_each(|peers| peers.retain(|known| known.instance != peer));
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
