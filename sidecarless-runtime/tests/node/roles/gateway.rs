//! A gateway without HTTP: on its listener it takes one line per connection and answers with one.
//!
//! - `send CHAIN`: a message to the chain's first function; answers with the instance that replied, or with an error.
//! - `log`: everything that the supervisor has said so far, one word and its subject each.
//! - `hung INSTANCE`: complains about an instance.
//! - `metrics`: the supervisor's metrics.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ramet_common::{ABI, DomainId, FunctionId, InstanceId, Kind, PacketDescriptor, RequestId};
use ramet_control::Numbered;
use ramet_control::gateway::{Chain, Domain, FromGateway, Protocol, Settings, ToGateway};
use ramet_control::socket::ControlSocket;
use ramet_dataplane::route::Work;
use ramet_dataplane::transport::lanes::{self, Ledgers, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg;
use ramet_dataplane::{Endpoint, Ledger, Pool, SlotAllocator, TransportKind, Wait};

use super::function::link;

#[derive(Debug, Default)]
struct State {
    settings: Option<Box<Settings>>,
    workers: Vec<Worker>,
    listeners: Vec<TcpListener>,
    domains: HashMap<DomainId, (Pool, SlotAllocator)>,
    chains: Vec<Chain>,
    log: Vec<String>,
    metrics: Option<Sender<String>>,
}

#[derive(Debug)]
struct Worker {
    endpoint: Option<Endpoint>,
    links: Option<Arc<dyn ramet_dataplane::endpoint::Links>>,
}

#[derive(Debug, Default)]
struct Peers(Mutex<(HashMap<InstanceId, DomainId>, HashMap<DomainId, Ledger>)>);

impl Ledgers for Peers {
    fn shared_with(&self, peer: InstanceId) -> Option<Ledger> {
        let maps = self.0.lock().unwrap();
        maps.1.get(maps.0.get(&peer)?).cloned()
    }
}

#[derive(Clone)]
struct Gateway {
    control: Arc<ControlSocket>,
    state: Arc<Mutex<State>>,
    peers: Arc<Peers>,
}

pub(crate) fn run() -> ExitCode {
    let control = Arc::new(ControlSocket::from_stdin().expect("started by a supervisor"));
    if std::env::var_os("PATH").is_some() {
        eprintln!("the gateway's environment is not clean");
    }
    control.send(&FromGateway::Hello { abi: ABI }, &[]).expect("sent");
    let gateway = Gateway { control, state: Arc::default(), peers: Arc::default() };
    while let Ok((Numbered { sequence, message }, fds)) = gateway.control.receive::<Numbered<ToGateway>>() {
        gateway.hear(message, fds);
        gateway.say(&FromGateway::Applied { sequence });
    }
    ExitCode::SUCCESS
}

impl Gateway {
    fn say(&self, message: &FromGateway) {
        self.control.send(message, &[]).expect("the supervisor listens");
    }

    fn hear(&self, message: ToGateway, fds: Vec<OwnedFd>) {
        let mut state = self.state.lock().unwrap();
        state.log.push(headline(&message));
        match message {
            ToGateway::Settings(settings) => state.settings = Some(settings),
            ToGateway::Worker { index, instance } => {
                assert_eq!(index as usize, state.workers.len());
                let kind = state.settings.as_ref().expect("settings come first").transport;
                state.workers.push(self.worker(kind, instance, fds));
            }
            ToGateway::Listener { protocol, .. } => {
                let listener = TcpListener::from(fds.into_iter().next().expect("a socket"));
                if protocol != Protocol::Admin {
                    state.listeners.push(listener);
                }
            }
            ToGateway::Domain(domain) => self.add_domain(&mut state, &domain, fds),
            ToGateway::DomainGone { domain } => drop(state.domains.remove(&domain).expect("a known domain")),
            ToGateway::Instance(instance) => {
                self.peers.0.lock().unwrap().0.insert(instance.instance, instance.domain);
            }
            ToGateway::InstanceGone { instance } => {
                self.peers.0.lock().unwrap().0.remove(&instance).expect("a known instance");
            }
            ToGateway::Link { worker, link: lane } => {
                let links = state.workers[worker as usize].links.clone().expect("lanes");
                link(&*links, lane.peer, lane.function, lane.direction, fds);
            }
            ToGateway::Unlink { peer } => {
                state.workers.iter().filter_map(|worker| worker.links.as_ref()).for_each(|links| links.remove(peer));
            }
            ToGateway::Chains(chains) => {
                let old = std::mem::replace(&mut state.chains, chains);
                let kept = |chain: &Chain| state.chains.iter().any(|now| now.route.id == chain.route.id);
                for chain in old.iter().filter(|chain| !kept(chain)) {
                    self.say(&FromGateway::RouteIdle { route: chain.route.id });
                }
            }
            ToGateway::Serve => {
                for listener in std::mem::take(&mut state.listeners) {
                    listener.set_nonblocking(false).expect("blocking");
                    let gateway = self.clone();
                    std::thread::spawn(move || gateway.accept(&listener));
                }
                self.say(&FromGateway::Ready);
            }
            ToGateway::Drain { .. } => self.say(&FromGateway::Drained),
            ToGateway::Metrics { text } => {
                if let Some(waiting) = state.metrics.take() {
                    let _ = waiting.send(text);
                }
            }
            ToGateway::Readiness { .. } | ToGateway::Sockets { .. } => {}
            ToGateway::Relieve { instance } => self.say(&FromGateway::Relieved { instance }),
        }
    }

    fn worker(&self, kind: TransportKind, instance: InstanceId, fds: Vec<OwnedFd>) -> Worker {
        let endpoint = match kind {
            TransportKind::SkMsg => {
                let [tcp, unix, instances] = <[OwnedFd; 3]>::try_from(fds).expect("three descriptors");
                let reasons = skmsg::Reasons::map(instances.as_fd(), instance).expect("a map");
                skmsg::endpoint(tcp, unix, Some(reasons))
            }
            kind => {
                let me = Member { instance, owner: InstanceId::NONE };
                lanes::endpoint(kind, me, self.peers.clone(), Patience::none(), None).expect("an endpoint")
            }
        };
        Worker { links: endpoint.links.clone(), endpoint: Some(endpoint) }
    }

    fn add_domain(&self, state: &mut State, domain: &Domain, fds: Vec<OwnedFd>) {
        let [pool, ledger] = <[OwnedFd; 2]>::try_from(fds).expect("two descriptors");
        let pool = Pool::attach(pool.as_fd(), domain.layout).expect("a pool");
        let (fd, slots) = (ledger.as_fd(), domain.layout.slots());
        let ledger = match state.settings.as_ref().map(|settings| settings.transport) {
            Some(TransportKind::Ring | TransportKind::Socket) => Ledger::map_shared(fd, slots),
            _ => Ledger::map(fd, domain.ledger_base, slots),
        };
        let ledger = ledger.expect("a ledger");
        self.peers.0.lock().unwrap().1.insert(domain.domain, ledger.clone());
        state.domains.insert(domain.domain, (pool, SlotAllocator::new(domain.layout, ledger)));
    }

    fn accept(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            let gateway = self.clone();
            std::thread::spawn(move || gateway.answer(stream));
        }
    }

    fn answer(&self, stream: TcpStream) {
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        let _ = reader.read_line(&mut line);
        let answer = match line.trim().split_once(' ') {
            Some(("send", chain)) => self.send(chain),
            Some(("hung", instance)) => {
                let instance = InstanceId(instance.parse().expect("an instance"));
                self.say(&FromGateway::Hung { instance });
                String::new()
            }
            _ if line.trim() == "log" => self.state.lock().unwrap().log.join("\n"),
            _ if line.trim() == "metrics" => self.metrics().recv_timeout(Duration::from_secs(10)).unwrap_or_default(),
            _ => format!("what is {line}?"),
        };
        let _ = reader.into_inner().write_all(answer.as_bytes());
    }

    fn metrics(&self) -> Receiver<String> {
        let (sender, receiver) = channel();
        self.state.lock().unwrap().metrics = Some(sender);
        self.say(&FromGateway::WantMetrics { servers: Vec::new() });
        receiver
    }

    /// One message at a time, on worker 0.
    fn send(&self, chain: &str) -> String {
        let mut endpoint = loop {
            match self.state.lock().unwrap().workers[0].endpoint.take() {
                Some(endpoint) => break endpoint,
                None => std::thread::yield_now(),
            }
        };
        let answer = self.exchange(&mut endpoint, chain).unwrap_or_else(|error| format!("error: {error}"));
        self.state.lock().unwrap().workers[0].endpoint = Some(endpoint);
        answer
    }

    fn exchange(&self, endpoint: &mut Endpoint, chain: &str) -> Result<String, String> {
        let request = RequestId(7);
        let (descriptor, domain) = {
            let state = self.state.lock().unwrap();
            let chain = state.chains.iter().find(|known| known.route.chain == chain).ok_or("no such chain")?;
            let Work::Function(function) = &chain.route.steps[0].work else { return Err("a parallel step".into()) };
            let slot = state.domains[&chain.route.domain].1.allocate(0).ok_or("no slot")?;
            let descriptor = PacketDescriptor::new(Kind::Request, *function, slot.slot, slot.generation, request);
            (descriptor, chain.route.domain)
        };
        let outcome = exchange(endpoint, descriptor);
        self.state.lock().unwrap().domains[&domain].1.release(descriptor.slot);
        outcome.map(|peer| peer.to_string())
    }
}

