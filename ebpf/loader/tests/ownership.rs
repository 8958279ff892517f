//! Who owns a slot: it moves with the message or not at all, and nobody sends what is not theirs.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use ramet_common::descriptor::FLAG_MORE;
use ramet_common::map::HOPS_MAX;
use ramet_common::{Generation, InstanceId, Kind, PacketDescriptor, Refusal};
use rig::{Rig, packet, packet_to};
use std::time::{Duration, Instant};

#[test]
fn a_message_takes_its_slot_along_and_back() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 5)]).unwrap();
    assert_eq!(rig.owner(5), one.instance);
    one.send(&[packet(Kind::Request, 2, 5)]).unwrap();
    assert_eq!(rig.owner(5), two.instance);
    two.send(&[packet_to(Kind::Reply, &gateway, 5)]).unwrap();
    assert_eq!(rig.owner(5), InstanceId::NONE);
    assert_eq!(gateway.pending(), [packet(Kind::Reply, 0, 5).to_instance(two.instance)]);
}

#[test]
fn a_slot_can_be_sent_only_by_its_owner_at_its_generation() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    let request = packet_to(Kind::Request, &two, 0);
    // The gateway's, then another function's, then its own at another generation.
    rig.assert_refused(&one, &[request], Refusal::NotOwner, &[&two]);
    rig.set_owner(0, two.instance, 0);
    rig.assert_refused(&one, &[request], Refusal::NotOwner, &[&two]);
    rig.assert_refused(&gateway, &[request], Refusal::NotOwner, &[&two]);
    rig.set_owner(0, one.instance, 4);
    for generation in [0, 3, 5, u32::MAX] {
        let stale = PacketDescriptor { generation: Generation(generation), ..request };
        rig.assert_refused(&one, &[stale], Refusal::NotOwner, &[&two]);
    }
    // An earlier incarnation of the sender does not count either.
    rig.set_owner(0, InstanceId::new(1, 6), 4);
    let right = PacketDescriptor { generation: Generation(4), ..request };
    rig.assert_refused(&one, &[right], Refusal::NotOwner, &[&two]);
    rig.set_owner(0, one.instance, 4);
    one.send(&[right]).unwrap();
    rig.assert_refused(&one, &[right], Refusal::NotOwner, &[]);
}

#[test]
fn a_partly_bad_batch_moves_nothing_wherever_the_bad_one_is() {
    let Some((mut rig, [_gateway, one, two])) = Rig::chain() else { return };
    for bad in [0, 1, 31, 62, 63] {
        for slot in 0..64 {
            rig.set_owner(slot, if slot == bad { two.instance } else { one.instance }, 0);
        }
        let batch: Vec<_> = (0..64).map(|slot| packet_to(Kind::Request, &two, slot)).collect();
        rig.assert_refused(&one, &batch, Refusal::NotOwner, &[&two]);
        for slot in (0..64).filter(|slot| *slot != bad) {
            assert_eq!(rig.owner(slot), one.instance, "slot {slot} with {bad} bad");
        }
        assert_eq!(rig.owner(bad), two.instance);
    }
    assert_eq!((rig.state(&one).load, rig.state(&two).load, rig.state(&one).sent), (0, 0, 0));
}

#[test]
fn a_slot_cannot_be_sent_twice_in_one_batch() {
    let Some((mut rig, [_gateway, one, two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    let twice = [packet_to(Kind::Request, &two, 0); 2];
    rig.assert_refused(&one, &twice, Refusal::NotOwner, &[&two]);
    assert_eq!(rig.owner(0), one.instance);
}

#[test]
fn kinds_that_move_nothing_leave_the_ledger_alone() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    let chunk = packet_to(Kind::Chunk, &gateway, 9).with_flags(FLAG_MORE);
    one.send(&[packet_to(Kind::Want, &gateway, 0), chunk]).unwrap();
    gateway.send(&[packet_to(Kind::Lend, &one, 7), packet_to(Kind::Cancel, &one, u32::MAX)]).unwrap();
    assert_eq!((rig.owner(0), rig.owner(9), rig.owner(7)), (one.instance, InstanceId::NONE, InstanceId::NONE));
    assert_eq!((gateway.pending().len(), one.pending().len()), (2, 2));
    assert_eq!(rig.state(&one).load, 0);
}

#[test]
fn a_destination_whose_socket_is_gone_takes_no_slot() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    let batch: Vec<_> = (0..3).map(|slot| packet_to(Kind::Request, &two, slot)).collect();
    for slot in 0..3 {
        rig.set_owner(slot, one.instance, 0);
    }
    // The process died: the kernel takes a closed socket out of its sockmap.
    let dead = (two.instance, two.function);
    drop(two);
    rig.assert_refused(&one, &batch, Refusal::Unreachable, &[&gateway]);
    assert!((0..3).all(|slot| rig.owner(slot) == one.instance));
    let state = rig.sproxy.instance_state(dead.0).unwrap().unwrap();
    assert_eq!((state.function, state.load), (dead.1, 0));
}

#[test]
fn a_rate_limited_batch_takes_its_slots_back() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    let mixed = [packet_to(Kind::Reply, &gateway, 0), packet_to(Kind::Want, &gateway, 0)];
    let wants = [packet_to(Kind::Want, &gateway, 0); 64];
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        while one.send(&wants).is_ok() && Instant::now() < deadline {
            gateway.pending();
        }
        match one.send(&mixed) {
            Err(_) => {
                assert_eq!(rig.state(&one).last_refusal, Refusal::RateLimited as u32);
                assert_eq!(rig.owner(0), one.instance);
                return;
            }
            // A new window began in between.
            Ok(()) => rig.set_owner(0, one.instance, 0),
        }
    }
    panic!("the batch was never refused");
}

#[test]
fn two_functions_cannot_pass_a_slot_to_and_fro_for_ever() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 0)]).unwrap();
    // Neither reads: without a bound every pass would queue one more message in the kernel.
    for hop in 0..HOPS_MAX {
        let (from, to) = if hop % 2 == 0 { (&one, &two) } else { (&two, &one) };
        from.send(&[packet_to(Kind::Request, to, 0)]).unwrap();
    }
    assert_eq!(rig.owner(0), one.instance);
    rig.assert_refused(&one, &[packet_to(Kind::Request, &two, 0)], Refusal::TooManyHops, &[]);
    // The way to the gateway stays open, and from there it begins anew.
    one.send(&[packet_to(Kind::Reply, &gateway, 0)]).unwrap();
    gateway.send(&[packet(Kind::Request, 1, 0)]).unwrap();
    one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap();
}

#[test]
fn refused_sends_do_not_use_up_hops() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 0)]).unwrap();
    rig.set_owner(1, two.instance, 0);
    let half_bad = [packet_to(Kind::Request, &two, 0), packet_to(Kind::Request, &two, 1)];
    for _ in 0..2 * HOPS_MAX {
        rig.assert_refused(&one, &half_bad, Refusal::NotOwner, &[&two]);
    }
    one.send(&half_bad[..1]).unwrap();
}
