//! The gateway process: its conversation with the supervisor, and what all its workers share.

use std::collections::HashMap;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ramet_common::{ABI, DomainId, InstanceId};
use ramet_control::gateway::{FromGateway, Settings, ToGateway};
use ramet_control::instance::{Direction, Link};
use ramet_control::socket::{ControlError, ControlSocket};
use ramet_control::{Numbered, gateway};
use ramet_dataplane::endpoint::LinkEnd;
use ramet_dataplane::transport::lanes::{self, Ledgers, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg::{self, Reasons};
use ramet_dataplane::{Endpoint, Ledger, Meter, TransportKind};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::chains::{Chain, ChainTable, OnIdle};
use crate::crew::Crew;
use crate::domain::Domain;
use crate::metrics::Metrics;
use crate::room::{Itinerary, Load, Rooms, gates_of};
use crate::servers::Servers;
use crate::tls;
use crate::worker::{self, Update, Worker, WorkerHandle};

/// Why the gateway ends.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The supervisor cannot be understood, or is gone.
    #[error("the conversation with the supervisor failed: {0}")]
    Control(#[from] ControlError),
    /// A message cannot be carried out.
    #[error("the supervisor's {what} message cannot be carried out: {why}")]
    Message {
        /// Which message.
        what: &'static str,
        /// Why not.
        why: String,
    },
}

fn cannot(what: &'static str) -> impl Fn(String) -> GatewayError {
    move |why| GatewayError::Message { what, why }
}

/// Runs the gateway until the supervisor closes the control socket.
///
/// # Errors
/// [`GatewayError`]; the supervisor starts a new gateway then.
pub fn run(control: ControlSocket) -> Result<(), GatewayError> {
    let control = Arc::new(control);
    control.send(&FromGateway::Hello { abi: ABI }, &[])?;
    let (mut first, _) = control.receive::<Numbered<ToGateway>>()?;
    let mut waiting_for = Vec::new();
    // Readiness may change at any moment, also before the gateway has been told anything else.
    while let ToGateway::Readiness { waiting_for: missing } = first.message {
        waiting_for = missing;
        control.send(&FromGateway::Applied { sequence: first.sequence }, &[])?;
        (first, _) = control.receive::<Numbered<ToGateway>>()?;
    }
    let ToGateway::Settings(settings) = first.message else {
        return Err(cannot("first")("it has to be the settings".to_owned()));
    };
    let shared = Arc::new(Shared::new(*settings, waiting_for, Arc::clone(&control))?);
    control.send(&FromGateway::Applied { sequence: first.sequence }, &[])?;
    let mut gateway = Gateway { shared, workers: Vec::new(), chains: HashMap::new() };
    loop {
        match control.receive::<Numbered<ToGateway>>() {
            Ok((numbered, fds)) => {
                gateway.carry_out(numbered.message, fds)?;
                control.send(&FromGateway::Applied { sequence: numbered.sequence }, &[])?;
            }
            Err(ControlError::Closed) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What all workers use.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) metrics: Metrics,
    pub(crate) on_idle: OnIdle,
    /// Functions that serve HTTP by themselves.
    pub(crate) servers: Servers,
    /// For connections.
    pub(crate) room: Arc<Semaphore>,
    rooms: Rooms,
    control: Arc<ControlSocket>,
    peers: Arc<PeerLedgers>,
    domains: RwLock<HashMap<DomainId, Arc<Domain>>>,
    waiting_for: RwLock<Vec<String>>,
    supervisor_metrics: watch::Sender<(u64, String)>,
    undrained: AtomicUsize,
    pub(crate) crew: Crew,
    one_at_a_time: Arc<Mutex<()>>,
}

impl Shared {
    fn new(settings: Settings, waiting_for: Vec<String>, control: Arc<ControlSocket>) -> Result<Self, GatewayError> {
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose();
        let tls = tls.map_err(|error| cannot("settings")(error.to_string()))?;
        let to_supervisor = Arc::clone(&control);
        let on_idle: OnIdle = Arc::new(move |route| {
            if let Err(error) = to_supervisor.send(&FromGateway::RouteIdle { route }, &[]) {
                tracing::warn!(%error, "the supervisor does not hear that a route is idle");
            }
        });
        let one_at_a_time = Arc::new(Mutex::new(()));
        let (to_supervisor, in_turn) = (Arc::clone(&control), Arc::clone(&one_at_a_time));
        let servers = Servers::new(Arc::new(move |message| say(&to_supervisor, &in_turn, &message)));
        let connections_max = settings.connections_max.min(Semaphore::MAX_PERMITS);
        Ok(Self {
            settings,
            room: Arc::new(Semaphore::new(connections_max)),
            servers,
            rooms: Rooms::default(),
            tls,
            metrics: Metrics::new(),
            on_idle,
            control,
            peers: Arc::default(),
            domains: RwLock::default(),
            waiting_for: RwLock::new(waiting_for),
            supervisor_metrics: watch::channel((0, String::new())).0,
            undrained: AtomicUsize::new(0),
            crew: Crew::default(),
            one_at_a_time,
        })
    }

    /// Says something to the supervisor that needs no answer.
    pub(crate) fn say(&self, message: &FromGateway) {
        say(&self.control, &self.one_at_a_time, message);
    }

    /// What `/readyz` waits for.
    pub(crate) fn waiting_for(&self) -> Vec<String> {
        self.waiting_for.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One worker more has drained. True for the last.
    pub(crate) fn worker_drained(&self) -> bool {
        self.undrained.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// The gateway's own metrics and the supervisor's.
    pub(crate) async fn all_metrics(&self, worker: &Worker) -> String {
        let mut answers = self.supervisor_metrics.subscribe();
        answers.mark_unchanged();
        self.say(&FromGateway::WantMetrics { servers: self.servers.figures() });
        let answered = tokio::time::timeout(Duration::from_secs(1), answers.changed()).await;
        let supervisors = match answered {
            Ok(Ok(())) => answers.borrow().1.clone(),
            Ok(Err(_)) | Err(_) => String::new(),
        };
        let own = {
            let domains = self.domains.read().unwrap_or_else(PoisonError::into_inner);
            let domains: Vec<&Domain> = domains.values().map(Arc::as_ref).collect();
            self.metrics.text(&worker.chains(), &domains)
        };
        supervisors + &own
    }
}

fn say(control: &ControlSocket, one_at_a_time: &Mutex<()>, message: &FromGateway) {
    let _in_turn = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = control.send(message, &[]) {
        tracing::warn!(%error, ?message, "the supervisor does not hear the gateway");
    }
}

/// Where the slots of each instance are accounted for; the lane transports ask.
#[derive(Debug, Default)]
struct PeerLedgers {
    ledgers: RwLock<HashMap<DomainId, Ledger>>,
    domain_of: RwLock<HashMap<InstanceId, DomainId>>,
}

impl Ledgers for PeerLedgers {
    fn shared_with(&self, peer: InstanceId) -> Option<Ledger> {
        let domain = *self.domain_of.read().unwrap_or_else(PoisonError::into_inner).get(&peer)?;
        self.ledgers.read().unwrap_or_else(PoisonError::into_inner).get(&domain).cloned()
    }
}

struct Gateway {
    shared: Arc<Shared>,
    workers: Vec<WorkerHandle>,
    chains: HashMap<ramet_common::RouteId, Arc<Chain>>,
}

impl Gateway {
    fn carry_out(&mut self, message: ToGateway, fds: Vec<OwnedFd>) -> Result<(), GatewayError> {
        match message {
            ToGateway::Settings(_) => return Err(cannot("settings")("they were given already".to_owned())),
            ToGateway::Worker { index, instance } => self.start_worker(index, instance, fds)?,
            ToGateway::Listener { worker, protocol } => {
                let [fd] = one_fd(fds).map_err(cannot("listener"))?;
                let handle = self.worker(worker).map_err(cannot("listener"))?;
                Self::update_one(handle, Update::Listener(TcpListener::from(fd), protocol));
            }
            ToGateway::Domain(info) => self.add_domain(info, fds).map_err(cannot("domain"))?,
            ToGateway::DomainGone { domain } => {
                self.shared.domains.write().unwrap_or_else(PoisonError::into_inner).remove(&domain);
                self.shared.peers.ledgers.write().unwrap_or_else(PoisonError::into_inner).remove(&domain);
                self.update_all(|| Update::DomainGone(domain));
            }
            ToGateway::Instance(info) if info.http.is_some() => self.add_server(info).map_err(cannot("instance"))?,
            ToGateway::Sockets { instance } => {
                self.shared.servers.equip(instance, fds).map_err(cannot("sockets"))?;
            }
            ToGateway::Relieve { instance } => self.shared.servers.relieve(instance),
            ToGateway::Instance(info) => {
                let mut peers = self.shared.peers.domain_of.write().unwrap_or_else(PoisonError::into_inner);
                peers.insert(info.instance, info.domain);
                drop(peers);
                if let Some(load) = self.load_of(info.domain) {
                    self.shared.rooms.add(info.function, info.instance, info.capacity, load);
                }
                self.update_all(|| Update::Instance(Box::new(info.clone())));
            }
            ToGateway::InstanceGone { instance } => {
                self.shared.servers.remove(instance);
                self.shared.rooms.remove(instance);
                self.update_all(|| Update::InstanceGone(instance));
                self.shared.peers.domain_of.write().unwrap_or_else(PoisonError::into_inner).remove(&instance);
            }
            ToGateway::Link { worker, link } => self.link(worker, &link, fds).map_err(cannot("link"))?,
            ToGateway::Unlink { peer } => {
                self.workers.iter().filter_map(|worker| worker.links.as_ref()).for_each(|links| links.remove(peer));
            }
            ToGateway::Chains(chains) => self.set_chains(chains),
            ToGateway::Readiness { waiting_for } => {
                *self.shared.waiting_for.write().unwrap_or_else(PoisonError::into_inner) = waiting_for;
            }
            ToGateway::Metrics { text } => {
                self.shared.supervisor_metrics.send_modify(|metrics| *metrics = (metrics.0 + 1, text));
            }
            ToGateway::Serve => {
                self.update_all(|| Update::Serve);
                self.shared.say(&FromGateway::Ready);
            }
            ToGateway::Drain { timeout } => {
                self.shared.undrained.store(self.workers.len(), Ordering::Release);
                self.update_all(|| Update::Drain(timeout));
            }
        }
        Ok(())
    }

    /// An instance that serves HTTP by itself. The first worker watches it; all ask it.
    fn add_server(&self, info: gateway::Instance) -> Result<(), String> {
        let http = info.http.clone().ok_or("it does not serve HTTP")?;
        let (function, instance, capacity) = (info.function, info.instance, info.capacity);
        let server = self.shared.servers.add(info, http);
        self.shared.rooms.add(function, instance, capacity, Load::Server(Arc::clone(&server)));
        Self::update_one(self.worker(0)?, Update::Watch(server));
        Ok(())
    }

    /// Where the loads of a domain's instances are counted.
    fn load_of(&self, domain: DomainId) -> Option<Load> {
        let kernel = self.shared.rooms.kernel.get().cloned().map(Load::Kernel);
        let ledgers = || self.shared.peers.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        kernel.or_else(|| ledgers().get(&domain).cloned().map(Load::Ledger))
    }

    fn worker(&self, index: u32) -> Result<&WorkerHandle, String> {
        self.workers.get(index as usize).ok_or_else(|| format!("there is no worker {index}"))
    }

    /// Passes an update to every worker and waits until it is in force everywhere.
    fn update_all(&self, update: impl Fn() -> Update) {
        let (done, all_done) = std::sync::mpsc::channel();
        for worker in &self.workers {
            worker.update(update(), done.clone());
        }
        drop(done);
        while all_done.recv().is_ok() {}
    }

    fn update_one(worker: &WorkerHandle, update: Update) {
        let (done, is_done) = std::sync::mpsc::channel();
        worker.update(update, done);
        let _ = is_done.recv();
    }

    fn start_worker(&mut self, index: u32, instance: InstanceId, fds: Vec<OwnedFd>) -> Result<(), GatewayError> {
        if index as usize != self.workers.len() {
            return Err(cannot("worker")(format!("worker {index} is not the next")));
        }
        let endpoint = self.endpoint(instance, fds).map_err(cannot("worker"))?;
        let shared = Arc::clone(&self.shared);
        let handle = worker::start(index, instance, endpoint, shared).map_err(|e| cannot("worker")(e.to_string()))?;
        self.workers.push(handle);
        Ok(())
    }

    fn endpoint(&self, instance: InstanceId, fds: Vec<OwnedFd>) -> Result<Endpoint, String> {
        match self.shared.settings.transport {
            TransportKind::SkMsg => {
                let [tcp, unix, instances] = <[OwnedFd; 3]>::try_from(fds)
                    .map_err(|fds| format!("an S-mode worker comes with 3 descriptors, not {}", fds.len()))?;
                let reasons = Reasons::map(instances.as_fd(), instance).map_err(|error| error.to_string())?;
                // Any worker's will do.
                let _ = self.shared.rooms.kernel.set(reasons.clone());
                Ok(skmsg::endpoint(tcp, unix, Some(reasons)))
            }
            kind @ (TransportKind::Ring | TransportKind::Socket) => {
                let [meter] = one_fd(fds)?;
                let meter = Meter::map(meter.as_fd()).map_err(|error| error.to_string())?;
                let me = Member { instance, owner: InstanceId::NONE };
                // The event loop has its own patience: it must look at its connections too.
                lanes::endpoint(kind, me, self.shared.peers.clone(), Patience::none(), Some(meter))
                    .map_err(|error| error.to_string())
            }
        }
    }

    fn add_domain(&self, info: gateway::Domain, fds: Vec<OwnedFd>) -> Result<(), String> {
        let domain = Arc::new(Domain::attach(info, fds, self.shared.settings.transport)?);
        let ledger = domain.slots.ledger().clone();
        self.shared.peers.ledgers.write().unwrap_or_else(PoisonError::into_inner).insert(domain.id, ledger);
        let mut domains = self.shared.domains.write().unwrap_or_else(PoisonError::into_inner);
        domains.insert(domain.id, Arc::clone(&domain));
        drop(domains);
        self.update_all(|| Update::Domain(Arc::clone(&domain)));
        Ok(())
    }

    fn link(&self, worker: u32, link: &Link, fds: Vec<OwnedFd>) -> Result<(), String> {
        let handle = self.worker(worker)?;
        let links = handle.links.as_ref().ok_or("this transport has no lanes")?;
        let end = LinkEnd(fds);
        match link.direction {
            Direction::Outgoing { capacity } => {
                links.add_outgoing(link.peer, link.function, capacity, end).map_err(|error| error.to_string())?;
                Self::update_one(handle, Update::Linked);
                Ok(())
            }
            Direction::Incoming => links.add_incoming(link.peer, link.function, end).map_err(|error| error.to_string()),
            Direction::Retiring => {
                links.retire(link.peer);
                Ok(())
            }
            Direction::Closed => {
                links.close(link.peer);
                Ok(())
            }
        }
    }

    /// Puts a new table in force everywhere, then retires the versions that are not in it.
    fn set_chains(&mut self, chains: Vec<gateway::Chain>) {
        let mut now = HashMap::with_capacity(chains.len());
        for settings in chains {
            let chain = self.chains.remove(&settings.route.id).unwrap_or_else(|| {
                let counters = self.shared.metrics.of_chain(&settings.route.chain);
                Arc::new(Chain::new(settings.clone(), counters))
            });
            now.insert(settings.route.id, chain);
        }
        let retired = std::mem::replace(&mut self.chains, now);
        self.set_gates();
        let table = Arc::new(ChainTable::new(self.chains.values().cloned().collect()));
        self.update_all(|| Update::Chains(Arc::clone(&table)));
        for (route, chain) in retired {
            if chain.retire() {
                (self.shared.on_idle)(route);
            }
        }
    }
}

impl Gateway {
    /// Tells each chain what its requests have to pass.
    fn set_gates(&self) {
        let domains = self.shared.domains.read().unwrap_or_else(PoisonError::into_inner);
        let slots = |domain| domains.get(&domain).map_or(u32::MAX, |domain| domain.pool.layout().slots());
        let chains: Vec<_> = self.chains.values().collect();
        let itineraries: Vec<_> = chains
            .iter()
            .map(|chain| {
                let route = &chain.settings.route;
                Itinerary { route, traffic: &chain.traffic, slots: slots(route.domain) }
            })
            .collect();
        for (chain, gates) in chains.iter().zip(gates_of(&self.shared.rooms, &itineraries)) {
            chain.set_gates(gates);
        }
    }
}

fn one_fd(fds: Vec<OwnedFd>) -> Result<[OwnedFd; 1], String> {
    <[OwnedFd; 1]>::try_from(fds).map_err(|fds| format!("it comes with 1 descriptor, not {}", fds.len()))
}
