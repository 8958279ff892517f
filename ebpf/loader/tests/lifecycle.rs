//! Joining, leaving and logging: what the supervisor does around SPROXY.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use aya::maps::{MapData, MapInfo};
use ramet_common::map::{DomainSlots, Identity};
use ramet_common::{DomainId, FunctionId, InstanceId, Kind, Refusal};
use ramet_loader::{LoaderError, socket_pairs};
use rig::{DOMAIN, Rig, packet, packet_to};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn who_left_neither_sends_nor_receives() {
    let Some((mut rig, [gateway, one, two])) = Rig::chain() else { return };
    rig.set_owner(0, one.instance, 0);
    rig.sproxy.leave(one.instance).unwrap();
    assert_eq!(rig.sproxy.instance_state(one.instance).unwrap(), None);
    // Its socket carries no program any more, so what it writes goes to the held peer and to nobody else.
    one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap();
    assert_eq!((two.pending(), rig.owner(0)), (vec![], one.instance));
    rig.assert_refused(&gateway, &[packet_to(Kind::Request, &one, 1)], Refusal::NoReplica, &[&one]);
    rig.sproxy.leave(one.instance).unwrap();
}

#[test]
fn the_leave_of_a_predecessor_does_not_hurt_its_successor() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    rig.sproxy.leave(one.instance).unwrap();
    let successor = rig.join_as(InstanceId::new(1, 8), 1, 8, DOMAIN);
    rig.sproxy.leave(one.instance).unwrap();
    gateway.send(&[packet_to(Kind::Request, &successor, 0)]).unwrap();
    assert_eq!(successor.pending().len(), 1);
}

#[test]
fn an_occupied_index_is_not_given_away() {
    let Some((mut rig, [gateway, one, _two])) = Rig::chain() else { return };
    let pairs = socket_pairs().unwrap();
    let identity =
        Identity { instance: InstanceId::new(1, 9), function: FunctionId(1), domain: DOMAIN, ..Identity::default() };
    let error = rig.sproxy.join(identity, 8, pairs.sender.as_fd(), pairs.receiver.as_fd()).unwrap_err();
    assert!(matches!(error, LoaderError::Occupied { living, .. } if living == one.instance), "{error}");
    gateway.send(&[packet_to(Kind::Request, &one, 0)]).unwrap();
    assert_eq!(one.pending().len(), 1);
}

#[test]
fn a_join_that_fails_half_way_leaves_nothing_behind() {
    let Some((mut rig, [gateway, ..])) = Rig::chain() else { return };
    let pairs = socket_pairs().unwrap();
    let instance = InstanceId::new(9, 1);
    let identity = Identity { instance, function: FunctionId(1), domain: DOMAIN, ..Identity::default() };
    let no_socket = std::fs::File::open("/dev/null").unwrap();
    for (sender, receiver) in [(no_socket.as_fd(), pairs.receiver.as_fd()), (pairs.sender.as_fd(), no_socket.as_fd())] {
        let error = rig.sproxy.join(identity, 8, sender, receiver).unwrap_err();
        assert!(matches!(error, LoaderError::Map { .. }), "{error}");
        assert_eq!(rig.sproxy.instance_state(instance).unwrap(), None);
        let to_it = packet(Kind::Request, 1, 0).to_instance(instance);
        rig.assert_refused(&gateway, &[to_it], Refusal::NoReplica, &[]);
    }
    rig.sproxy.join(identity, 8, pairs.sender.as_fd(), pairs.receiver.as_fd()).unwrap();
}

#[test]
fn ids_beyond_the_tables_are_refused_with_their_limit() {
    let Some(mut rig) = Rig::new() else { return };
    let domain = |rig: &mut Rig, id, base, count| rig.sproxy.set_domain(DomainId(id), DomainSlots { base, count });
    assert!(domain(&mut rig, 256, 0, 1).unwrap_err().to_string().contains("256"));
    assert!(domain(&mut rig, 0, 0, 4097).unwrap_err().to_string().contains("4096"));
    assert!(domain(&mut rig, 0, u32::MAX - 511, u32::MAX).is_err());
    assert!(domain(&mut rig, 0, 100, 1).unwrap_err().to_string().contains("512"));
    domain(&mut rig, 0, 0, 4096).unwrap();
    let many = vec![InstanceId::new(1, 1); 65];
    assert!(rig.sproxy.set_replicas(FunctionId(1), DOMAIN, &many).unwrap_err().to_string().contains("64"));
    assert!(rig.sproxy.set_replicas(FunctionId(4096), DOMAIN, &[]).is_err());
    assert!(rig.sproxy.set_replicas(FunctionId::GATEWAY, DOMAIN, &[]).is_err());
    assert!(rig.sproxy.instance_state(InstanceId::NONE).is_err());
    assert!(rig.sproxy.instance_state(InstanceId::new(4096, 1)).is_err());
}

#[test]
fn permitting_an_edge_again_keeps_its_counts() {
    let Some((mut rig, [gateway, _one, _two])) = Rig::chain() else { return };
    gateway.send(&[packet(Kind::Request, 1, 0)]).unwrap();
    rig.allow(0, 1);
    let counts = rig.sproxy.edge_counts().unwrap();
    assert_eq!(counts.iter().map(|(_, count)| count.descriptors).sum::<u64>(), 1);
}

#[test]
fn nothing_outlives_the_loader() {
    let Some(rig) = Rig::new() else { return };
    let Rig { sproxy, ledger, instances } = rig;
    drop((ledger, instances));
    let map = MapData::from_fd(sproxy.ledger_fd().try_clone_to_owned().unwrap()).unwrap();
    let id = map.info().unwrap().id();
    drop(map);
    drop(sproxy);
    // The kernel frees a map some time after its last descriptor is closed.
    let deadline = Instant::now() + Duration::from_secs(10);
    while MapInfo::from_id(id).is_ok() {
        assert!(Instant::now() < deadline, "map {id} is still there");
        std::thread::yield_now();
    }
}

#[test]
fn a_refusal_is_logged_and_a_flood_of_them_is_not() {
    let Some((mut rig, [_gateway, one, two])) = Rig::chain() else { return };
    let mut logs = rig.sproxy.logs().unwrap();
    assert!(matches!(rig.sproxy.logs(), Err(LoaderError::Logs { .. })));
    for _ in 0..10_000 {
        one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap_err();
    }
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || logs.flush());
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let expected = format!("ramet::sproxy: refused a send of instance {} of function 1: not_owner\n", one.instance);
    assert!(text.lines().next().is_some_and(|line| format!("{line}\n").ends_with(&expected)), "{text}");
    // 1, 2, 4, … 8192.
    assert_eq!(text.lines().count(), 14, "{text}");
}

#[test]
fn log_lines_are_forwarded_as_they_come() {
    let Some((mut rig, [_gateway, one, two])) = Rig::chain() else { return };
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_writer(lines.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let logs = rig.sproxy.logs().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let forwarding = tokio::spawn(logs.forward());
        one.send(&[packet_to(Kind::Request, &two, 0)]).unwrap_err();
        let deadline = Instant::now() + Duration::from_secs(5);
        while lines.0.lock().unwrap().is_empty() {
            assert!(Instant::now() < deadline && !forwarding.is_finished(), "no line came");
            // tidy: the pause between two looks at a condition, not a wait for it
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

/// Collects what a subscriber writes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
