//! What a supervisor does for a transport, in one process: instances, permissions, a ledger.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;

use ramet_common::map::{DomainSlots, Edge, EdgeCount, FunctionFlow, Identity};
use ramet_common::{DomainId, FunctionId, InstanceId};
use ramet_dataplane::endpoint::{Links, ReceiveError, Receiver, Wait};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::{ring, skmsg, socket};
use ramet_dataplane::{Endpoint, Ledger, Meter, MeterReader, Sender, TransportKind};
use ramet_loader::{LoadOptions, SocketPairs, Sproxy};
use ramet_shm::segment::create_sealed;

/// How many slots the one domain has.
pub(crate) const SLOTS: u32 = 1024;
pub(crate) const DOMAIN: DomainId = DomainId(1);
/// How many messages an instance holds.
pub(crate) const CAPACITY: u32 = 100;

/// One instance as its process would have it.
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) sender: Arc<dyn Sender>,
    pub(crate) receiver: Box<dyn Receiver>,
    links: Option<Arc<dyn Links>>,
}

impl Instance {
    /// Whoever the ledger says when this instance owns a slot.
    pub(crate) fn owner(&self) -> InstanceId {
        if self.function == FunctionId::GATEWAY { InstanceId::NONE } else { self.id }
    }

    /// Everything that is there now.
    pub(crate) fn received(&mut self) -> Vec<ramet_common::PacketDescriptor> {
        let mut all = Vec::new();
        while self.receive(Wait::No, &mut all).expect("open") > 0 {}
        all
    }

    pub(crate) fn receive(
        &mut self,
        wait: Wait,
        into: &mut Vec<ramet_common::PacketDescriptor>,
    ) -> Result<usize, ReceiveError> {
        self.receiver.receive(wait, &mut |descriptor| into.push(descriptor))
    }
}

/// The supervisor's side.
pub(crate) struct Fabric {
    pub(crate) kind: TransportKind,
    pub(crate) ledger: Ledger,
    edges: Vec<Edge>,
    next_index: u16,
    backend: Backend,
}

enum Backend {
    Kernel {
        sproxy: Box<Sproxy>,
        held: HashMap<InstanceId, SocketPairs>,
        replicas: HashMap<FunctionId, Vec<InstanceId>>,
    },
    Lanes {
        joined: HashMap<InstanceId, Joined>,
        /// Of all that have ever joined.
        meters: Vec<(FunctionId, MeterReader)>,
    },
}

struct Joined {
    function: FunctionId,
    capacity: u32,
    links: Arc<dyn Links>,
}

pub(crate) fn ring() -> Option<Fabric> {
    Some(Fabric::of_lanes(TransportKind::Ring))
}

pub(crate) fn socket() -> Option<Fabric> {
    Some(Fabric::of_lanes(TransportKind::Socket))
}

