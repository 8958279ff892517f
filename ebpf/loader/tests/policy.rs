//! Who may say what to whom: every reason for which SPROXY says no, but for ownership.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use aya::maps::{PerCpuArray, SockMap};
use aya::programs::SkMsg;
use ramet_common::descriptor::FLAG_LENT;
use ramet_common::map::{InstanceState, POLICE_TOKENS, REFUSALS, SENDERS, SPROXY};
use ramet_common::{BATCH_MAX, InstanceId, Kind, PacketDescriptor, Refusal};
use ramet_loader::{find_object, socket_pairs};
use rig::{DOMAIN_SLOTS, OTHER_DOMAIN, Rig, bytes_of, edge, packet, packet_to};
use std::io::{self, ErrorKind, Seek, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;

#[test]
fn a_socket_without_identity_cannot_send() {
    // `join` always writes an identity, so this one is set up by hand.
    if Rig::new().is_none() {
        return;
    }
    let mut ebpf = aya::Ebpf::load_file(find_object().unwrap()).unwrap();
    let mut senders: SockMap<_> = ebpf.take_map(SENDERS).unwrap().try_into().unwrap();
    let refusals: PerCpuArray<_, u64> = ebpf.take_map(REFUSALS).unwrap().try_into().unwrap();
    let program: &mut SkMsg = ebpf.program_mut(SPROXY).unwrap().try_into().unwrap();
    program.load().unwrap();
    program.attach(&senders.fd().try_clone().unwrap()).unwrap();
    let pairs = socket_pairs().unwrap();
    let mut sender = TcpStream::from(pairs.sender);
    senders.set(1, &sender, 0).unwrap();
    let error = sender.write(&bytes_of(packet(Kind::Request, 1, 0))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(refusals.get(&(Refusal::UnknownSender as u32), 0).unwrap().iter().sum::<u64>(), 1);
}

#[test]
fn an_instance_whose_entry_is_gone_cannot_send() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    let state = InstanceState { instance: InstanceId::NONE, ..rig.state(&gateway) };
    let bytes: [u8; 64] = zerocopy::transmute!(state);
    rig.instances.set(0, bytes, 0).unwrap();
    let error = gateway.send(&[packet(Kind::Request, 1, 0)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert_eq!(rig.refused(Refusal::UnknownSender), 1);
    assert_eq!(one.pending(), []);
}

#[test]
fn only_a_permitted_edge_carries_anything() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    let request = packet_to(Kind::Request, &two, 0);
    rig.set_owner(0, one.instance, 0);
    rig.sproxy.deny(edge(1, 2)).unwrap();
    rig.assert_refused(&one, &[request], Refusal::EdgeDenied, &[&two]);
    // The gateway is no exception, nor is oneself.
    rig.sproxy.deny(edge(1, 0)).unwrap();
    rig.assert_refused(&one, &[packet_to(Kind::Reply, &gateway, 0)], Refusal::EdgeDenied, &[&gateway]);
    rig.assert_refused(&one, &[packet_to(Kind::Request, &one, 0)], Refusal::EdgeDenied, &[&one]);
    rig.allow(1, 2);
    one.send(&[request]).unwrap();
    assert_eq!(two.pending().len(), 1);
}

#[test]
fn nothing_crosses_a_security_domain_even_along_an_edge() {
    let Some((mut rig, [_gateway, one, _two])) = Rig::chain() else { return };
    let foreign = rig.join_domain(5, 5, 8, OTHER_DOMAIN);
    rig.allow(1, 5);
    rig.sproxy.set_replicas(foreign.function, OTHER_DOMAIN, &[foreign.instance]).unwrap();
    rig.set_owner(0, one.instance, 0);
    rig.assert_refused(&one, &[packet_to(Kind::Request, &foreign, 0)], Refusal::EdgeDenied, &[&foreign]);
    rig.assert_refused(&one, &[packet(Kind::Call, 5, 0)], Refusal::EdgeDenied, &[&foreign]);
    assert_eq!(rig.owner(0), one.instance);
}

#[test]
fn a_slot_outside_the_own_domain_cannot_be_named() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    for slot in [DOMAIN_SLOTS, 1536, u32::MAX - 511, u32::MAX] {
        rig.assert_refused(&one, &[packet_to(Kind::Request, &two, slot)], Refusal::BadSlot, &[&two]);
        rig.assert_refused(&gateway, &[packet_to(Kind::Request, &two, slot)], Refusal::BadSlot, &[&two]);
    }
    rig.set_owner(DOMAIN_SLOTS - 1, one.instance, 0);
    one.send(&[packet_to(Kind::Request, &two, DOMAIN_SLOTS - 1)]).unwrap();
}

#[test]
fn the_gateway_hands_out_slots_of_the_destinations_domain() {
    let Some((mut rig, [gateway, _one, _two])) = Rig::chain() else { return };
    let foreign = rig.join_domain(5, 5, 8, OTHER_DOMAIN);
    rig.allow(0, 5);
    gateway.send(&[packet_to(Kind::Request, &foreign, 3)]).unwrap();
    assert_eq!(rig.owner(3), InstanceId::NONE);
    assert_eq!(rig.ledger.get(&(2048 + 3), 0).unwrap() >> 32, u64::from(foreign.instance.0));
}

#[test]
fn a_message_that_is_no_whole_number_of_descriptors_is_refused() {
    let Some((rig, [gateway, one, _two])) = Rig::chain() else { return };
    let bytes: Vec<u8> = (0..65).flat_map(|slot| bytes_of(packet_to(Kind::Request, &one, slot))).collect();
    for length in [1, 31, 33, 63, 32 * BATCH_MAX - 1, 32 * BATCH_MAX + 1, 32 * BATCH_MAX + 32] {
        let error = gateway.send_bytes(&bytes[..length]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{length} bytes");
    }
    assert_eq!(rig.refused(Refusal::Malformed), 7);
    assert_eq!(one.pending(), []);
    assert!((0..65).all(|slot| rig.owner(slot) == InstanceId::NONE));
}

#[test]
fn an_unknown_version_or_kind_is_refused() {
    let Some((rig, [gateway, one, _two])) = Rig::chain() else { return };
    let good = packet_to(Kind::Request, &one, 0);
    for version in [0, 2, 255] {
        let bad = PacketDescriptor { version, ..good };
        rig.assert_refused(&gateway, &[bad], Refusal::Malformed, &[&one]);
    }
    for kind in [0, 13, 31, 32, 33, 64 + 1, 255] {
        let bad = PacketDescriptor { kind, ..good };
        rig.assert_refused(&gateway, &[bad], Refusal::Malformed, &[&one]);
    }
}

#[test]
fn only_a_return_may_be_marked_lent() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    for kind in [Kind::Request, Kind::Call, Kind::Reply, Kind::Failed] {
        // Otherwise it would arrive, and the slot would stay with the sender.
        let bad = packet_to(kind, &two, 0).with_flags(FLAG_LENT);
        rig.assert_refused(&one, &[bad], Refusal::Malformed, &[&two]);
    }
    one.send(&[packet_to(Kind::Return, &gateway, 0).with_flags(FLAG_LENT)]).unwrap();
    assert_eq!(rig.owner(0), one.instance);
    one.send(&[packet_to(Kind::Return, &gateway, 0)]).unwrap();
    assert_eq!(rig.owner(0), InstanceId::NONE);
}

#[test]
fn each_kind_goes_only_where_it_may() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    for kind in [Kind::Grant, Kind::Lend, Kind::Cancel, Kind::Sorry] {
        rig.assert_refused(&one, &[packet_to(kind, &two, 0)], Refusal::KindDenied, &[&two]);
        rig.assert_refused(&one, &[packet_to(kind, &gateway, 0)], Refusal::KindDenied, &[&gateway]);
        gateway.send(&[packet_to(kind, &two, 1)]).unwrap();
        assert_eq!(two.pending().len(), 1);
        rig.set_owner(1, InstanceId::NONE, 0);
    }
    for kind in [Kind::Forward, Kind::Return, Kind::Want, Kind::Chunk] {
        rig.assert_refused(&one, &[packet_to(kind, &two, 0)], Refusal::KindDenied, &[]);
        rig.assert_refused(&gateway, &[packet_to(kind, &two, 1)], Refusal::KindDenied, &[]);
        one.send(&[packet_to(kind, &gateway, 0)]).unwrap();
        rig.set_owner(0, one.instance, 0);
    }
}

