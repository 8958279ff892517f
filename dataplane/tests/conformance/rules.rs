//! The rules. Function 0 is the gateway; 1, 2 and 3 are functions; 1 → 2 is allowed unless a rule says otherwise.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ramet_common::descriptor::FLAG_MORE;
use ramet_common::{
    BATCH_MAX, FunctionId, Generation, InstanceId, Kind, PacketDescriptor, Refusal, RequestId, SlotIndex,
};
use ramet_dataplane::endpoint::Wait;
use ramet_dataplane::{SendError, clock};

use crate::fabric::{CAPACITY, Fabric, Instance, SLOTS};

const PATIENCE: Duration = Duration::from_secs(10);

fn request(to: u32, slot: u32) -> PacketDescriptor {
    let request = RequestId(u64::from(slot) + 7);
    PacketDescriptor::new(Kind::Request, FunctionId(to), SlotIndex(slot), Generation(0), request)
}

/// Makes `instance` the owner of the slots, as if they had been sent to it.
fn own(fabric: &Fabric, instance: &Instance, slots: impl IntoIterator<Item = u32>) {
    for slot in slots {
        let owned = fabric.ledger.hand_over(SlotIndex(slot), Generation(0), InstanceId::NONE, instance.owner());
        assert!(owned || instance.owner() == InstanceId::NONE);
    }
}

fn owner(fabric: &Fabric, slot: u32) -> InstanceId {
    fabric.ledger.read(SlotIndex(slot)).expect("a slot").owner
}

fn refused(instance: &Instance, batch: &[PacketDescriptor]) -> Refusal {
    match instance.sender.send(batch) {
        Err(SendError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// One sender of function 1 and one receiver of function 2.
fn pair(fabric: &mut Fabric) -> (Instance, Instance) {
    fabric.allow(1, 2);
    (fabric.join(1), fabric.join(2))
}

pub(crate) fn a_descriptor_arrives_with_its_true_sender(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, [5]);
    one.sender.send(&[request(2, 5)]).expect("sent");
    assert_eq!(two.received(), vec![request(2, 5).to_instance(one.id)]);
}

pub(crate) fn a_batch_arrives_whole_and_in_order(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..BATCH_MAX as u32);
    let batch: Vec<_> = (0..BATCH_MAX as u32).map(|slot| request(2, slot)).collect();
    one.sender.send(&batch).expect("sent");
    let received: Vec<_> = two.received().iter().map(|descriptor| descriptor.slot.0).collect();
    assert_eq!(received, (0..BATCH_MAX as u32).collect::<Vec<_>>());
}

pub(crate) fn ownership_moves_with_the_message(mut fabric: Fabric) {
    fabric.allow(0, 1);
    fabric.allow(1, 0);
    let (mut gateway, mut one) = (fabric.join(0), fabric.join(1));
    gateway.sender.send(&[request(1, 9)]).expect("sent");
    assert_eq!(owner(&fabric, 9), one.id);
    assert_eq!(one.received().len(), 1);
    let reply = PacketDescriptor::new(Kind::Reply, FunctionId::GATEWAY, SlotIndex(9), Generation(0), RequestId(1));
    one.sender.send(&[reply.to_instance(gateway.id)]).expect("sent");
    assert_eq!(owner(&fabric, 9), InstanceId::NONE);
    assert_eq!(gateway.received(), vec![reply.to_instance(one.id)]);
}

pub(crate) fn a_replayed_descriptor_is_refused(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, [5]);
    one.sender.send(&[request(2, 5)]).expect("sent");
    assert_eq!(refused(&one, &[request(2, 5)]), Refusal::NotOwner);
    assert_eq!(two.received().len(), 1);
}

pub(crate) fn a_stale_generation_is_refused(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, [5]);
    let _ = fabric.ledger.take_back(SlotIndex(5));
    assert_eq!(refused(&one, &[request(2, 5)]), Refusal::NotOwner);
    assert!(two.received().is_empty());
}

pub(crate) fn a_slot_outside_the_pool_is_refused(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    for slot in [SLOTS, u32::MAX] {
        assert!(matches!(refused(&one, &[request(2, slot)]), Refusal::BadSlot | Refusal::NotOwner));
    }
    assert!(two.received().is_empty());
}

pub(crate) fn a_forbidden_edge_is_refused(mut fabric: Fabric) {
    let (mut one, two) = pair(&mut fabric);
    own(&fabric, &two, [5]);
    assert_eq!(refused(&two, &[request(1, 5)]), Refusal::EdgeDenied);
    assert_eq!(owner(&fabric, 5), two.id);
    assert!(one.received().is_empty());
}

