//! The gateway's workers as they see each other: what one finds that is another's, and which of them serves a
//! connection.
//!
//! A worker has a core's worth of capacity, but two that are half busy cost more than one that is busy: each wakes less
//! often for more, and what it wakes sits on fewer cores. So connections gather at the first worker, and spread out
//! when it is busy while the machine is not. New ones are spread by the kernel, over as many workers as that takes.

mod steering;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use ramet_common::DomainId;
use ramet_dataplane::SlotRef;
use tokio::sync::{mpsc, oneshot};

use crate::ingress::Room;

pub(crate) use steering::Steering;

/// From this share of a core on, in thousandths, a worker is busy.
pub(crate) const BUSY: u32 = 850;

/// Up to this share a worker takes connections from a busy one.
const SPARE: u32 = 600;

/// Up to this share of one core, one worker can do what all do.
const ENOUGH: u32 = 500;

/// How much of a core must be idle for spreading out to pay.
const IDLE_MIN: u32 = 500;

/// What one worker tells another.
#[derive(Debug)]
pub(crate) enum Word {
    /// A head has come back to a worker that does not know it.
    Stray(Stray),
    /// A connection is to be served elsewhere from now on.
    Connection(Moved),
}

/// A head that came back to a worker that does not know it. As each costs its sender the head, there are never more
/// than the sender was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stray {
    pub(crate) domain: DomainId,
    pub(crate) head: SlotRef,
}

/// A connection between two requests.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) room: Room,
    /// Said when the new worker counts it as its own; until then the old one does.
    pub(crate) arrived: oneshot::Sender<()>,
}

/// Connections that are to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) to: usize,
    pub(crate) connections: usize,
}

/// All workers.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    workers: RwLock<Vec<Member>>,
}

#[derive(Debug)]
struct Member {
    words: mpsc::UnboundedSender<Word>,
    /// The share of a core that it used lately, in thousandths.
    usage: AtomicU32,
}

impl Crew {
    /// Adds a worker; its place is its number.
    pub(crate) fn introduce(&self, words: mpsc::UnboundedSender<Word>) -> usize {
        let mut workers = self.workers.write().unwrap_or_else(PoisonError::into_inner);
        workers.push(Member { words, usage: AtomicU32::new(0) });
        workers.len() - 1
    }

    /// Asks every worker but `finder` whether a head is one of its own.
    pub(crate) fn tell_others(&self, finder: usize, stray: Stray) {
        for (_, worker) in self.workers().iter().enumerate().filter(|(place, _)| *place != finder) {
            // A worker that is gone has ended the process or is about to.
            let _ = worker.words.send(Word::Stray(stray));
        }
    }

    /// Passes a connection on.
    pub(crate) fn pass_on(&self, to: usize, moved: Moved) {
        if let Some(worker) = self.workers().get(to) {
            let _ = worker.words.send(Word::Connection(moved));
        }
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.workers().len() < 2
    }

    /// Notes how busy a worker was.
    pub(crate) fn used(&self, worker: usize, usage: u32) {
        if let Some(worker) = self.workers().get(worker) {
            worker.usage.store(usage, Ordering::Relaxed);
        }
    }

    /// Over how many workers new connections should be spread, where that is `now` so many. `idle` is how much of the
    /// machine's cores was idle.
    pub(crate) fn spread(&self, now: usize, idle: impl FnOnce() -> u32) -> usize {
        spread(&self.usages(), now, idle)
    }

    /// What a worker with that many connections should pass on, after it has noted its usage. `idle` is how much of
    /// the machine's cores was idle.
    pub(crate) fn plan(&self, me: usize, connections: usize, idle: impl FnOnce() -> u32) -> Option<Move> {
        plan(&self.usages(), me, connections, idle)
    }

    fn usages(&self) -> Vec<u32> {
        self.workers().iter().map(|worker| worker.usage.load(Ordering::Relaxed)).collect()
    }

    fn workers(&self) -> RwLockReadGuard<'_, Vec<Member>> {
        self.workers.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn plan(usages: &[u32], me: usize, connections: usize, idle: impl FnOnce() -> u32) -> Option<Move> {
    let mine = *usages.get(me)?;
    if mine >= BUSY {
        let others = usages.iter().enumerate().filter(|(other, usage)| *other != me && **usage <= SPARE);
        let (to, usage) = others.min_by_key(|(_, usage)| **usage)?;
        // As many as make both equally busy, if all connections are alike.
        let surplus = connections * (mine - usage) as usize / (2 * mine as usize);
        return (surplus > 0 && idle() >= IDLE_MIN).then_some(Move { to, connections: surplus });
    }
    let all: u32 = usages.iter().sum();
    (me > 0 && all <= ENOUGH).then_some(Move { to: 0, connections })
}

fn spread(usages: &[u32], now: usize, idle: impl FnOnce() -> u32) -> usize {
    let all: u32 = usages.iter().sum();
    if now > 1 && all <= (now as u32 - 1) * ENOUGH {
        return now - 1;
    }
    let are_busy = usages.iter().take(now).all(|usage| *usage >= BUSY);
    // Many cores shall not take many looks.
    if are_busy && now < usages.len() && idle() >= IDLE_MIN { usages.len().min(2 * now) } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_worker_shares_with_the_idlest_if_the_machine_has_room() {
        assert_eq!(plan(&[1000, 500, 100], 0, 40, || 800), Some(Move { to: 2, connections: 18 }));
        assert_eq!(plan(&[1000, 500, 100], 0, 40, || 100), None, "the machine is busy with something else");
        assert_eq!(plan(&[1000, 700, 900], 0, 40, || 800), None, "so is everybody");
        assert_eq!(plan(&[1000, 0], 0, 1, || 800), None, "one connection cannot be shared");
        assert_eq!(plan(&[800, 0], 0, 40, || 800), None, "it is not busy");
    }

    #[test]
    fn what_one_worker_can_do_one_worker_does() {
        assert_eq!(plan(&[200, 200], 1, 7, || 800), Some(Move { to: 0, connections: 7 }));
        assert_eq!(plan(&[200, 200], 0, 7, || 800), None, "they gather at the first");
        assert_eq!(plan(&[450, 450], 1, 7, || 800), None, "or they would spread again at once");
    }

    #[test]
    fn new_connections_are_spread_while_workers_are_busy_and_the_machine_is_not() {
        assert_eq!(spread(&[1000, 0, 0], 1, || 800), 2);
        assert_eq!(spread(&[900, 1000, 0], 2, || 800), 3);
        assert_eq!(spread(&[900, 1000, 900], 3, || 800), 3, "there are no more");
        assert_eq!(spread(&[900, 800, 0], 2, || 800), 2, "one of them has room");
        assert_eq!(spread(&[900, 900, 0], 2, || 100), 2, "the machine is busy with something else");
        assert_eq!(spread(&[500, 500, 50], 3, || 800), 3);
        assert_eq!(spread(&[500, 450, 50], 3, || 800), 2, "two can do it");
        assert_eq!(spread(&[200, 300, 0], 2, || 800), 1, "one can do it");
        assert_eq!(spread(&[0, 0, 0], 1, || 800), 1);
    }
}
