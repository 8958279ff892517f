//! Where SPROXY sends a batch: the right instance, the idlest replica, and never a successor by mistake.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use ramet_common::descriptor::FLAG_MORE;
use ramet_common::map::EdgeCount;
use ramet_common::{InstanceId, Kind, Refusal};
use rig::{DOMAIN, Rig, edge, packet, packet_to};

#[test]
fn a_descriptor_arrives_with_its_true_sender_stamped() {
    let Some((_rig, [gateway, one, two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 3)]).unwrap();
    assert_eq!(one.pending(), [packet(Kind::Request, 1, 3).to_instance(gateway.instance)]);
    one.send(&[packet_to(Kind::Request, &two, 3)]).unwrap();
    // What the sender wrote there was the destination; the receiver reads the sender.
    assert_eq!(two.pending(), [packet(Kind::Request, 2, 3).to_instance(one.instance)]);
}

#[test]
fn a_batch_of_64_arrives_whole_and_in_order() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let worker = rig.join(3, 3, 64);
    rig.allow(0, 3);
    rig.replicas(3, std::slice::from_ref(&worker));
    let batch: Vec<_> = (0..64).map(|slot| packet(Kind::Request, 3, slot)).collect();
    gateway.send(&batch).unwrap();
    let expected: Vec<_> = batch.iter().map(|one| one.to_instance(gateway.instance)).collect();
    assert_eq!(worker.pending(), expected);
    assert!((0..64).all(|slot| rig.owner(slot) == worker.instance));
    assert_eq!(rig.state(&worker).load, 64);
}

#[test]
fn equal_replicas_share_evenly() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let replicas: Vec<_> = (10..14).map(|index| rig.join(index, 3, 1000)).collect();
    rig.allow(0, 3);
    rig.replicas(3, &replicas);
    for slot in 0..400 {
        gateway.send(&[packet(Kind::Request, 3, slot)]).unwrap();
    }
    for replica in &replicas {
        assert_eq!(replica.pending().len(), 100);
    }
}

#[test]
fn idle_equals_are_tried_in_no_fixed_order() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let replicas: Vec<_> = (10..14).map(|index| rig.join(index, 3, 8)).collect();
    rig.allow(0, 3);
    rig.allow(3, 0);
    rig.replicas(3, &replicas);
    let mut counts = [0; 4];
    for _ in 0..200 {
        gateway.send(&[packet(Kind::Request, 3, 0)]).unwrap();
        for (count, replica) in counts.iter_mut().zip(&replicas) {
            if !replica.pending().is_empty() {
                *count += 1;
                replica.send(&[packet_to(Kind::Reply, &gateway, 0)]).unwrap();
            }
        }
    }
    // The chance that a fair choice gives one of four fewer than 10 of 200 is below one in ten million.
    assert!(counts.iter().all(|count| *count >= 10), "{counts:?}");
}

#[test]
fn the_replica_with_the_most_residual_capacity_is_chosen() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let small = rig.join(10, 3, 2);
    let big = rig.join(11, 3, 10);
    let replicas = [small, big];
    rig.allow(0, 3);
    rig.replicas(3, &replicas);
    // Eight requests bring the big one down to what the small one has from the start.
    for slot in 0..8 {
        gateway.send(&[packet(Kind::Request, 3, slot)]).unwrap();
        assert_eq!((replicas[0].pending().len(), replicas[1].pending().len()), (0, 1));
    }
    for slot in 8..12 {
        gateway.send(&[packet(Kind::Request, 3, slot)]).unwrap();
    }
    assert_eq!((replicas[0].pending().len(), replicas[1].pending().len()), (2, 2));
}

#[test]
fn when_every_queue_is_full_a_request_is_refused_and_an_answer_makes_room() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let worker = rig.join(10, 3, 1);
    rig.allow(0, 3);
    rig.allow(3, 0);
    rig.replicas(3, std::slice::from_ref(&worker));
    gateway.send(&[packet(Kind::Request, 3, 0)]).unwrap();
    worker.pending();
    rig.assert_refused(&gateway, &[packet(Kind::Request, 3, 1)], Refusal::Full, &[&worker]);
    assert_eq!(rig.owner(1), InstanceId::NONE);
    worker.send(&[packet_to(Kind::Reply, &gateway, 0)]).unwrap();
    assert_eq!(rig.state(&worker).load, 0);
    gateway.send(&[packet(Kind::Request, 3, 1)]).unwrap();
}