pub(crate) fn a_batch_with_one_bad_descriptor_moves_nothing(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..20);
    // The last one is not the sender's.
    let batch: Vec<_> = (0..21).map(|slot| request(2, slot)).collect();
    assert_eq!(refused(&one, &batch), Refusal::NotOwner);
    assert!((0..20).all(|slot| owner(&fabric, slot) == one.id));
    assert_eq!(owner(&fabric, 20), InstanceId::NONE);
    assert!(two.received().is_empty());
    one.sender.send(&batch[..20]).expect("the good ones can still be sent");
    assert_eq!(two.received().len(), 20);
}

pub(crate) fn a_mixed_batch_is_refused(mut fabric: Fabric) {
    fabric.allow(1, 3);
    let (one, mut two) = pair(&mut fabric);
    let mut three = fabric.join(3);
    own(&fabric, &one, [1, 2]);
    assert_eq!(refused(&one, &[request(2, 1), request(3, 2)]), Refusal::MixedBatch);
    assert!(two.received().is_empty() && three.received().is_empty());
    assert_eq!(owner(&fabric, 1), one.id);
}

pub(crate) fn too_many_descriptors_are_refused(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..BATCH_MAX as u32 + 1);
    let batch: Vec<_> = (0..BATCH_MAX as u32 + 1).map(|slot| request(2, slot)).collect();
    assert_eq!(refused(&one, &batch), Refusal::Malformed);
    assert!(two.received().is_empty());
}

/// A function that plays the gateway is refused by the kernel, or its words are dropped by whoever hears them.
pub(crate) fn gateway_kinds_are_the_gateways(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    for kind in [Kind::Cancel, Kind::Lend, Kind::Sorry] {
        let forged = PacketDescriptor::new(kind, FunctionId(2), SlotIndex(0), Generation(0), RequestId(1));
        let sent = one.sender.send(&[forged]);
        assert!(two.received().is_empty(), "{kind:?} arrived");
        assert!(sent.is_err() || two.receiver.rejected() > 0, "{kind:?} was not counted");
    }
}

pub(crate) fn an_idle_replica_is_preferred(mut fabric: Fabric) {
    let (one, mut busy) = pair(&mut fabric);
    let mut idle = fabric.join(2);
    own(&fabric, &one, 0..50);
    for slot in 0..10 {
        one.sender.send(&[request(2, slot).to_instance(busy.id)]).expect("sent");
    }
    for slot in 10..20 {
        one.sender.send(&[request(2, slot)]).expect("sent");
    }
    assert_eq!((busy.received().len(), idle.received().len()), (10, 10));
}

/// Nobody has received anything, so only what senders have said of each other's messages can tell.
pub(crate) fn what_others_gave_a_replica_counts(mut fabric: Fabric) {
    fabric.allow(2, 0);
    let (one, mut busy) = pair(&mut fabric);
    let (mut gateway, other) = (fabric.join(0), fabric.join(1));
    let mut idle = fabric.join(2);
    own(&fabric, &one, 0..3);
    own(&fabric, &other, 10..20);
    for slot in 0..3 {
        one.sender.send(&[request(2, slot).to_instance(busy.id)]).expect("sent");
    }
    for slot in 10..13 {
        other.sender.send(&[request(2, slot)]).expect("sent");
    }
    assert_eq!((busy.received().len(), idle.received().len()), (3, 3));
    for slot in 0..3 {
        let reply = PacketDescriptor { kind: Kind::Reply as u8, ..request(0, slot) };
        busy.sender.send(&[reply.to_instance(gateway.id)]).expect("answered");
    }
    assert_eq!(gateway.received().len(), 3);
    for slot in 13..16 {
        other.sender.send(&[request(2, slot)]).expect("sent");
    }
    assert_eq!((busy.received().len(), idle.received().len()), (3, 0), "what is answered counts no more");
}

