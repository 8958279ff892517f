//! One core's share of the gateway: a current-thread runtime that serves connections and owns one data-plane endpoint.

mod balance;
mod inbox;
mod outbox;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ramet_common::{DomainId, FunctionId, InstanceId, Kind, PacketDescriptor, RequestId};
use ramet_control::gateway::{self, FromGateway, Protocol};
use ramet_dataplane::endpoint::Links;
use ramet_dataplane::{Endpoint, SlotRef};
use tokio::sync::{Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::chains::ChainTable;
use crate::crew::Word;
use crate::domain::Domain;
use crate::exchange::Holdings;
use crate::flight::{Flight, Flights, Outcome, Piece, Ticket};
use crate::incoming::Interest;
use crate::ingress::{self, Connections, Listening};
use crate::lending::Loans;
use crate::process::Shared;
use crate::room::Unsent;
use crate::servers::{self, Server};

pub(crate) use inbox::slot_ref;

/// What the conversation with the supervisor changes in a worker. Each is acknowledged when it has taken effect.
#[derive(Debug)]
pub(crate) enum Update {
    Domain(Arc<Domain>),
    DomainGone(DomainId),
    Instance(Box<gateway::Instance>),
    InstanceGone(InstanceId),
    /// An instance that serves HTTP by itself is to be probed.
    Watch(Arc<Server>),
    /// A lane has come; parked requests may go on.
    Linked,
    Chains(Arc<ChainTable>),
    Listener(std::net::TcpListener, Protocol),
    Serve,
    Drain(Duration),
}

/// The way to a worker.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    updates: mpsc::UnboundedSender<(Update, std::sync::mpsc::Sender<()>)>,
    pub(crate) links: Option<Arc<dyn Links>>,
}

impl WorkerHandle {
    /// Passes an update on; `done` hears when it has taken effect. The queue is as long as the supervisor's unanswered
    /// messages, which is one.
    pub(crate) fn update(&self, update: Update, done: std::sync::mpsc::Sender<()>) {
        // A worker that is gone has ended the process or is about to.
        let _ = self.updates.send((update, done));
    }
}

/// Starts a worker on a thread of its own.
pub(crate) fn start(
    index: u32,
    instance: InstanceId,
    endpoint: Endpoint,
    shared: Arc<Shared>,
) -> std::io::Result<WorkerHandle> {
    let (updates, inbox) = mpsc::unbounded_channel();
    let (words, heard) = mpsc::unbounded_channel();
    let place = shared.crew.introduce(words);
    let links = endpoint.links.clone();
    std::thread::Builder::new().name(format!("gateway-{index}")).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let result = runtime.and_then(|runtime| {
            LocalSet::new().block_on(&runtime, run(instance, place, endpoint, shared, inbox, heard))
        });
        // Without this worker the node would answer half of its connections: better none, and a fresh start.
        if let Err(error) = result {
            tracing::error!(%error, worker = index, "a gateway worker failed; the gateway ends");
            std::process::exit(1);
        }
    })?;
    Ok(WorkerHandle { updates, links })
}