/// S mode, or the reason why not; in CI it has to work.
pub(crate) fn skmsg() -> Option<Fabric> {
    let loaded =
        ramet_loader::find_object().and_then(|object| Sproxy::load(object, LoadOptions { ledger_slots: SLOTS }));
    let mut sproxy = match loaded {
        Ok(sproxy) => sproxy,
        Err(error) if std::env::var_os("CI").is_some() => panic!("CI must run S mode: {error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    sproxy.set_domain(DOMAIN, DomainSlots { base: 0, count: SLOTS }).expect("domain");
    let ledger = Ledger::map(sproxy.ledger_fd(), 0, SLOTS).expect("ledger");
    let backend = Backend::Kernel { sproxy: Box::new(sproxy), held: HashMap::new(), replicas: HashMap::new() };
    Some(Fabric { kind: TransportKind::SkMsg, ledger, edges: Vec::new(), next_index: 1, backend })
}

impl Fabric {
    fn of_lanes(kind: TransportKind) -> Self {
        let fd = create_sealed("ledger", Ledger::shared_bytes_for(SLOTS)).expect("memfd");
        let ledger = Ledger::map_shared(fd.as_fd(), SLOTS).expect("ledger");
        let backend = Backend::Lanes { joined: HashMap::new(), meters: Vec::new() };
        Self { kind, ledger, edges: Vec::new(), next_index: 1, backend }
    }

    /// Permits a hop; to be called before the instances join.
    pub(crate) fn allow(&mut self, from: u32, to: u32) {
        let edge = Edge { from: FunctionId(from), to: FunctionId(to) };
        self.edges.push(edge);
        if let Backend::Kernel { sproxy, .. } = &mut self.backend {
            sproxy.allow(edge).expect("edge");
        }
    }

    /// An instance of `function` (0: a gateway worker) joins.
    pub(crate) fn join(&mut self, function: u32) -> Instance {
        self.join_with(function, CAPACITY)
    }

    /// The same, with another capacity.
    pub(crate) fn join_with(&mut self, function: u32, capacity: u32) -> Instance {
        let function = FunctionId(function);
        let id = InstanceId::new(self.next_index, 1);
        self.next_index += 1;
        let endpoint = match &mut self.backend {
            Backend::Kernel { sproxy, held, replicas } => {
                let sockets = ramet_loader::socket_pairs().expect("sockets");
                let identity = Identity { instance: id, function, domain: DOMAIN, ..Identity::default() };
                sproxy.join(identity, capacity, sockets.sender.as_fd(), sockets.receiver.as_fd()).expect("join");
                let tcp = sockets.sender.try_clone().expect("dup");
                let unix = sockets.receiver.try_clone().expect("dup");
                let reasons = skmsg::Reasons::map(sproxy.instances_fd(), id).expect("reasons");
                held.insert(id, sockets);
                let replicas = replicas.entry(function).or_default();
                replicas.push(id);
                if function != FunctionId::GATEWAY {
                    sproxy.set_replicas(function, DOMAIN, replicas).expect("replicas");
                }
                skmsg::endpoint(tcp, unix, Some(reasons))
            }
            Backend::Lanes { joined, meters } => {
                let owner = if function == FunctionId::GATEWAY { InstanceId::NONE } else { id };
                let me = Member { instance: id, owner };
                let ledger = Arc::new(self.ledger.clone());
                let meter = Meter::create().expect("memfd");
                meters.push((function, MeterReader::map(meter.as_fd()).expect("meter")));
                let meter = Meter::map(meter.as_fd()).expect("meter");
                let endpoint = lanes::endpoint(self.kind, me, ledger, Patience::none(), Some(meter));
                let endpoint = endpoint.expect("endpoint");
                let links = endpoint.links.clone().expect("links");
                joined.insert(id, Joined { function, capacity, links });
                endpoint
            }
        };
        self.link(id);
        let Endpoint { sender, receiver, links } = endpoint;
        Instance { id, function, sender, receiver, links }
    }

    /// Makes the lanes that policy allows between `id` and everybody else.
    fn link(&mut self, id: InstanceId) {
        let Backend::Lanes { joined, .. } = &self.backend else { return };
        let newcomer = &joined[&id];
        for (&peer, known) in joined {
            for (from, sender, to, receiver) in [(id, newcomer, peer, known), (peer, known, id, newcomer)] {
                let edge = Edge { from: sender.function, to: receiver.function };
                if from == to || !self.edges.contains(&edge) {
                    continue;
                }
                let (out, incoming) = match self.kind {
                    TransportKind::Ring => ring::link().expect("lane"),
                    _ => socket::link().expect("lane"),
                };
                receiver.links.add_incoming(from, sender.function, incoming).expect("incoming");
                sender.links.add_outgoing(to, receiver.function, receiver.capacity, out).expect("outgoing");
            }
        }
    }

    /// An instance is to be chosen no more, but finishes what it has.
    pub(crate) fn drain(&mut self, instance: &Instance) {
        match &mut self.backend {
            Backend::Kernel { sproxy, replicas, .. } => {
                let replicas = replicas.entry(instance.function).or_default();
                replicas.retain(|&id| id != instance.id);
                sproxy.set_replicas(instance.function, DOMAIN, replicas).expect("replicas");
            }
            Backend::Lanes { joined, .. } => {
                for Joined { function, links, .. } in joined.values() {
                    let edge = Edge { from: *function, to: instance.function };
                    if self.edges.contains(&edge) {
                        links.retire(instance.id);
                    }
                }
            }
        }
    }

    /// An instance leaves, as after its death.
    pub(crate) fn leave(&mut self, instance: Instance) {
        match &mut self.backend {
            Backend::Kernel { sproxy, held, replicas } => {
                let replicas = replicas.entry(instance.function).or_default();
                replicas.retain(|&id| id != instance.id);
                sproxy.set_replicas(instance.function, DOMAIN, replicas).expect("replicas");
                sproxy.leave(instance.id).expect("leave");
                held.remove(&instance.id);
            }
            Backend::Lanes { joined, .. } => {
                joined.remove(&instance.id);
                for known in joined.values() {
                    known.links.remove(instance.id);
                }
            }
        }
        drop(instance.links);
    }

    /// What came to a function and what it has done with.
    pub(crate) fn flow(&self, function: u32) -> FunctionFlow {
        match &self.backend {
            Backend::Kernel { sproxy, .. } => sproxy.flow(FunctionId(function)).expect("a flow"),
            Backend::Lanes { meters, .. } => {
                let of_it = meters.iter().filter(|(of, _)| of.0 == function);
                of_it.fold(FunctionFlow::default(), |sum, (_, meter)| sum.plus(meter.flow()))
            }
        }
    }

    /// What went over an edge.
    pub(crate) fn edge(&self, from: u32, to: u32) -> EdgeCount {
        let edge = Edge { from: FunctionId(from), to: FunctionId(to) };
        match &self.backend {
            Backend::Kernel { sproxy, .. } => {
                let counts = sproxy.edge_counts().expect("counts");
                counts.into_iter().find(|(counted, _)| *counted == edge).expect("a permitted edge").1
            }
            Backend::Lanes { meters, .. } => {
                let mut sum = EdgeCount::default();
                for (_, meter) in meters.iter().filter(|(of, _)| *of == edge.from) {
                    let sent = meter.sent(edge.to);
                    sum.descriptors += sent.descriptors;
                    sum.batches += sent.batches;
                }
                sum
            }
        }
    }
}