pub(crate) fn the_replica_with_the_most_residual_capacity_is_chosen(mut fabric: Fabric) {
    fabric.allow(1, 2);
    let one = fabric.join(1);
    let (mut small, mut big) = (fabric.join_with(2, 2), fabric.join_with(2, 10));
    own(&fabric, &one, 0..20);
    // Eight bring the big one down to what the small one has from the start.
    for slot in 0..8 {
        one.sender.send(&[request(2, slot)]).expect("sent");
        assert_eq!((small.received().len(), big.received().len()), (0, 1));
    }
    for slot in 8..12 {
        one.sender.send(&[request(2, slot)]).expect("sent");
    }
    assert_eq!((small.received().len(), big.received().len()), (2, 2));
    assert_eq!(refused(&one, &[request(2, 12)]), Refusal::Full);
    assert_eq!(owner(&fabric, 12), one.id, "a failed send gives the slot back");
}

/// The same figures, whoever counts them.
pub(crate) fn what_passes_is_counted_per_function_and_per_edge(mut fabric: Fabric) {
    let edges = [(0, 1), (1, 2), (2, 0), (2, 1)];
    edges.into_iter().for_each(|(from, to)| fabric.allow(from, to));
    let (mut gateway, mut one, mut two) = (fabric.join(0), fabric.join(1), fabric.join(2));
    let counted = |fabric: &Fabric, function| {
        let flow = fabric.flow(function);
        (flow.arrived, flow.left)
    };
    gateway.sender.send(&[0, 1, 2].map(|slot| request(1, slot))).expect("sent");
    gateway.sender.send(&[request(1, 3)]).expect("sent");
    assert_eq!(one.received().len(), 4);
    assert_eq!(counted(&fabric, 1), (4, 0));
    // Passed on, called, and answered in the end: a call is no end of the caller's work, nor is an answer with more.
    one.sender.send(&[0, 1].map(|slot| request(2, slot))).expect("sent");
    let call = PacketDescriptor { kind: Kind::Call as u8, ..request(2, 2) };
    one.sender.send(&[call]).expect("sent");
    assert_eq!(two.received(), [request(2, 0), request(2, 1), call].map(|sent| sent.to_instance(one.id)));
    assert_eq!((counted(&fabric, 1), counted(&fabric, 2)), ((4, 2), (3, 0)));
    let worker = gateway.id;
    let answer = |kind, slot| PacketDescriptor { kind: kind as u8, ..request(0, slot) }.to_instance(worker);
    two.sender.send(&[answer(Kind::Reply, 0), answer(Kind::Failed, 1)]).expect("sent");
    two.sender.send(&[answer(Kind::Reply, 2).with_flags(FLAG_MORE)]).expect("sent");
    assert_eq!((gateway.received().len(), counted(&fabric, 2)), (3, (3, 2)));
    two.sender.send(&[answer(Kind::Chunk, 0)]).expect("sent");
    assert_eq!((gateway.received().len(), counted(&fabric, 2)), (1, (3, 3)));
    assert_eq!(refused(&two, &[answer(Kind::Reply, 9)]), Refusal::NotOwner);
    let sent = edges.map(|(from, to)| (fabric.edge(from, to).descriptors, fabric.edge(from, to).batches));
    assert_eq!(sent, [(4, 2), (3, 2), (4, 3), (0, 0)]);
    assert_eq!(counted(&fabric, 0), (0, 0), "the gateway is no function");
}

/// The time in the transport counts, too: the receiver may be busy with something else.
pub(crate) fn the_time_before_a_message_is_received_counts(mut fabric: Fabric) {
    fabric.allow(2, 0);
    let (one, mut two) = pair(&mut fabric);
    let gateway = fabric.join(0);
    own(&fabric, &one, [5]);
    assert!(two.received().is_empty());
    let before_ns = clock::now_ns();
    one.sender.send(&[request(2, 5)]).expect("sent");
    let sent_ns = clock::now_ns();
    let waited = Duration::from_millis(20);
    while clock::now_ns() < sent_ns + waited.as_nanos() as u64 {
        std::thread::yield_now();
    }
    assert_eq!(two.received().len(), 1);
    let reply = PacketDescriptor { kind: Kind::Reply as u8, ..request(0, 5) };
    two.sender.send(&[reply.to_instance(gateway.id)]).expect("answered");
    let flow = fabric.flow(2);
    let spent = Duration::from_nanos(flow.spent_ns(clock::now_ns()));
    let most = Duration::from_nanos(clock::now_ns() - before_ns);
    assert!((waited..=most).contains(&spent), "{spent:?} of {most:?}");
}

