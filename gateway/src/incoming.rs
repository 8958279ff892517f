//! A request's body that its function is given while the client is still sending it.
//!
//! A task takes the body into slots, a few pieces ahead of the function, which asks for each (`Want` of a piece) and
//! gets it lent. So the client's pace and the function's meet here, with no more memory between them than those pieces;
//! what the function keeps is its own affair, up to the longest body of its chain. A body that breaks off, for whatever
//! reason, ends with a piece that says so.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ramet_common::descriptor::{FLAG_BROKEN, FLAG_MORE, FLAG_PIECE, PIECE_FULL, want_parts};
use ramet_common::{Kind, PacketDescriptor};
use ramet_dataplane::{Slot, SlotRef};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::exchange::Holdings;
use crate::lending::LENT_MAX;
use crate::problem::Problem;
use crate::servers::{Broken, ClientBody};
use crate::worker::Worker;

/// How many pieces are taken in before the function has asked for them.
const AHEAD_MAX: usize = 4;

/// How many pieces a function may have asked for that have not come.
const WANTS_MAX: usize = 4;

/// The classes of slots for pieces: each is larger than the one before, because the first shall be there soon.
const CLASS_FIRST: usize = 1;
const CLASS_LAST: usize = 3;

/// How often a slot is looked for while the pool is used up.
const POOL_RETRY: Duration = Duration::from_millis(5);

/// A body between client and function.
#[derive(Debug)]
pub(crate) struct Incoming {
    pieces: RefCell<VecDeque<Piece>>,
    end: Cell<Option<End>>,
    wants: RefCell<VecDeque<PacketDescriptor>>,
    problem: Rc<RefCell<Option<Problem>>>,
    is_closed: Cell<bool>,
    closed: Notify,
    taken: Notify,
}

/// A slot with bytes, which may become more while it is the last.
#[derive(Debug)]
struct Piece {
    found: SlotRef,
    slot: Slot,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
}

/// Whoever has it wants the body; when it is dropped the client's bytes are taken in no more.
#[derive(Debug)]
pub(crate) struct Interest(Rc<Incoming>);

impl Incoming {
    /// Begins to take a body in.
    pub(crate) fn begin(
        worker: &Rc<Worker>,
        holdings: &Arc<Holdings>,
        body: ClientBody,
        pause_max: Duration,
    ) -> (Rc<Self>, Interest) {
        let incoming = Rc::new(Self::new(body.problem()));
        let intake = Intake { body, holdings: Arc::clone(holdings), pause_max };
        tokio::task::spawn_local(take_in(Rc::clone(worker), Rc::clone(&incoming), intake));
        (Rc::clone(&incoming), Interest(incoming))
    }

    fn new(problem: Rc<RefCell<Option<Problem>>>) -> Self {
        Self {
            pieces: RefCell::default(),
            end: Cell::new(None),
            wants: RefCell::default(),
            problem,
            is_closed: Cell::new(false),
            closed: Notify::new(),
            taken: Notify::new(),
        }
    }

    /// Why the body broke off, if that is the client's doing.
    pub(crate) fn problem(&self) -> Option<Problem> {
        self.problem.borrow().clone()
    }

    /// The next answer to a function that has asked for a piece, if there is one.
    fn next_answer(&self) -> Option<(PacketDescriptor, Option<Piece>)> {
        let (mut wants, mut pieces) = (self.wants.borrow_mut(), self.pieces.borrow_mut());
        let is_patient = want_parts(wants.front()?.aux).1 == PIECE_FULL;
        let is_over = self.end.get().is_some();
        let is_ready = match pieces.front() {
            Some(piece) => is_over || !is_patient || pieces.len() > 1 || piece.room() == 0,
            None => is_over,
        };
        if !is_ready {
            return None;
        }
        Some((wants.pop_front()?, pieces.pop_front()))
    }

    /// Whether there is room for more bytes without the function's having taken some.
    fn has_room(&self) -> bool {
        let pieces = self.pieces.borrow();
        pieces.len() < AHEAD_MAX || pieces.back().is_some_and(|last| last.room() > 0)
    }

