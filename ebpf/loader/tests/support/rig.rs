//! A node in small: SPROXY with instances whose sockets the test holds.
#![allow(dead_code, reason = "every test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

use aya::maps::{Array, Map, MapData};
use ramet_common::map::{DomainSlots, Edge, Identity, InstanceState};
use ramet_common::{
    DESCRIPTOR_BYTES, DomainId, FunctionId, Generation, InstanceId, Kind, LedgerWord, PacketDescriptor, Refusal,
    RequestId, SlotIndex,
};
use ramet_loader::{LoadOptions, LoaderError, SocketPairs, Sproxy, find_object, socket_pairs};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The two domains of the rig, with 1024 slots each.
pub(crate) const DOMAIN: DomainId = DomainId(1);
pub(crate) const OTHER_DOMAIN: DomainId = DomainId(2);
pub(crate) const DOMAIN_SLOTS: u32 = 1024;

/// Whether a missing privilege or object fails a test instead of skipping it.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says why a test does not run; under CI that is a failure.
pub(crate) fn skip(why: &str) {
    assert!(!is_ci(), "skipped under CI: {why}");
    eprintln!("skipped: {why}");
}

pub(crate) struct Rig {
    pub(crate) sproxy: Sproxy,
    pub(crate) ledger: Array<MapData, u64>,
    pub(crate) instances: Array<MapData, [u8; 64]>,
}

impl Rig {
    /// A fresh SPROXY, or `None` where this machine cannot have one.
    pub(crate) fn new() -> Option<Self> {
        let options = LoadOptions { ledger_slots: 4096 };
        let mut sproxy = match find_object().and_then(|object| Sproxy::load(object, options)) {
            Ok(sproxy) => sproxy,
            Err(error @ (LoaderError::NotPermitted { .. } | LoaderError::ObjectNotFound { .. })) => {
                skip(&error.to_string());
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        sproxy.set_domain(DOMAIN, DomainSlots { base: 512, count: DOMAIN_SLOTS }).unwrap();
        sproxy.set_domain(OTHER_DOMAIN, DomainSlots { base: 2048, count: DOMAIN_SLOTS }).unwrap();
        let ledger = Array::try_from(Map::Array(open(sproxy.ledger_fd()))).unwrap();
        let instances = Array::try_from(Map::Array(open(sproxy.instances_fd()))).unwrap();
        Some(Self { sproxy, ledger, instances })
    }

    /// A gateway worker at index 0, function 1 at index 1 and function 2 at index 2, all of [`DOMAIN`], with edges
    /// from everybody to everybody else.
    pub(crate) fn chain() -> Option<(Self, [Member; 3])> {
        let mut rig = Self::new()?;
        let members = [rig.join(0, 0, 8), rig.join(1, 1, 8), rig.join(2, 2, 8)];
        for from in 0..3 {
            for to in (0..3).filter(|to| *to != from) {
                rig.allow(from, to);
            }
        }
        rig.replicas(1, &members[1..2]);
        rig.replicas(2, &members[2..3]);
        Some((rig, members))
    }

    pub(crate) fn join(&mut self, index: u16, function: u32, capacity: u32) -> Member {
        self.join_domain(index, function, capacity, DOMAIN)
    }

    pub(crate) fn join_domain(&mut self, index: u16, function: u32, capacity: u32, domain: DomainId) -> Member {
        self.join_as(InstanceId::new(index, 7), function, capacity, domain)
    }

    pub(crate) fn join_as(&mut self, instance: InstanceId, function: u32, capacity: u32, domain: DomainId) -> Member {
        let pairs = socket_pairs().unwrap();
        let function = FunctionId(function);
        let identity = Identity { instance, function, domain, ..Identity::default() };
        self.sproxy.join(identity, capacity, pairs.sender.as_fd(), pairs.receiver.as_fd()).unwrap();
        Member::new(instance, function, pairs)
    }

    pub(crate) fn allow(&mut self, from: u32, to: u32) {
        self.sproxy.allow(edge(from, to)).unwrap();
    }

    pub(crate) fn replicas(&mut self, function: u32, members: &[Member]) {
        let instances: Vec<InstanceId> = members.iter().map(|member| member.instance).collect();
        self.sproxy.set_replicas(FunctionId(function), DOMAIN, &instances).unwrap();
    }

    pub(crate) fn state(&self, member: &Member) -> InstanceState {
        self.sproxy.instance_state(member.instance).unwrap().unwrap()
    }

    pub(crate) fn refused(&self, reason: Refusal) -> u64 {
        self.sproxy.refusals().unwrap()[reason as usize]
    }

    /// The owner of a slot of [`DOMAIN`].
    pub(crate) fn owner(&self, slot: u32) -> InstanceId {
        LedgerWord::from_bits(self.ledger.get(&(512 + slot), 0).unwrap()).owner
    }

    pub(crate) fn set_owner(&mut self, slot: u32, owner: InstanceId, generation: u32) {
        let word = LedgerWord { owner, generation: Generation(generation) };
        self.ledger.set(512 + slot, word.to_bits(), 0).unwrap();
    }

    /// Sends must be refused for `reason`, reach nobody in `quiet`, and be counted for the sender.
    pub(crate) fn assert_refused(
        &self,
        sender: &Member,
        batch: &[PacketDescriptor],
        reason: Refusal,
        quiet: &[&Member],
    ) {
        let before = self.refused(reason);
        let refused = self.state(sender).refused;
        let error = sender.send(batch).expect_err("the send must be refused");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}");
        let state = self.state(sender);
        assert_eq!(Refusal::from_u32(state.last_refusal), Some(reason));
        assert_eq!(self.refused(reason), before + 1);
        assert_eq!(state.refused, refused + 1);
        for member in quiet {
            assert_eq!(member.pending(), [], "a refused batch must not arrive");
        }
    }
}

/// An instance, as its process would see itself.
pub(crate) struct Member {
    pub(crate) instance: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) tcp: TcpStream,
    pub(crate) unix: UnixStream,
    peers: [std::os::fd::OwnedFd; 2],
}