async fn run(
    instance: InstanceId,
    place: usize,
    endpoint: Endpoint,
    shared: Arc<Shared>,
    mut updates: mpsc::UnboundedReceiver<(Update, std::sync::mpsc::Sender<()>)>,
    mut words: mpsc::UnboundedReceiver<Word>,
) -> std::io::Result<()> {
    let connections = Connections::new(Arc::clone(&shared.room));
    let worker = Rc::new(Worker {
        instance,
        place,
        shared,
        connections,
        balance: balance::Balance::default(),
        outbox: outbox::Outbox::new(endpoint.sender),
        flights: RefCell::default(),
        loans: RefCell::default(),
        domains: RefCell::default(),
        instances: RefCell::default(),
        departed: RefCell::default(),
        chains: RefCell::default(),
        express: ingress::Shared::default(),
        joined: Notify::new(),
        earlier: Notify::new(),
    });
    tokio::task::spawn_local(outbox::flush_always(Rc::clone(&worker)));
    tokio::task::spawn_local(expire_always(Rc::clone(&worker)));
    tokio::task::spawn_local(balance::balance_always(Rc::clone(&worker)));
    let watching = Rc::clone(&worker);
    tokio::task::spawn_local(async move { watching.express.watch_always().await });
    if place == 0 {
        let worker = Rc::clone(&worker);
        tokio::task::spawn_local(async move { worker.shared.servers.report_loads().await });
    }
    let inbox = tokio::task::spawn_local(inbox::receive_always(Rc::clone(&worker), endpoint.receiver));
    let mut listening = Listening::default();
    tokio::pin!(inbox);
    loop {
        tokio::select! {
            update = updates.recv() => {
                let Some((update, done)) = update else { return Ok(()) };
                worker.apply(update, &mut listening).await?;
                let _ = done.send(());
            }
            Some(word) = words.recv() => match word {
                Word::Stray(stray) => worker.end_stray(stray),
                Word::Connection(moved) => ingress::take_over(&worker, moved),
            },
            ended = &mut inbox => return ended.map_err(std::io::Error::other)?.map_err(std::io::Error::other),
        }
    }
}

/// Tells flights that they are late. One timer for all: most requests end long before their deadline, so one of their
/// own would be set and thrown away for nothing.
async fn expire_always(worker: Rc<Worker>) {
    loop {
        let earliest = worker.flights.borrow().earliest_deadline();
        let Some(earliest) = earliest else {
            worker.earlier.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep_until(earliest) => worker.flights.borrow_mut().expire(Instant::now()),
            () = worker.earlier.notified() => {}
        }
    }
}

/// For a message that was still in the outbox when its waiter gave up, so that its holder is not yet known.
const HANG_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Which instance has a head now, if it is one.
fn holder_of(domain: &Domain, head: SlotRef) -> Option<InstanceId> {
    let word = domain.slots.ledger().read(head.slot)?;
    (word.generation == head.generation && word.owner != InstanceId::NONE).then_some(word.owner)
}

/// A worker's state. Single-threaded: borrows never cross an await.
pub(crate) struct Worker {
    pub(crate) instance: InstanceId,
    /// Its place among the workers.
    pub(crate) place: usize,
    pub(crate) shared: Arc<Shared>,
    /// The clients' connections.
    pub(crate) connections: Rc<Connections>,
    balance: balance::Balance,
    outbox: outbox::Outbox,
    flights: RefCell<Flights>,
    pub(crate) loans: RefCell<Loans>,
    domains: RefCell<HashMap<DomainId, Arc<Domain>>>,
    instances: RefCell<HashMap<InstanceId, gateway::Instance>>,
    /// Instances that left a moment ago: what they said before may still be on its way, and counts.
    departed: RefCell<HashMap<InstanceId, DomainId>>,
    chains: RefCell<Arc<ChainTable>>,
    pub(crate) express: ingress::Shared,
    joined: Notify,
    /// The earliest deadline has become earlier.
    earlier: Notify,
}