pub(crate) fn a_named_instance_gets_the_message(mut fabric: Fabric) {
    let (one, mut first) = pair(&mut fabric);
    let mut second = fabric.join(2);
    own(&fabric, &one, 0..8);
    for slot in 0..8 {
        one.sender.send(&[request(2, slot).to_instance(second.id)]).expect("sent");
    }
    assert_eq!((first.received().len(), second.received().len()), (0, 8));
    let successor = InstanceId(second.id.0 + (1 << 16));
    own(&fabric, &one, [9]);
    assert_eq!(refused(&one, &[request(2, 9).to_instance(successor)]), Refusal::NoReplica);
}

pub(crate) fn an_instance_that_left_gets_nothing(mut fabric: Fabric) {
    let (one, two) = pair(&mut fabric);
    own(&fabric, &one, [1, 2]);
    fabric.leave(two);
    assert_eq!(refused(&one, &[request(2, 1)]), Refusal::NoReplica);
    assert_eq!(owner(&fabric, 1), one.id, "a failed send gives the slot back");
    let mut successor = fabric.join(2);
    one.sender.send(&[request(2, 1)]).expect("sent");
    assert_eq!(successor.received().len(), 1);
}

/// Its messages' slots are the receiver's already, and nobody else would give them back.
pub(crate) fn what_an_instance_sent_before_it_left_arrives(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    let many = CAPACITY.min(SLOTS);
    assert!(many as usize > BATCH_MAX, "more than one look takes");
    own(&fabric, &one, 0..many);
    for slot in 0..many {
        one.sender.send(&[request(2, slot).to_instance(two.id)]).expect("sent");
    }
    fabric.leave(one);
    let received: Vec<_> = two.received().iter().map(|descriptor| descriptor.slot.0).collect();
    assert_eq!(received, (0..many).collect::<Vec<_>>());
}

/// In the lane transports this is a lane that is given a capacity of zero.
pub(crate) fn an_instance_that_drains_is_not_chosen_and_finishes(mut fabric: Fabric) {
    fabric.allow(2, 1);
    let (mut one, mut two) = pair(&mut fabric);
    own(&fabric, &one, [1, 2]);
    one.sender.send(&[request(2, 1)]).expect("sent");
    fabric.drain(&two);
    assert_eq!(refused(&one, &[request(2, 2)]), Refusal::NoReplica);
    assert_eq!(owner(&fabric, 2), one.id, "a failed send gives the slot back");
    assert_eq!(two.received(), vec![request(2, 1).to_instance(one.id)], "what it was sent before");
    two.sender.send(&[request(1, 1)]).expect("it still sends");
    assert_eq!(one.received(), vec![request(1, 1).to_instance(two.id)]);
    one.sender.send(&[request(2, 2).to_instance(two.id)]).expect("what it waits for still goes to it");
    assert_eq!(two.received(), vec![request(2, 2).to_instance(one.id)]);
    assert!(fabric.ledger.hand_over(SlotIndex(2), Generation(0), two.id, one.id));
    let mut successor = fabric.join(2);
    for _ in 0..3 {
        one.sender.send(&[request(2, 2)]).expect("sent");
        assert_eq!(successor.received().len(), 1);
        assert!(fabric.ledger.hand_over(SlotIndex(2), Generation(0), successor.id, one.id));
    }
    assert!(two.received().is_empty());
}

pub(crate) fn a_wait_ends_when_a_descriptor_arrives(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..200);
    let receiver = two.id;
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        while all.len() < 200 {
            two.receive(Wait::Forever, &mut all).expect("open");
        }
        all.len()
    });
    for slot in 0..200 {
        // Named, because this reader never gives anything back and would count as full.
        while one.sender.send(&[request(2, slot).to_instance(receiver)]).is_err() {
            std::thread::yield_now();
        }
        if slot % 3 == 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(reader.join().expect("reader"), 200);
}

pub(crate) fn a_wait_ends_when_its_time_is_over(mut fabric: Fabric) {
    let (_one, mut two) = pair(&mut fabric);
    let start = Instant::now();
    let received = two.receive(Wait::For(Duration::from_millis(20)), &mut Vec::new()).expect("open");
    assert_eq!(received, 0);
    assert!(start.elapsed() >= Duration::from_millis(19));
}

pub(crate) fn an_armed_receiver_becomes_readable(mut fabric: Fabric) {
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..10);
    let readable = |two: &Instance, timeout: PollTimeout| {
        poll(&mut [PollFd::new(two.receiver.as_fd(), PollFlags::POLLIN)], timeout).expect("poll") > 0
    };
    for slot in 0..10 {
        assert!(two.received().is_empty());
        while !two.receiver.arm().expect("open") {
            assert!(two.received().is_empty());
        }
        assert!(!readable(&two, PollTimeout::ZERO), "nothing has been sent");
        one.sender.send(&[request(2, slot)]).expect("sent");
        let patience = PollTimeout::try_from(PATIENCE).expect("fits");
        assert!(readable(&two, patience), "descriptor {slot} woke nobody");
        assert_eq!(two.received().len(), 1);
    }
}