#[test]
fn every_way_of_finishing_work_lowers_the_load() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    for (slot, kind) in [(0, Kind::Request), (1, Kind::Call), (2, Kind::Request), (3, Kind::Call)] {
        gateway.send(&[packet(kind, 1, slot)]).unwrap();
    }
    assert_eq!(rig.state(&one).load, 4);
    let finishing = [
        packet_to(Kind::Reply, &gateway, 0),
        packet_to(Kind::Failed, &gateway, 1),
        packet_to(Kind::Forward, &gateway, 2),
        packet_to(Kind::Request, &two, 3),
    ];
    for (left, packet) in [3, 2, 1, 0].into_iter().zip(finishing) {
        one.send(&[packet]).unwrap();
        assert_eq!(rig.state(&one).load, left);
    }
    assert_eq!(rig.state(&two).load, 1);
    assert_eq!(rig.state(&gateway).load, 0);
}

#[test]
fn a_load_below_zero_counts_as_idle() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    // The instance answers what its predecessor at the gateway was given: nobody counted it in.
    rig.set_owner(0, one.instance, 0);
    one.send(&[packet_to(Kind::Reply, &gateway, 0)]).unwrap();
    assert_eq!(rig.state(&one).load as i32, -1);
    let equal = rig.join(20, 1, 8);
    rig.sproxy.set_replicas(one.function, DOMAIN, &[one.instance, equal.instance]).unwrap();
    for slot in 1..100 {
        gateway.send(&[packet(Kind::Request, 1, slot)]).unwrap();
        if !equal.pending().is_empty() {
            return;
        }
        rig.set_owner(slot, one.instance, 0);
        one.send(&[packet_to(Kind::Reply, &gateway, slot)]).unwrap();
    }
    panic!("an instance with negative load drew every request");
}

#[test]
fn a_late_message_never_reaches_a_successor() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    let late = packet_to(Kind::Request, &one, 0);
    rig.sproxy.leave(one.instance).unwrap();
    let successor = rig.join_as(InstanceId::new(1, 8), 1, 8, DOMAIN);
    rig.assert_refused(&gateway, &[late], Refusal::NoReplica, &[&successor]);
    // The replica table still names the predecessor; a picker that trusted it would hit the successor.
    rig.assert_refused(&gateway, &[packet(Kind::Request, 1, 0)], Refusal::NoReplica, &[&successor]);
    gateway.send(&[packet_to(Kind::Request, &successor, 0)]).unwrap();
    assert_eq!(successor.pending().len(), 1);
}

#[test]
fn a_named_instance_must_be_one_of_the_named_function() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    let lie = packet(Kind::Request, 1, 0).to_instance(two.instance);
    rig.assert_refused(&gateway, &[lie], Refusal::NoReplica, &[&one, &two]);
    let nobody = packet(Kind::Request, 1, 0).to_instance(InstanceId::new(u16::MAX, 1));
    rig.assert_refused(&gateway, &[nobody], Refusal::NoReplica, &[&one, &two]);
}

#[test]
fn an_answer_to_the_gateway_must_name_its_worker() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    rig.assert_refused(&one, &[packet(Kind::Reply, 0, 0)], Refusal::NoReplica, &[&gateway]);
}

#[test]
fn a_function_without_instances_is_no_destination() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    rig.allow(0, 9);
    rig.assert_refused(&gateway, &[packet(Kind::Request, 9, 0)], Refusal::NoReplica, &[&one]);
    rig.replicas(1, &[]);
    rig.assert_refused(&gateway, &[packet(Kind::Request, 1, 0)], Refusal::NoReplica, &[&one]);
    // Beyond the table.
    rig.allow(0, 1 << 20);
    rig.assert_refused(&gateway, &[packet(Kind::Request, 1 << 20, 0)], Refusal::NoReplica, &[&one]);
}