impl Worker {
    async fn apply(self: &Rc<Self>, update: Update, listening: &mut Listening) -> std::io::Result<()> {
        match update {
            Update::Domain(domain) => {
                self.domains.borrow_mut().insert(domain.id, domain);
            }
            Update::DomainGone(domain) => {
                self.domains.borrow_mut().remove(&domain);
            }
            Update::Instance(instance) => {
                self.instances.borrow_mut().insert(instance.instance, *instance);
                self.joined.notify_waiters();
            }
            Update::InstanceGone(instance) => self.instance_gone(instance),
            Update::Watch(server) => {
                let worker = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    let head_bytes_max = worker.shared.settings.header_bytes_max;
                    servers::watch(&worker.shared.servers, server, head_bytes_max).await;
                });
            }
            Update::Linked => self.joined.notify_waiters(),
            Update::Chains(table) => *self.chains.borrow_mut() = table,
            Update::Listener(listener, protocol) => listening.add(listener, protocol)?,
            Update::Serve => listening.serve(self)?,
            Update::Drain(timeout) => {
                let drained = listening.drain(Rc::clone(self), timeout);
                tokio::task::spawn_local(drained);
            }
        }
        Ok(())
    }

    pub(crate) fn chains(&self) -> Arc<ChainTable> {
        Arc::clone(&self.chains.borrow())
    }

    pub(crate) fn domain(&self, id: DomainId) -> Option<Arc<Domain>> {
        self.domains.borrow().get(&id).cloned()
    }

    /// The domain of whoever sent a descriptor.
    pub(crate) fn domain_of(&self, instance: InstanceId) -> Option<Arc<Domain>> {
        let living = self.instances.borrow().get(&instance).map(|info| info.domain);
        let domain = living.or_else(|| self.departed.borrow().get(&instance).copied());
        self.domain(domain?)
    }

    pub(crate) fn flights_now(&self) -> usize {
        self.flights.borrow().len()
    }

    /// Waits until an instance joins, for a request that found none.
    pub(crate) async fn instance_joined(&self) {
        self.joined.notified().await;
    }

    /// Sends a message whose head the gateway owns to any instance of `function`; the ticket brings the outcome.
    /// `prepare` writes the flight's id into the envelope before the descriptor goes.
    pub(crate) fn depart<E>(
        self: &Rc<Self>,
        holdings: &Arc<Holdings>,
        head: SlotRef,
        (function, unsent): (FunctionId, Option<Unsent>),
        deadline: Instant,
        prepare: impl FnOnce(RequestId) -> Result<(), E>,
    ) -> Result<Departed, E> {
        let ticket = {
            let mut flights = self.flights.borrow_mut();
            if flights.expect(deadline) {
                self.earlier.notify_one();
            }
            flights.depart(Arc::clone(holdings), head, deadline, unsent)
        };
        if let Err(error) = prepare(ticket.id) {
            self.flights.borrow_mut().remove(ticket.id);
            return Err(error);
        }
        let descriptor = PacketDescriptor::new(Kind::Request, function, head.slot, head.generation, ticket.id);
        self.outbox.push(self, descriptor);
        Ok(Departed { worker: Rc::clone(self), ticket, interest: None })
    }

    /// Sends a descriptor that needs no answer.
    pub(crate) fn tell(self: &Rc<Self>, descriptor: PacketDescriptor) {
        self.outbox.push(self, descriptor);
    }

    /// Nobody waits for this flight any more. Its holder is told, and replaced if it keeps the slots for too long.
    fn abandon(self: &Rc<Self>, id: RequestId) {
        let (head, domain, streaming) = {
            let mut flights = self.flights.borrow_mut();
            let Some(flight) = flights.get_mut(id) else { return };
            flight.abandoned = true;
            flight.incoming = None;
            (flight.head, Arc::clone(flight.holdings.domain()), flight.streaming)
        };
        let holder = streaming.or_else(|| holder_of(&domain, head));
        let grace = holder.and_then(|holder| self.cancel(holder, head, id)).unwrap_or(HANG_GRACE_DEFAULT);
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(grace).await;
            let streaming = worker.with_flight(id, |flight| flight.streaming);
            if let Some(streaming) = streaming
                && let Some(instance) = streaming.or_else(|| holder_of(&domain, head))
            {
                worker.shared.say(&FromGateway::Hung { instance });
            }
        });
    }

    /// Tells an instance that nobody waits for what it does; returns how long it may go on.
    fn cancel(self: &Rc<Self>, instance: InstanceId, head: SlotRef, id: RequestId) -> Option<Duration> {
        let info = self.instances.borrow().get(&instance).cloned()?;
        let cancel = PacketDescriptor::new(Kind::Cancel, info.function, head.slot, head.generation, id);
        self.tell(cancel.to_instance(instance));
        Some(info.hang_grace)
    }

    /// Ends everything that a dead instance held. Looked at again shortly after, for a message that was on its way.
    fn instance_gone(self: &Rc<Self>, instance: InstanceId) {
        if let Some(info) = self.instances.borrow_mut().remove(&instance) {
            self.departed.borrow_mut().insert(instance, info.domain);
        }
        self.sweep();
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let mut adrift = HashSet::new();
            for delay_ms in [10, 100, 1000] {
                adrift = worker.adrift();
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                worker.sweep();
            }
            worker.end_adrift(&adrift);
            worker.departed.borrow_mut().remove(&instance);
        });
    }

    /// The heads on their way to this worker: handed over, and not received.
    fn adrift(&self) -> HashSet<(DomainId, SlotRef)> {
        let is_ours = |domain: &Domain, head: SlotRef| {
            let word = domain.slots.ledger().read(head.slot);
            word.is_some_and(|word| word.generation == head.generation && word.owner == InstanceId::NONE)
        };
        let flights = self.flights.borrow();
        let out = flights.iter().filter(|(_, flight)| flight.streaming.is_none());
        let out = out.map(|(_, flight)| (Arc::clone(flight.holdings.domain()), flight.head));
        let all = out.chain(self.loans.borrow().heads()).filter(|(domain, head)| is_ours(domain, *head));
        all.map(|(domain, head)| (domain.id, head)).collect()
    }

    /// Ends what was on its way before and has not come in all the time since: its sender died between the two steps
    /// of a send, and nobody else knows of it.
    fn end_adrift(self: &Rc<Self>, before: &HashSet<(DomainId, SlotRef)>) {
        for head in self.adrift().intersection(before) {
            let loan = self.loans.borrow_mut().take_lost(*head);
            if let Some(loan) = loan {
                self.end_loan(loan);
                continue;
            }
            let is_it = |flight: &Flight| (flight.holdings.domain().id, flight.head) == *head;
            let lost = self.flights.borrow().iter().find(|(_, flight)| is_it(flight)).map(|(id, _)| id);
            if let Some(id) = lost {
                self.flights.borrow_mut().land(id, Outcome::Died);
            }
        }
    }

    /// Takes back every slot whose owner is no living instance.
    fn sweep(self: &Rc<Self>) {
        let instances = self.instances.borrow();
        let is_gone = |owner: InstanceId| owner != InstanceId::NONE && !instances.contains_key(&owner);
        let mut died = Vec::new();
        let mut broken = Vec::new();
        for (id, flight) in self.flights.borrow().iter() {
            let owner = flight.holdings.domain().slots.ledger().read(flight.head.slot);
            match flight.streaming {
                Some(from) if is_gone(from) => broken.push(id),
                None if owner.is_some_and(|word| is_gone(word.owner)) => died.push(id),
                Some(_) | None => {}
            }
        }
        let orphans = self.loans.borrow_mut().take_orphans(is_gone);
        drop(instances);
        for id in died {
            self.flights.borrow_mut().land(id, Outcome::Died);
        }
        for id in broken {
            self.flights.borrow_mut().piece(id, Piece::Broken);
        }
        for orphan in orphans {
            self.end_loan(orphan);
        }
    }
}

/// A flight with the task that waits for it. Dropping it while the message is out abandons the flight.
pub(crate) struct Departed {
    worker: Rc<Worker>,
    ticket: Ticket,
    /// In the rest of the request's body, where the answer streams while that comes.
    interest: Option<Interest>,
}

impl Departed {
    pub(crate) async fn outcome(&self) -> Outcome {
        self.ticket.outcome().await
    }

    /// The request's body goes on for as long as the answer.
    pub(crate) fn keep(&mut self, interest: Interest) {
        self.interest = Some(interest);
    }

    /// The next piece of a streamed answer, for a body's `poll_frame`. Whoever streams may go on writing.
    pub(crate) fn poll_piece(&self, context: &mut std::task::Context<'_>) -> std::task::Poll<Piece> {
        let piece = self.ticket.poll_piece(context);
        if piece.is_ready() {
            self.worker.lend_withheld(self.ticket.id);
        }
        piece
    }
}

impl Drop for Departed {
    fn drop(&mut self) {
        // A flight that has landed is not in the table any more, so this finds only those that nobody will wait for.
        self.worker.abandon(self.ticket.id);
    }
}
