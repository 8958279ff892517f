//! What the ring and socket transports share: one lane per pair of instances that policy lets talk.
//!
//! The supervisor makes the lanes, so a lane's existence *is* the permission and its far end *is* the sender's
//! identity. Ownership of slots moves in the domain's ledger before the descriptor is pushed, and back if the push
//! fails. Senders choose among replicas by the loads beside the ledger, and each end counts what passes in a meter of
//! its own, so that no function's figures are another one's word.

mod incoming;
mod outgoing;
mod stamp;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crossbeam_queue::SegQueue;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ramet_common::{InstanceId, PacketDescriptor};
use ramet_shm::ledger::Ledger;
use ramet_shm::meter::Meter;

use self::incoming::{InPeer, Incoming};
use self::outgoing::Outgoing;
pub(super) use self::stamp::Stamp;
use super::patience::Patience;
use crate::endpoint::{Endpoint, TransportKind};

/// The writing end of a lane.
pub(super) trait OutLane: Debug + Send {
    /// Pushes the whole batch, stamped, or nothing. Returns the doorbell if the reader waits for it.
    fn push(&mut self, batch: &[PacketDescriptor], stamp: Stamp) -> Result<Option<Arc<OwnedFd>>, PushError>;
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
    /// Takes up to `most` descriptors, or those of one packet more, and says how many. An error gives the lane up.
    fn pop(&mut self, most: usize, into: &mut Vec<PacketDescriptor>) -> Result<usize, Broken>;
    /// Whether something is there. A lane that a look costs a system call says false and rings its descriptor instead.
    fn ready(&self) -> bool;
    /// Asks for the doorbell at the next push.
    fn announce_wait(&self);
    /// Takes that back.
    fn awake(&self);
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
/// `ledgers` gives the ledger that a peer's slots are in: a function knows one, a gateway worker one per domain.
/// Without a meter nothing is counted.
///
/// # Errors
/// `epoll_create`'s error.
pub fn endpoint(
    kind: TransportKind,
    me: Member,
    ledgers: Arc<dyn Ledgers>,
    patience: Patience,
    meter: Option<Meter>,
) -> io::Result<Endpoint> {
    // Nobody can send to it before it has joined, so nothing is counted that this forgets.
    if let Some(ledger) = ledgers.shared_with(me.owner).filter(|_| me.owner != InstanceId::NONE) {
        ledger.begin_load(me.owner);
    }
    let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
    let changes = Arc::new(SegQueue::new());
    let alarm = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    epoll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, u64::MAX))?;
    let (meter_in, meter_out) = meter.map(Meter::split).unzip();
    let out = Outgoing::new(kind, me, ledgers, Arc::clone(&changes), Arc::clone(&epoll), alarm, meter_out);
    let out = Arc::new(out);
    let receiver = Incoming::new(kind, me, epoll, changes, patience, meter_in);
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

/// News for the receiving half, which another thread may be waiting in.
#[derive(Debug)]
enum Change {
    Joined(InPeer),
    Left(InstanceId),
    Woken,
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use ramet_common::{FunctionId, Generation, Kind, RequestId, SlotIndex};
    use ramet_shm::lane::{Producer, SharedLane};
    use ramet_shm::segment::create_sealed;

    use super::*;
    use crate::endpoint::Wait;
    use crate::transport::ring;

    const SLOTS: u32 = 4;

    /// How many files the receiver's epoll watches.
    fn watched(receiver: impl AsFd) -> usize {
        let information = format!("/proc/self/fdinfo/{}", receiver.as_fd().as_raw_fd());
        let text = std::fs::read_to_string(information).expect("what the kernel tells of it");
        text.lines().filter(|line| line.starts_with("tfd:")).count()
    }

    /// The peer still has its end of a bell when this one is given up.
    #[test]
    fn a_lane_that_is_given_up_is_watched_no_more() {
        let memory = create_sealed("ledger", Ledger::bytes_for(SLOTS)).expect("memory");
        let ledger = Ledger::map(memory.as_fd(), 0, SLOTS).expect("a ledger");
        let me = Member { instance: InstanceId::new(1, 1), owner: InstanceId::new(1, 1) };
        let endpoint =
            endpoint(TransportKind::Ring, me, Arc::new(ledger), Patience::none(), None).expect("an endpoint");
        let (mut receiver, links) = (endpoint.receiver, endpoint.links.expect("links"));
        let alone = watched(&*receiver);
        let peer = InstanceId::new(2, 1);
        let mut peers_ends = Vec::new();
        for _ in 0..3 {
            let (sender_end, receiver_end) = ring::link().expect("a lane");
            peers_ends.push(sender_end);
            links.add_incoming(peer, FunctionId(2), receiver_end).expect("added");
            receiver.receive(Wait::No, &mut |_| {}).expect("nothing");
            assert_eq!(watched(&*receiver), alone + 1, "a lane takes another one's place");
        }
        links.remove(peer);
        receiver.receive(Wait::No, &mut |_| {}).expect("nothing");
        receiver.receive(Wait::No, &mut |_| {}).expect("nothing");
        assert_eq!(watched(&*receiver), alone);
        drop(peers_ends);
    }

    /// What a far side pushes that minds no ledger is refused, each by itself, and asking for words writes none.
    #[test]
    fn of_a_batch_only_what_was_handed_over_is_taken() {
        let memory = create_sealed("ledger", Ledger::shared_bytes_for(SLOTS)).expect("memory");
        let ledger = Ledger::map_shared(memory.as_fd(), SLOTS).expect("a ledger");
        let (mine, peer) = (InstanceId::new(1, 1), InstanceId::new(2, 1));
        for (slot, owner) in [(0, mine), (1, peer), (3, mine)] {
            assert!(ledger.hand_over(SlotIndex(slot), Generation(0), InstanceId::NONE, owner));
        }
        let words = || [0, 1, 2, 3].map(|slot| ledger.read(SlotIndex(slot)).expect("a word"));
        let before = words();
        let me = Member { instance: mine, owner: mine };
        let endpoint = endpoint(TransportKind::Ring, me, Arc::new(ledger.clone()), Patience::none(), None);
        let endpoint = endpoint.expect("an endpoint");
        let (mut receiver, links) = (endpoint.receiver, endpoint.links.expect("links"));
        let (out, incoming) = ring::link().expect("a lane");
        links.add_incoming(peer, FunctionId(2), incoming).expect("added");
        let mut producer = Producer::new(SharedLane::map(out.0[0].as_fd()).expect("a lane"));
        let named = |slot, generation| {
            let (slot, generation) = (SlotIndex(slot), Generation(generation));
            PacketDescriptor::new(Kind::Request, FunctionId(1), slot, generation, RequestId(0))
        };
        let batch =
            [named(0, 0), named(1, 0), named(2, 0), named(3, 1), named(SLOTS, 0), named(u32::MAX, 0), named(3, 0)];
        producer.push(&batch).expect("room");
        let mut taken = Vec::new();
        receiver.receive(Wait::No, &mut |descriptor| taken.push(descriptor)).expect("open");
        assert_eq!(taken, [named(0, 0), named(3, 0)].map(|descriptor| descriptor.to_instance(peer)));
        assert_eq!(receiver.rejected(), 5);
        assert_eq!(words(), before);
    }
}
