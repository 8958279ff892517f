//! Slots for functions: lent ones belong to a request and end with it, granted heads to the call they were asked for.
//!
//! A granted head (a *loan*) outlives the request it was asked in, because the called function may still write to it.
//! It ends when its owner gives it back or dies. Slots lent to whoever holds a loan end with the loan.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use ramet_common::descriptor::{Failure, WANT_HEAD, WANT_PIECE, want_parts};
use ramet_common::{DomainId, InstanceId, Kind, PacketDescriptor, RequestId, SlotIndex};
use ramet_dataplane::SlotRef;
use ramet_dataplane::pool::CLASSES;

use crate::domain::Domain;
use crate::exchange::Holdings;
use crate::worker::{Worker, slot_ref};

/// How many slots one request or call may have lent at once.
pub(crate) const LENT_MAX: usize = 4096;

/// How many loans one instance may have at once.
const LOANS_PER_INSTANCE_MAX: usize = 256;

/// How many pieces of a streamed answer may wait for the client before no more slots are lent for it: a client that
/// reads slowly must not fill the pool.
const UNWRITTEN_MAX: usize = 16;

/// How many requests for slots one streamed answer may have waiting.
const WITHHELD_MAX: usize = 16;

/// A head that the gateway has granted.
#[derive(Debug)]
pub(crate) struct Loan {
    head: SlotRef,
    holdings: Arc<Holdings>,
    lent: Vec<SlotIndex>,
    holder: InstanceId,
    call: RequestId,
    /// Whether the owner died, so that the holder waits in vain.
    owner_died: bool,
}

/// All loans of a worker.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    by_head: HashMap<(DomainId, SlotIndex), Loan>,
}

impl Loans {
    /// Ends the loan of that very head.
    pub(crate) fn take(&mut self, domain: DomainId, head: SlotRef) -> Option<Loan> {
        let key = (domain, head.slot);
        if self.by_head.get(&key)?.head != head {
            return None;
        }
        self.by_head.remove(&key)
    }

    /// Ends all loans whose heads are owned by somebody who is gone.
    pub(crate) fn take_orphans(&mut self, is_gone: impl Fn(InstanceId) -> bool) -> Vec<Loan> {
        let orphaned = |loan: &Loan| {
            let word = loan.holdings.domain().slots.ledger().read(loan.head.slot);
            word.is_some_and(|word| word.generation == loan.head.generation && is_gone(word.owner))
        };
        let keys: Vec<_> = self.by_head.iter().filter(|(_, loan)| orphaned(loan)).map(|(&key, _)| key).collect();
        keys.into_iter()
            .filter_map(|key| self.by_head.remove(&key))
            .map(|loan| Loan { owner_died: true, ..loan })
            .collect()
    }

    /// All granted heads.
    pub(crate) fn heads(&self) -> Vec<(Arc<Domain>, SlotRef)> {
        self.by_head.values().map(|loan| (Arc::clone(loan.holdings.domain()), loan.head)).collect()
    }

    /// Ends the loan of a head that nobody has any more.
    pub(crate) fn take_lost(&mut self, (domain, head): (DomainId, SlotRef)) -> Option<Loan> {
        self.take(domain, head).map(|loan| Loan { owner_died: true, ..loan })
    }

    fn held_by(&self, holder: InstanceId) -> usize {
        self.by_head.values().filter(|loan| loan.holder == holder).count()
    }
}

impl Worker {
    /// Answers a `Want`, now or when the client has read on. The sender must hold the head that it asks for.
    pub(crate) fn lend(self: &Rc<Self>, want: &PacketDescriptor, domain: &Arc<Domain>) {
        let streams = self.streams(want);
        if !streams && !holds(domain, want.peer, slot_ref(want)) {
            return self.reject(want);
        }
        if streams && self.withhold(want) {
            return;
        }
        if want_parts(want.aux).0 == WANT_PIECE {
            return self.want_piece(want);
        }
        let lent = match want_parts(want.aux) {
            (WANT_HEAD, class) => self.grant(want, domain, usize::from(class)),
            (class, count) => self.lend_slots(want, domain, usize::from(class), usize::from(count)),
        };
        if !lent {
            self.apologise(want.peer, want, Failure::Exhausted);
        }
    }

    /// Whether the sender streams the answer of that request, for which it needs slots after the head has gone.
    fn streams(&self, want: &PacketDescriptor) -> bool {
        self.with_flight(want.request, |flight| {
            flight.streaming == Some(want.peer) && flight.head == slot_ref(want) && !flight.abandoned
        })
        .unwrap_or(false)
    }

    /// Keeps a `Want` for later if the client is behind.
    fn withhold(self: &Rc<Self>, want: &PacketDescriptor) -> bool {
        let room = self.with_flight(want.request, |flight| {
            let room = WITHHELD_MAX - flight.withheld.len();
            (flight.unwritten() >= UNWRITTEN_MAX).then(|| {
                flight.withheld.extend((room > 0).then_some(*want));
                room
            })
        });
        if room == Some(Some(0)) {
            self.apologise(want.peer, want, Failure::Exhausted);
        }
        room.flatten().is_some()
    }

