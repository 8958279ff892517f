//! What a supervisor does for a transport: it makes what processes share, and says who may send to whom.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::Context;
use ramet_common::map::{DomainSlots, Edge, Identity as Member};
use ramet_common::{DomainId, FunctionId};
use ramet_dataplane::endpoint::LinkEnd;
use ramet_dataplane::transport::{ring, socket};
use ramet_dataplane::{Ledger, TransportKind};
use ramet_loader::{Bare, LoadOptions, SocketPairs, Sproxy};
use ramet_shm::segment::{create_sealed, duplicate};
use ramet_shm::words::SharedWords;

use crate::options::hop::HopSystem;
use crate::peer::hop::orders::{Patient, Way};
use crate::peer::hop::{CAPACITY, SLOTS, function, instance};

const DOMAIN: DomainId = DomainId(1);

/// What the processes of a chain get, and what must be held while they run.
#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) way: Way,
    /// One set of descriptors for each process, in order.
    pub(super) parts: Vec<Vec<OwnedFd>>,
    pub(super) held: Held,
}

/// What ends when it is dropped.
#[derive(Debug, Default)]
pub(super) struct Held {
    _sproxy: Option<Box<Sproxy>>,
    _bare: Option<Bare>,
    _pairs: Vec<SocketPairs>,
}

impl Fabric {
    /// For so many processes.
    pub(super) fn new(system: HopSystem, processes: u32, name: &str) -> anyhow::Result<Self> {
        let lanes = |transport, patient| lanes(processes, transport, patient);
        let iceoryx = |waiting| Self {
            way: Way::Iceoryx { name: name.to_owned(), waiting },
            parts: (0..processes).map(|_| Vec::new()).collect(),
            held: Held::default(),
        };
        match system {
            HopSystem::RametRing => lanes(TransportKind::Ring, Patient::Looking),
            HopSystem::RametRingSleeping => lanes(TransportKind::Ring, Patient::Sleeping),
            HopSystem::RametSocket => lanes(TransportKind::Socket, Patient::Sleeping),
            HopSystem::RametSkmsg => sproxy(processes),
            HopSystem::BareRing => bare_lanes(processes),
            HopSystem::BareSkmsg => bare_redirect(processes),
            HopSystem::Unix => streams(processes, || {
                let (sender, receiver) = UnixStream::pair()?;
                Ok((sender.into(), receiver.into()))
            }),
            HopSystem::Tcp => streams(processes, tcp_pair),
            HopSystem::CacheLine => words(processes, Way::CacheLine),
            HopSystem::Futex => words(processes, Way::Futex),
            HopSystem::Iceoryx2 => Ok(iceoryx(Patient::Looking)),
            HopSystem::Iceoryx2Event => Ok(iceoryx(Patient::Sleeping)),
        }
    }
}

/// Gives process n the receiving end of hop n and the sending end of hop n + 1.
fn around<T>(hops: Vec<(T, T)>) -> Vec<(T, T)> {
    let (mut senders, receivers): (Vec<T>, Vec<T>) = hops.into_iter().unzip();
    if !senders.is_empty() {
        senders.rotate_left(1);
    }
    receivers.into_iter().zip(senders).collect()
}

fn lanes(processes: u32, transport: TransportKind, patient: Patient) -> anyhow::Result<Fabric> {
    let ledger = create_sealed("ramet-bench-ledger", Ledger::shared_bytes_for(SLOTS))?;
    let link = || if transport == TransportKind::Ring { ring::link() } else { socket::link() };
    let hops = (0..processes).map(|_| link()).collect::<Result<Vec<_>, _>>()?;
    let mut parts = Vec::new();
    for (incoming, outgoing) in around(hops) {
        parts.push([vec![duplicate(&ledger)?], incoming.0, outgoing.0].into_iter().flatten().collect());
    }
    Ok(Fabric { way: Way::Lanes { transport, patient }, parts, held: Held::default() })
}

fn sproxy(processes: u32) -> anyhow::Result<Fabric> {
    let object = ramet_loader::find_object()?;
    let mut sproxy = Sproxy::load(object, LoadOptions { ledger_slots: SLOTS })?;
    sproxy.set_domain(DOMAIN, DomainSlots { base: 0, count: SLOTS })?;
    let (mut parts, mut pairs) = (Vec::new(), Vec::new());
    for number in 0..processes {
        sproxy.allow(Edge { from: function(number), to: function((number + 1) % processes) })?;
        let sockets = ramet_loader::socket_pairs()?;
        let member =
            Member { instance: instance(number), function: function(number), domain: DOMAIN, ..Member::default() };
        sproxy.join(member, CAPACITY, sockets.sender.as_fd(), sockets.receiver.as_fd())?;
        if function(number) != FunctionId::GATEWAY {
            sproxy.set_replicas(function(number), DOMAIN, &[instance(number)])?;
        }
        parts.push(vec![duplicate(&sockets.sender)?, duplicate(&sockets.receiver)?]);
        pairs.push(sockets);
    }
    let held = Held { _sproxy: Some(Box::new(sproxy)), _pairs: pairs, ..Held::default() };
    Ok(Fabric { way: Way::SkMsg, parts, held })
}

fn bare_redirect(processes: u32) -> anyhow::Result<Fabric> {
    let object = ramet_loader::find_object()?.with_file_name(ramet_loader::bare::OBJECT_NAME);
    let mut bare = Bare::load(object)?;
    let (mut parts, mut pairs) = (Vec::new(), Vec::new());
    for number in 0..processes {
        let sockets = ramet_loader::socket_pairs()?;
        bare.join(number, sockets.sender.as_fd(), sockets.receiver.as_fd())?;
        parts.push(vec![duplicate(&sockets.receiver)?, duplicate(&sockets.sender)?]);
        pairs.push(sockets);
    }
    let held = Held { _bare: Some(bare), _pairs: pairs, ..Held::default() };
    Ok(Fabric { way: Way::Stream, parts, held })
}

fn bare_lanes(processes: u32) -> anyhow::Result<Fabric> {
    let hops = (0..processes).map(|_| ring::link()).collect::<Result<Vec<_>, _>>()?;
    let ends = |(incoming, outgoing): (LinkEnd, LinkEnd)| incoming.0.into_iter().chain(outgoing.0).collect();
    let parts = around(hops).into_iter().map(ends);
    Ok(Fabric { way: Way::BareLane, parts: parts.collect(), held: Held::default() })
}

fn streams(processes: u32, pair: impl Fn() -> anyhow::Result<(OwnedFd, OwnedFd)>) -> anyhow::Result<Fabric> {
    let hops = (0..processes).map(|_| pair()).collect::<anyhow::Result<Vec<_>>>()?;
    let parts = around(hops).into_iter().map(|(receiver, sender)| vec![receiver, sender]).collect();
    Ok(Fabric { way: Way::Stream, parts, held: Held::default() })
}

fn words(processes: u32, way: Way) -> anyhow::Result<Fabric> {
    let memory = create_sealed("ramet-bench-words", SharedWords::bytes_for(processes as usize))?;
    let parts = (0..processes).map(|_| Ok(vec![duplicate(&memory)?])).collect::<anyhow::Result<_>>()?;
    Ok(Fabric { way, parts, held: Held::default() })
}

fn tcp_pair() -> anyhow::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let sender = TcpStream::connect(listener.local_addr()?).context("cannot connect over loopback")?;
    let (receiver, _) = listener.accept()?;
    sender.set_nodelay(true)?;
    Ok((sender.into(), receiver.into()))
}