fn exchange(endpoint: &mut Endpoint, descriptor: PacketDescriptor) -> Result<InstanceId, String> {
    endpoint.sender.send(&[descriptor]).map_err(|error| error.to_string())?;
    let mut replied = None;
    let timeout = Wait::For(Duration::from_secs(10));
    while replied.is_none() {
        let take = &mut |reply: PacketDescriptor| {
            if reply.kind() == Some(Kind::Reply) && reply.slot == descriptor.slot {
                replied = Some(reply.peer);
            }
        };
        match endpoint.receiver.receive(timeout, take) {
            Ok(0) => return Err("no answer".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    replied.ok_or_else(|| "no answer".to_owned())
}

/// What a message is and what it is about.
fn headline(message: &ToGateway) -> String {
    match message {
        ToGateway::Settings(_) => "settings".to_owned(),
        ToGateway::Worker { index, .. } => format!("worker {index}"),
        ToGateway::Listener { worker, protocol } => format!("listener {worker} {protocol:?}"),
        ToGateway::Domain(domain) => format!("domain {}", domain.name),
        ToGateway::DomainGone { domain } => format!("domain-gone {domain}"),
        ToGateway::Instance(instance) => format!("instance {} {}", instance.instance, instance.name),
        ToGateway::InstanceGone { instance } => format!("instance-gone {instance}"),
        ToGateway::Sockets { instance } => format!("sockets {instance}"),
        ToGateway::Relieve { instance } => format!("relieve {instance}"),
        ToGateway::Link { worker, link } => {
            let direction = if link.function == FunctionId::GATEWAY { "itself" } else { "function" };
            format!("link {worker} {direction} {} {:?}", link.peer, link.direction)
        }
        ToGateway::Unlink { peer } => format!("unlink {peer}"),
        ToGateway::Chains(chains) => {
            let chains: Vec<_> =
                chains.iter().map(|chain| format!("{}@{}", chain.route.chain, chain.route.id)).collect();
            format!("chains {}", chains.join(" "))
        }
        ToGateway::Readiness { waiting_for } => format!("readiness {}", waiting_for.len()),
        ToGateway::Metrics { .. } => "metrics".to_owned(),
        ToGateway::Serve => "serve".to_owned(),
        ToGateway::Drain { .. } => "drain".to_owned(),
    }
}