    /// Answers what was withheld, as far as the client has read on.
    pub(crate) fn lend_withheld(self: &Rc<Self>, id: RequestId) {
        let next = || {
            self.with_flight(id, |flight| {
                let may_go_on = flight.unwritten() < UNWRITTEN_MAX;
                let want = if may_go_on { flight.withheld.pop_front() } else { None };
                want.map(|want| (want, Arc::clone(flight.holdings.domain())))
            })
        };
        while let Some(Some((want, domain))) = next() {
            self.lend(&want, &domain);
        }
    }

    fn lend_slots(self: &Rc<Self>, want: &PacketDescriptor, domain: &Arc<Domain>, class: usize, count: usize) -> bool {
        let Some(function) = self.function_of(want.peer) else { return false };
        if class >= CLASSES || count == 0 {
            return false;
        }
        let allocate = |holdings: &Holdings, lent: &mut Vec<SlotIndex>| {
            if lent.len() + count > LENT_MAX {
                return None;
            }
            let mut slots = Vec::with_capacity(count);
            for _ in 0..count {
                match holdings.allocate_class(class) {
                    Some(slot) => slots.push(slot),
                    None => {
                        slots.iter().for_each(|slot| holdings.release(slot.slot));
                        return None;
                    }
                }
            }
            lent.extend(slots.iter().map(|slot| slot.slot));
            Some(slots)
        };
        let head = slot_ref(want);
        let for_flight = self.with_flight(want.request, |flight| {
            let same = flight.head == head && flight.holdings.domain().id == domain.id;
            same.then(|| allocate(&flight.holdings, &mut flight.lent))
        });
        let slots = for_flight.flatten().or_else(|| {
            let mut loans = self.loans.borrow_mut();
            let loan = loans.by_head.get_mut(&(domain.id, head.slot)).filter(|loan| loan.head == head)?;
            Some(allocate(&loan.holdings, &mut loan.lent))
        });
        let Some(Some(slots)) = slots else { return false };
        for slot in slots {
            let lend = PacketDescriptor::new(Kind::Lend, function, slot.slot, slot.generation, want.request);
            let class = domain.pool.layout().class_of(slot.slot).unwrap_or_default();
            self.tell(lend.to_instance(want.peer).with_aux(class as u32));
        }
        true
    }

    fn grant(self: &Rc<Self>, want: &PacketDescriptor, domain: &Arc<Domain>, class: usize) -> bool {
        let Some(function) = self.function_of(want.peer) else { return false };
        if class >= CLASSES || self.loans.borrow().held_by(want.peer) >= LOANS_PER_INSTANCE_MAX {
            return false;
        }
        let holdings = Holdings::new(Arc::clone(domain));
        let Some(head) = holdings.allocate_class(class) else { return false };
        let loan = Loan { head, holdings, lent: Vec::new(), holder: want.peer, call: want.request, owner_died: false };
        self.loans.borrow_mut().by_head.insert((domain.id, head.slot), loan);
        let grant = PacketDescriptor::new(Kind::Grant, function, head.slot, head.generation, want.request);
        self.tell(grant.to_instance(want.peer));
        true
    }

    /// A grant that could not be delivered: its receiver is gone, so the slot is free again.
    pub(crate) fn grant_failed(self: &Rc<Self>, grant: &PacketDescriptor) {
        let Some(domain) = self.domain_of(grant.peer) else { return self.forget_loan(grant) };
        self.loans.borrow_mut().take(domain.id, slot_ref(grant));
    }

    fn forget_loan(&self, grant: &PacketDescriptor) {
        let mut loans = self.loans.borrow_mut();
        loans.by_head.retain(|_, loan| !(loan.holder == grant.peer && loan.head == slot_ref(grant)));
    }

    /// The loan's slots are free again. If its owner died in the middle of a call, the caller hears of it.
    pub(crate) fn end_loan(self: &Rc<Self>, loan: Loan) {
        if loan.owner_died {
            let about = PacketDescriptor::new(
                Kind::Call,
                ramet_common::FunctionId::GATEWAY,
                loan.head.slot,
                loan.head.generation,
                loan.call,
            );
            self.apologise(loan.holder, &about, Failure::Died);
        }
    }

    /// A function gives back a lent slot that it did not need.
    pub(crate) fn lent_returned(self: &Rc<Self>, descriptor: &PacketDescriptor, domain: &Domain) {
        let slot = descriptor.slot;
        let released = self.with_flight(descriptor.request, |flight| {
            let lent = flight.holdings.domain().id == domain.id && flight.lent.contains(&slot);
            if lent && flight.holdings.owns(slot_ref(descriptor)) {
                flight.lent.retain(|&held| held != slot);
                flight.holdings.release(slot);
            }
            lent
        });
        if released != Some(true) {
            // For a call, the slot ends with the loan; anything else is a mistake that the request's end mends.
            tracing::trace!(?descriptor, "a lent slot stays until its request or call ends");
        }
    }
}

/// Whether `instance` owns `head` by the ledger.
fn holds(domain: &Domain, instance: InstanceId, head: SlotRef) -> bool {
    let word = domain.slots.ledger().read(head.slot);
    word.is_some_and(|word| word.owner == instance && word.generation == head.generation)
}