    /// Adds bytes to the last piece, as far as there is room.
    fn top_up(&self, bytes: &mut Bytes) {
        if let Some(last) = self.pieces.borrow_mut().back_mut() {
            let taken = bytes.split_to(bytes.len().min(last.room()));
            // The range is inside the slot by the line above.
            let _ = last.slot.copy_in(last.bytes, &taken);
            last.bytes += taken.len();
        }
    }
}

impl Piece {
    fn room(&self) -> usize {
        self.slot.bytes() - self.bytes
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.is_closed.set(true);
        self.0.closed.notify_one();
    }
}

impl Worker {
    /// Notes that a function wants the next piece of its request's body, and gives it, now or when it has come.
    pub(crate) fn want_piece(self: &Rc<Self>, want: &PacketDescriptor) {
        let incoming = self.with_flight(want.request, |flight| {
            let is_its = flight.head == crate::worker::slot_ref(want) && !flight.abandoned;
            flight.incoming.clone().filter(|incoming| is_its && !incoming.is_closed.get())
        });
        match incoming.flatten() {
            Some(incoming) if incoming.wants.borrow().len() < WANTS_MAX => {
                incoming.wants.borrow_mut().push_back(*want);
                self.give_pieces(&incoming);
            }
            Some(_) | None => self.give(want, None, End::Broken),
        }
    }

    fn give_pieces(self: &Rc<Self>, incoming: &Incoming) {
        while let Some((want, piece)) = incoming.next_answer() {
            let end = incoming.end.get().unwrap_or(End::Broken);
            let Some(piece) = piece else {
                self.give(&want, None, end);
                continue;
            };
            incoming.taken.notify_one();
            // From now on the function may give it back by itself.
            let may_have = self.with_flight(want.request, |flight| {
                let may_have = flight.lent.len() < LENT_MAX;
                flight.lent.extend(may_have.then_some(piece.found.slot));
                may_have
            });
            if may_have == Some(true) {
                self.give(&want, Some(piece), end);
            } else {
                incoming.problem.borrow_mut().get_or_insert(Problem::PoolExhausted);
                self.give(&want, None, End::Broken);
            }
        }
    }

    fn give(self: &Rc<Self>, want: &PacketDescriptor, piece: Option<Piece>, end: End) {
        let Some(function) = self.function_of(want.peer) else { return };
        let lend = match piece {
            Some(Piece { found: SlotRef { slot, generation }, bytes, .. }) => {
                let lend = PacketDescriptor::new(Kind::Lend, function, slot, generation, want.request);
                lend.with_aux(bytes as u32).with_flags(FLAG_PIECE | FLAG_MORE)
            }
            None => {
                let broken = if end == End::Broken { FLAG_BROKEN } else { 0 };
                PacketDescriptor::new(Kind::Lend, function, want.slot, want.generation, want.request)
                    .with_flags(FLAG_PIECE | broken)
            }
        };
        self.tell(lend.to_instance(want.peer));
    }
}

/// A body on its way from the client into slots.
struct Intake {
    body: ClientBody,
    holdings: Arc<Holdings>,
    pause_max: Duration,
}

async fn take_in(worker: Rc<Worker>, incoming: Rc<Incoming>, mut intake: Intake) {
    let end = tokio::select! {
        () = incoming.closed.notified() => return,
        end = intake.fill_always(&worker, &incoming) => end,
    };
    incoming.end.set(Some(end));
    worker.give_pieces(&incoming);
}

impl Intake {
    async fn fill_always(&mut self, worker: &Rc<Worker>, incoming: &Incoming) -> End {
        let mut class = CLASS_FIRST;
        loop {
            while !incoming.has_room() {
                incoming.taken.notified().await;
            }
            // How long the function has let the client wait is not the client's.
            self.body.waits_anew();
            let mut bytes = match poll_fn(|context| self.body.poll_piece(context)).await {
                None => return End::Whole,
                Some(Err(Broken)) => return End::Broken,
                Some(Ok(bytes)) => bytes,
            };
            incoming.top_up(&mut bytes);
            while !bytes.is_empty() {
                worker.give_pieces(incoming);
                while !incoming.has_room() {
                    incoming.taken.notified().await;
                }
                let Some((found, slot)) = self.empty_slot(class).await else {
                    *incoming.problem.borrow_mut() = Some(Problem::PoolExhausted);
                    return End::Broken;
                };
                class = (class + 1).min(CLASS_LAST);
                incoming.pieces.borrow_mut().push_back(Piece { found, slot, bytes: 0 });
                incoming.top_up(&mut bytes);
            }
            worker.give_pieces(incoming);
        }
    }