#[test]
fn what_went_over_each_edge_is_counted() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 0), packet(Kind::Request, 1, 1)]).unwrap();
    gateway.send(&[packet(Kind::Request, 1, 2)]).unwrap();
    one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap();
    rig.assert_refused(&one, &[packet_to(Kind::Request, &two, 0)], Refusal::NotOwner, &[]);
    let counts = rig.sproxy.edge_counts().unwrap();
    let of = |from, to| counts.iter().find(|(key, _)| *key == edge(from, to)).unwrap().1;
    assert_eq!(of(0, 1), EdgeCount { descriptors: 3, batches: 2 });
    assert_eq!(of(1, 2), EdgeCount { descriptors: 1, batches: 1 });
    assert_eq!(of(2, 1), EdgeCount::default());
    assert_eq!(counts.len(), 6);
    assert_eq!((rig.state(&gateway).sent, rig.state(&one).sent), (3, 1));
}

/// A `Return` gives back what was never work, so only the other ways to give a head back lower the count.
#[test]
fn work_counts_until_it_ends() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let worker = rig.join(10, 3, 8);
    rig.allow(0, 3);
    rig.allow(3, 0);
    rig.replicas(3, std::slice::from_ref(&worker));
    let (reply, chunk) = (packet_to(Kind::Reply, &gateway, 0), packet_to(Kind::Chunk, &gateway, 0));
    gateway.send(&[packet(Kind::Request, 3, 0)]).unwrap();
    assert_eq!(worker.pending().len(), 1);
    for (streamed, load) in [(reply.with_flags(FLAG_MORE), 1), (chunk.with_flags(FLAG_MORE), 1), (chunk, 0)] {
        worker.send(&[streamed]).unwrap();
        assert_eq!(rig.state(&worker).load, load, "{streamed:?}");
    }
    for (kind, load) in [(Kind::Reply, 0), (Kind::Failed, 0), (Kind::Forward, 0), (Kind::Return, 1)] {
        gateway.send(&[packet(Kind::Request, 3, 0)]).unwrap();
        assert_eq!(worker.pending().len(), 1);
        worker.send(&[packet_to(kind, &gateway, 0)]).unwrap();
        assert_eq!(rig.state(&worker).load, load, "{kind:?}");
    }
}

#[test]
fn a_functions_flow_says_how_many_messages_it_has_and_for_how_long() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    let flow = |rig: &Rig, member: &rig::Member| rig.sproxy.flow(member.function).unwrap();
    let spent = |rig: &Rig, member: &rig::Member| flow(rig, member).spent_ns(u64::MAX / 4);
    for slot in 0..3 {
        gateway.send(&[packet(Kind::Request, 1, slot)]).unwrap();
    }
    assert_eq!((flow(&rig, &one).arrived, flow(&rig, &one).held(), flow(&rig, &two).arrived), (3, 3, 0));
    one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap();
    one.send(&[packet_to(Kind::Reply, &gateway, 1)]).unwrap();
    assert_eq!((flow(&rig, &one).left, flow(&rig, &one).held(), flow(&rig, &two).held()), (2, 1, 1));
    let left = flow(&rig, &one);
    assert!(left.left_ns > 0 && left.arrived_ns > left.left_ns, "three came and two left");
    two.send(&[packet_to(Kind::Reply, &gateway, 0)]).unwrap();
    assert_eq!(flow(&rig, &two).held(), 0);
    let before = spent(&rig, &two);
    assert!(before > 0 && before < 60_000_000_000, "{before} ns");
    assert_eq!(spent(&rig, &two), before, "without messages no time is spent");
    rig.sproxy.leave(one.instance).unwrap();
    assert_eq!(flow(&rig, &one).held(), 0, "what it held is lost, not there for ever");
    rig.sproxy.forget_flow(one.function).unwrap();
    assert_eq!(flow(&rig, &one).arrived, 0);
}