impl Member {
    fn new(instance: InstanceId, function: FunctionId, pairs: SocketPairs) -> Self {
        let tcp = TcpStream::from(pairs.sender);
        let unix = UnixStream::from(pairs.receiver);
        // A broken SPROXY must fail a test, not hang it.
        tcp.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        unix.set_nonblocking(true).unwrap();
        Self { instance, function, tcp, unix, peers: [pairs.sender_peer, pairs.receiver_peer] }
    }

    pub(crate) fn send(&self, batch: &[PacketDescriptor]) -> io::Result<()> {
        self.send_bytes(&batch.iter().flat_map(|one| bytes_of(*one)).collect::<Vec<u8>>())
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = (&self.tcp).write(bytes)?;
        assert_eq!(sent, bytes.len(), "a batch is sent whole");
        Ok(())
    }

    /// Everything that has arrived. A redirect is complete when the send returns, so there is nothing to wait for.
    pub(crate) fn pending(&self) -> Vec<PacketDescriptor> {
        let mut all = Vec::new();
        let mut buffer = [0; 64 * DESCRIPTOR_BYTES];
        loop {
            match (&self.unix).read(&mut buffer) {
                Ok(0) => panic!("the receiving socket was closed"),
                Ok(length) => {
                    let (chunks, rest) = buffer[..length].as_chunks::<DESCRIPTOR_BYTES>();
                    assert!(rest.is_empty(), "{length} bytes are no whole number of descriptors");
                    all.extend(chunks.iter().map(|chunk| descriptor_of(*chunk)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
                Err(error) => panic!("reading: {error}"),
            }
        }
    }
}

pub(crate) fn edge(from: u32, to: u32) -> Edge {
    Edge { from: FunctionId(from), to: FunctionId(to) }
}

pub(crate) fn bytes_of(descriptor: PacketDescriptor) -> [u8; DESCRIPTOR_BYTES] {
    zerocopy::transmute!(descriptor)
}

pub(crate) fn descriptor_of(bytes: [u8; DESCRIPTOR_BYTES]) -> PacketDescriptor {
    zerocopy::transmute!(bytes)
}

/// A descriptor about slot `slot` at generation 0, to any replica of `function`.
pub(crate) fn packet(kind: Kind, function: u32, slot: u32) -> PacketDescriptor {
    PacketDescriptor::new(kind, FunctionId(function), SlotIndex(slot), Generation(0), RequestId(u64::from(slot)))
}

/// The same to one instance.
pub(crate) fn packet_to(kind: Kind, member: &Member, slot: u32) -> PacketDescriptor {
    packet(kind, member.function.0, slot).to_instance(member.instance)
}

fn open(fd: BorrowedFd<'_>) -> MapData {
    MapData::from_fd(fd.try_clone_to_owned().unwrap()).unwrap()
}