    /// A slot of that class or, when those are used up, a smaller one. `None`: there was none for too long.
    async fn empty_slot(&self, class: usize) -> Option<(SlotRef, Slot)> {
        let until = Instant::now() + self.pause_max;
        loop {
            if let Some(found) = (0..=class).rev().find_map(|class| self.holdings.allocate_class(class)) {
                return Some((found, self.holdings.slot(found.slot)?));
            }
            if Instant::now() >= until {
                return None;
            }
            sleep(POOL_RETRY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use ramet_common::descriptor::{WANT_PIECE, want_aux};
    use ramet_common::{FunctionId, Generation, RequestId, SlotIndex};
    use ramet_dataplane::{Pool, PoolLayout};

    const SLOT_BYTES: usize = 4096;

    /// A body of which `bytes` have come, in as many slots as that takes.
    fn come(incoming: &Incoming, pool: &Pool, bytes: usize) {
        let mut bytes = Bytes::from(vec![7; bytes]);
        incoming.top_up(&mut bytes);
        while !bytes.is_empty() {
            assert!(incoming.has_room(), "nobody reads ahead without bounds");
            let found = SlotRef { slot: SlotIndex(incoming.pieces.borrow().len() as u32), generation: Generation(0) };
            let slot = pool.slot(found.slot).expect("in the pool");
            incoming.pieces.borrow_mut().push_back(Piece { found, slot, bytes: 0 });
            incoming.top_up(&mut bytes);
        }
    }

    /// How many bytes are given to somebody who asks for a piece of that size; 0 at the end.
    fn asked(incoming: &Incoming, size: u16) -> Option<usize> {
        let head = SlotRef { slot: SlotIndex(9), generation: Generation(0) };
        let want = PacketDescriptor::new(Kind::Want, FunctionId(1), head.slot, head.generation, RequestId(1));
        incoming.wants.borrow_mut().push_back(want.with_aux(want_aux(WANT_PIECE, size)));
        let answer = incoming.next_answer().map(|(_, piece)| piece.map_or(0, |piece| piece.bytes));
        incoming.wants.borrow_mut().clear();
        answer
    }

    #[test]
    fn who_reads_a_piece_gets_what_there_is_and_who_keeps_it_gets_it_full() {
        let layout = PoolLayout { counts: [8, 0, 0, 0, 0] };
        let fd = Pool::create("pool", &layout).expect("pool");
        let pool = Pool::attach(fd.as_fd(), layout).expect("attached");
        let incoming = Incoming::new(Rc::default());
        assert_eq!((asked(&incoming, 0), asked(&incoming, PIECE_FULL)), (None, None), "nothing has come");
        come(&incoming, &pool, 10);
        come(&incoming, &pool, 20);
        assert_eq!(asked(&incoming, PIECE_FULL), None, "it may become more");
        assert_eq!(asked(&incoming, 0), Some(30));
        come(&incoming, &pool, SLOT_BYTES + 5);
        assert_eq!(asked(&incoming, PIECE_FULL), Some(SLOT_BYTES));
        assert_eq!(asked(&incoming, PIECE_FULL), None);
        incoming.end.set(Some(End::Whole));
        assert_eq!(asked(&incoming, PIECE_FULL), Some(5), "no more will come");
        assert_eq!((asked(&incoming, PIECE_FULL), asked(&incoming, 0)), (Some(0), Some(0)));
    }

    #[test]
    fn no_more_is_taken_in_than_a_few_full_pieces() {
        let layout = PoolLayout { counts: [8, 0, 0, 0, 0] };
        let fd = Pool::create("pool", &layout).expect("pool");
        let pool = Pool::attach(fd.as_fd(), layout).expect("attached");
        let incoming = Incoming::new(Rc::default());
        come(&incoming, &pool, AHEAD_MAX * SLOT_BYTES - 1);
        assert!(incoming.has_room(), "for a byte");
        come(&incoming, &pool, 1);
        assert!(!incoming.has_room());
        assert_eq!(asked(&incoming, 0), Some(SLOT_BYTES));
        assert!(incoming.has_room());
    }
}