pub(crate) fn many_senders_lose_nothing(mut fabric: Fabric) {
    fabric.allow(1, 2);
    let mut two = fabric.join(2);
    let receiver = two.id;
    let senders: Vec<_> = (0..4).map(|_| fabric.join(1)).collect();
    let each = SLOTS / 4;
    for (number, sender) in (0..).zip(&senders) {
        own(&fabric, sender, number * each..(number + 1) * each);
    }
    let mut seen = vec![false; SLOTS as usize];
    std::thread::scope(|scope| {
        for (number, sender) in (0u32..).zip(senders.iter().map(|instance| &instance.sender)) {
            scope.spawn(move || {
                let batch: Vec<_> = (number * each..(number + 1) * each).map(|slot| request(2, slot)).collect();
                for few in batch.chunks(5) {
                    // A named instance is sent to whatever its load, which this receiver never gives back.
                    let named: Vec<_> = few.iter().map(|descriptor| descriptor.to_instance(receiver)).collect();
                    while sender.send(&named).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let start = Instant::now();
        let mut all = Vec::new();
        while all.len() < SLOTS as usize {
            assert!(start.elapsed() < PATIENCE, "only {} of {SLOTS} arrived", all.len());
            two.receive(Wait::For(Duration::from_millis(100)), &mut all).expect("open");
        }
        for descriptor in all {
            assert!(!std::mem::replace(&mut seen[descriptor.slot.0 as usize], true), "arrived twice");
        }
    });
    assert!(seen.into_iter().all(|seen| seen));
}

/// The threads of an instance share its sender.
pub(crate) fn what_threads_send_at_once_arrives_and_is_counted_once(mut fabric: Fabric) {
    const THREADS: u32 = 4;
    let (one, mut two) = pair(&mut fabric);
    own(&fabric, &one, 0..SLOTS);
    let (sender, receiver, each) = (&one.sender, two.id, SLOTS / THREADS);
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for slot in thread * each..(thread + 1) * each {
                    while sender.send(&[request(2, slot).to_instance(receiver)]).is_err() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        let start = Instant::now();
        while all.len() < SLOTS as usize {
            assert!(start.elapsed() < PATIENCE, "only {} of {SLOTS} arrived", all.len());
            two.receive(Wait::For(Duration::from_millis(100)), &mut all).expect("open");
        }
    });
    let mut slots: Vec<u32> = all.iter().map(|descriptor| descriptor.slot.0).collect();
    slots.sort_unstable();
    assert_eq!(slots, (0..SLOTS).collect::<Vec<_>>());
    let sent = fabric.edge(1, 2);
    assert_eq!((sent.descriptors, sent.batches), (SLOTS.into(), SLOTS.into()));
    assert_eq!((fabric.flow(1).left, fabric.flow(2).arrived), (SLOTS.into(), SLOTS.into()));
}

pub(crate) fn a_full_queue_is_refused_and_drains(mut fabric: Fabric) {
    fabric.allow(2, 0);
    let (one, mut two) = pair(&mut fabric);
    let mut gateway = fabric.join(0);
    own(&fabric, &one, 0..SLOTS);
    let mut sent = 0;
    let refusal = loop {
        match one.sender.send(&[request(2, sent)]) {
            Ok(()) => sent += 1,
            Err(SendError::Refused(refusal)) => break refusal,
            Err(error) => panic!("{error}"),
        }
        if sent == SLOTS {
            // A socket's buffer may hold them all; its owner's slots are the bound then.
            return;
        }
    };
    assert_eq!(refusal, Refusal::Full);
    assert!(sent >= CAPACITY.min(200), "only {sent} fitted");
    assert_eq!(owner(&fabric, sent), one.id, "a failed send gives the slot back");
    for descriptor in two.received() {
        let reply = PacketDescriptor { kind: Kind::Reply as u8, function: FunctionId::GATEWAY, ..descriptor };
        two.sender.send(&[reply.to_instance(gateway.id)]).expect("answered");
        gateway.received();
    }
    one.sender.send(&[request(2, sent)]).expect("there is room again");
}