#[test]
fn a_batch_has_one_destination() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    let to_one = packet(Kind::Request, 1, 0);
    for other in [packet(Kind::Request, 2, 1), packet_to(Kind::Request, &one, 1), packet_to(Kind::Request, &two, 1)] {
        rig.assert_refused(&gateway, &[to_one, other], Refusal::MixedBatch, &[&one, &two]);
        assert_eq!(rig.owner(0), InstanceId::NONE);
    }
}

#[test]
fn descriptors_that_move_nothing_are_rate_limited_for_functions_only() {
    let Some((rig, [gateway, one, two])) = Rig::chain() else { return };
    let wants = [packet_to(Kind::Want, &gateway, 0); BATCH_MAX];
    let cancels = [packet_to(Kind::Cancel, &two, 0); BATCH_MAX];
    let per_window = POLICE_TOKENS as usize / BATCH_MAX;
    let mut sent = 0;
    // A slow machine may start a new window in between; many windows in a row it cannot.
    let refused = (0..100 * per_window).any(|_| {
        gateway.send(&cancels).unwrap();
        two.pending();
        gateway.pending();
        let refused = one.send(&wants).is_err();
        sent += usize::from(!refused);
        refused
    });
    assert!(refused, "nothing was ever refused");
    assert!(sent >= per_window, "refused after {sent} batches of {per_window}");
    assert_eq!(rig.state(&one).last_refusal, Refusal::RateLimited as u32);
    assert_eq!(rig.refused(Refusal::RateLimited), 1);
    // The window passes.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while one.send(&wants).is_err() {
        assert!(std::time::Instant::now() < deadline, "the limit was never lifted");
        std::thread::yield_now();
    }
}

#[test]
fn a_message_from_a_file_is_copied_before_it_is_checked_and_stamped() {
    let Some((_rig, [gateway, one, _two])) = Rig::chain() else { return };
    let sent = packet_to(Kind::Request, &one, 0);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes_of(sent)).unwrap();
    file.rewind().unwrap();
    // From a file to a socket this is `sendfile`: the kernel passes on the file's own pages.
    assert_eq!(io::copy(&mut file, &mut &gateway.tcp).unwrap(), 32);
    let mut content = [0; 32];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, bytes_of(sent), "stamping wrote into the file");
    // Nor can whoever may write the file change what was checked.
    file.write_all_at(&[0xff; 32], 0).unwrap();
    assert_eq!(one.pending(), [sent.to_instance(gateway.instance)]);
}
