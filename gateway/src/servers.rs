//! Functions that serve HTTP by themselves: their instances, which of them a request goes to, and whose turn it is.
//!
//! All workers share them. An instance has as many sockets as requests that it may have in service, so whoever has a
//! turn finds one, connected or not. Its states: waiting (it has not answered a probe yet) → ready ⇄ unready →
//! relieved (no more requests) → gone.

mod body;
mod connection;
mod exchange;
mod plain;
mod probe;
mod replay;
mod stream;
mod unusual;

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ramet_common::map::FunctionFlow;
use ramet_common::{FunctionId, InstanceId, Refusal};
use ramet_control::gateway::{self, Figures, FromGateway, Http};
use ramet_dataplane::clock;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub(crate) use body::{Broken, ClientBody, Outgoing};
pub(crate) use connection::{Age, ConnectError};
pub(crate) use exchange::{AnswerHead, Answered, AskError, Asked, Exchange, Rest};
pub(crate) use plain::{NEXT_HEADER, PlainHead, PlainRequest};
pub(crate) use probe::watch;

use connection::Sockets;

/// How the supervisor is told something.
pub(crate) type Say = Arc<dyn Fn(FromGateway) + Send + Sync>;

/// All instances of functions that serve HTTP by themselves.
pub(crate) struct Servers {
    by_function: RwLock<HashMap<FunctionId, Vec<Arc<Server>>>>,
    changed: Notify,
    /// An instance that had no request has one.
    busy: Arc<Notify>,
    /// What was counted of each function that has instances.
    figures: RwLock<HashMap<FunctionId, Arc<Counted>>>,
    say: Say,
}

/// What is counted of a function. Sums of times as in [`ramet_common::map::FunctionFlow`].
#[derive(Debug, Default)]
struct Counted {
    arrived: AtomicU64,
    left: AtomicU64,
    arrived_ns: AtomicU64,
    left_ns: AtomicU64,
    /// What goes to and fro is the gateway's to count, as SPROXY counts what goes over an edge.
    asked: AtomicU64,
    answered: AtomicU64,
}

impl Counted {
    fn flow(&self) -> FunctionFlow {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        FunctionFlow {
            arrived: read(&self.arrived),
            left: read(&self.left),
            arrived_ns: read(&self.arrived_ns),
            left_ns: read(&self.left_ns),
        }
    }
}

/// An instance.
pub(crate) struct Server {
    pub(crate) info: gateway::Instance,
    pub(crate) http: Http,
    state: AtomicU8,
    /// Requests that it has or that wait for it.
    held: AtomicU32,
    turns: Arc<Semaphore>,
    sockets: Sockets,
    busy: Arc<Notify>,
    counted: Arc<Counted>,
    say: Say,
}

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Waiting,
    Ready,
    Unready,
    Relieved,
    Gone,
}

impl State {
    fn from_u8(byte: u8) -> Self {
        [Self::Waiting, Self::Ready, Self::Unready, Self::Relieved]
            .into_iter()
            .find(|state| *state as u8 == byte)
            .unwrap_or(Self::Gone)
    }
}

impl Servers {
    pub(crate) fn new(say: Say) -> Self {
        Self {
            by_function: RwLock::default(),
            changed: Notify::new(),
            busy: Arc::default(),
            figures: RwLock::default(),
            say,
        }
    }

    /// An instance has been started. It gets no request before it is ready.
    pub(crate) fn add(&self, info: gateway::Instance, http: Http) -> Arc<Server> {
        let server = Arc::new(Server {
            turns: Arc::new(Semaphore::new(http.concurrency as usize)),
            sockets: Sockets::new(http.address.clone()),
            state: AtomicU8::new(State::Waiting as u8),
            held: AtomicU32::new(0),
            busy: Arc::clone(&self.busy),
            counted: {
                let mut figures = self.figures.write().unwrap_or_else(PoisonError::into_inner);
                Arc::clone(figures.entry(info.function).or_default())
            },
            say: Arc::clone(&self.say),
            info,
            http,
        });
        let mut by_function = self.by_function.write().unwrap_or_else(PoisonError::into_inner);
        by_function.entry(server.info.function).or_default().push(Arc::clone(&server));
        server
    }

    /// Takes sockets for connections to an instance.
    pub(crate) fn equip(&self, instance: InstanceId, fds: Vec<OwnedFd>) -> Result<(), String> {
        let server =
            self.server(instance).ok_or_else(|| format!("there is no instance {instance} that serves HTTP"))?;
        fds.into_iter().for_each(|fd| server.sockets.add(fd));
        Ok(())
    }

    /// Gives an instance no more requests, and says so when it has none.
    pub(crate) fn relieve(&self, instance: InstanceId) {
        if let Some(server) = self.server(instance) {
            server.enter(State::Relieved);
            server.say_if_relieved();
        }
    }

    /// Forgets an instance. Requests that wait for it go elsewhere; those that it has break off by themselves.
    pub(crate) fn remove(&self, instance: InstanceId) {
        let mut by_function = self.by_function.write().unwrap_or_else(PoisonError::into_inner);
        for servers in by_function.values_mut() {
            servers.retain(|server| {
                let is_it = server.info.instance == instance;
                if is_it {
                    server.enter(State::Gone);
                    server.turns.close();
                }
                !is_it
            });
        }
        by_function.retain(|_, servers| !servers.is_empty());
        let mut figures = self.figures.write().unwrap_or_else(PoisonError::into_inner);
        figures.retain(|function, _| by_function.contains_key(function));
    }

    /// A place at the ready instance with the most room.
    pub(crate) fn choose(&self, function: FunctionId) -> Result<Held, Refusal> {
        let by_function = self.by_function.read().unwrap_or_else(PoisonError::into_inner);
        let servers = by_function.get(&function).map(Vec::as_slice).unwrap_or_default();
        let ready = || servers.iter().filter(|server| server.state() == State::Ready);
        // Another one may take the last place meanwhile; then the next best is tried.
        for _ in 0..servers.len() {
            let best = ready().max_by_key(|server| server.room()).ok_or(Refusal::NoReplica)?;
            if best.room() == 0 {
                return Err(Refusal::Full);
            }
            if let Some(held) = best.hold(Purpose::Request) {
                return Ok(held);
            }
        }
        Err(if ready().next().is_none() { Refusal::NoReplica } else { Refusal::Full })
    }

    /// Waits until an instance becomes ready.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// An instance has become ready.
    fn note_change(&self) {
        self.changed.notify_waiters();
    }

    /// Says how many requests instances have for which that is wanted, for as long as they have any.
    pub(crate) async fn report_loads(&self) {
        loop {
            self.busy.notified().await;
            while let Some(period) = self.report_once() {
                tokio::time::sleep(period).await;
            }
        }
    }

    /// What came to each function that has instances.
    pub(crate) fn figures(&self) -> Vec<(FunctionId, Figures)> {
        let now_ns = clock::now_ns();
        let figures = self.figures.read().unwrap_or_else(PoisonError::into_inner);
        let of = |counted: &Counted| {
            let flow = counted.flow();
            Figures {
                done: flow.left,
                held: flow.held(),
                spent: Duration::from_nanos(flow.spent_ns(now_ns)),
                asked: counted.asked.load(Ordering::Relaxed),
                answered: counted.answered.load(Ordering::Relaxed),
            }
        };
        figures.iter().map(|(function, counted)| (*function, of(counted))).collect()
    }

    /// Says it once. Returns when it is to be said again.
    fn report_once(&self) -> Option<Duration> {
        let by_function = self.by_function.read().unwrap_or_else(PoisonError::into_inner);
        let watched = by_function.values().flatten().filter_map(|server| Some((server, server.http.load_period?)));
        let loads: Vec<_> = watched
            .map(|(server, period)| (server.info.instance, server.held.load(Ordering::Relaxed), period))
            .collect();
        drop(by_function);
        if !loads.is_empty() {
            (self.say)(FromGateway::Loads(loads.iter().map(|(instance, held, _)| (*instance, *held)).collect()));
        }
        loads.iter().filter(|(_, held, _)| *held > 0).map(|(_, _, period)| *period).min()
    }

    fn server(&self, instance: InstanceId) -> Option<Arc<Server>> {
        let by_function = self.by_function.read().unwrap_or_else(PoisonError::into_inner);
        by_function.values().flatten().find(|server| server.info.instance == instance).cloned()
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

impl Server {
    fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::SeqCst))
    }

    /// Changes the state. What is relieved or gone stays so.
    fn enter(&self, to: State) -> bool {
        let may = |now: u8| (now < State::Relieved as u8 || to as u8 > now).then_some(to as u8);
        self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, may).is_ok_and(|before| before != to as u8)
    }

    /// Whether it is given requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.state() == State::Ready
    }

    /// How many requests it has or wait for it.
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.state() as u8 >= State::Relieved as u8
    }

    /// How many more requests it may be given.
    fn room(&self) -> u32 {
        let capacity = self.http.concurrency.saturating_add(self.http.queue);
        capacity.saturating_sub(self.held.load(Ordering::SeqCst))
    }

    fn hold(self: &Arc<Self>, purpose: Purpose) -> Option<Held> {
        let capacity = self.http.concurrency.saturating_add(self.http.queue);
        let more = |held: u32| (held < capacity).then_some(held + 1);
        let before = self.held.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).ok()?;
        if purpose == Purpose::Request {
            self.counted.arrived.fetch_add(1, Ordering::Relaxed);
            self.counted.arrived_ns.fetch_add(clock::now_ns(), Ordering::Relaxed);
        }
        if before == 0 && self.http.load_period.is_some() {
            self.busy.notify_one();
        }
        let held = Held { server: Arc::clone(self), purpose };
        // It may have been relieved in between; whoever comes last says that it is.
        (!self.is_over()).then_some(held)
    }

    fn say_if_relieved(&self) {
        if self.state() == State::Relieved && self.held.load(Ordering::SeqCst) == 0 {
            (self.say)(FromGateway::Relieved { instance: self.info.instance });
        }
    }

    /// A request has gone there.
    pub(crate) fn count_asked(&self) {
        self.counted.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer has come from there.
    pub(crate) fn count_answered(&self) {
        self.counted.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// It has kept a request for too long.
    pub(crate) fn complain(&self) {
        (self.say)(FromGateway::Hung { instance: self.info.instance });
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("instance", &self.info.instance)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// A request's place at an instance, in its queue or in its service.
#[derive(Debug)]
pub(crate) struct Held {
    server: Arc<Server>,
    purpose: Purpose,
}

/// What a place is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Request,
    /// It is not counted.
    Probe,
}

impl Held {
    /// Waits until the instance has a turn. `None`: it is gone.
    pub(crate) async fn turn(self) -> Option<Turn> {
        let permit = Arc::clone(&self.server.turns).acquire_owned().await.ok()?;
        Some(Turn { _permit: permit, held: self })
    }

    /// A turn if there is one now. Nobody who waits for one is passed by: while somebody does there is none.
    pub(crate) fn turn_now(self) -> Result<Turn, Self> {
        match Arc::clone(&self.server.turns).try_acquire_owned() {
            Ok(permit) => Ok(Turn { _permit: permit, held: self }),
            Err(_) => Err(self),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.server.held.fetch_sub(1, Ordering::SeqCst);
        if self.purpose == Purpose::Request {
            self.server.counted.left.fetch_add(1, Ordering::Relaxed);
            self.server.counted.left_ns.fetch_add(clock::now_ns(), Ordering::Relaxed);
        }
        self.server.say_if_relieved();
    }
}

/// The right to one connection.
#[derive(Debug)]
pub(crate) struct Turn {
    // In this order: whoever waits is let in before the place counts as free.
    _permit: OwnedSemaphorePermit,
    held: Held,
}

impl Turn {
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.held.server
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use ramet_common::DomainId;
    use ramet_control::gateway::Address;
    use std::sync::Mutex;

    fn servers() -> (Servers, Arc<Mutex<Vec<FromGateway>>>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        (Servers::new(Arc::new(move |word| heard.lock().expect("unbroken").push(word))), said)
    }

    fn add(servers: &Servers, instance: u32) -> Arc<Server> {
        server_at(servers, instance, Address::Port(1))
    }

    /// An instance that nobody has said to be ready.
    pub(super) fn server_at(servers: &Servers, instance: u32, address: Address) -> Arc<Server> {
        let http = Http {
            address,
            concurrency: 1,
            queue: 1,
            readiness: None,
            liveness: None,
            load_period: Some(Duration::from_millis(1)),
        };
        let info = gateway::Instance {
            instance: InstanceId(instance),
            function: FunctionId(7),
            name: "default/web".to_owned(),
            domain: DomainId(1),
            hang_grace: Duration::from_secs(1),
            capacity: 2,
            http: Some(http.clone()),
        };
        servers.add(info, http)
    }

    #[test]
    fn the_instance_with_the_most_room_is_chosen_until_none_has_any() {
        let (servers, _) = servers();
        assert_eq!(servers.choose(FunctionId(7)).err(), Some(Refusal::NoReplica));
        let all = [add(&servers, 1), add(&servers, 2)];
        assert_eq!(servers.choose(FunctionId(7)).err(), Some(Refusal::NoReplica), "none is ready");
        all.iter().for_each(|server| assert!(server.enter(State::Ready)));
        let held: Vec<_> = (0..4).map(|_| servers.choose(FunctionId(7)).expect("room")).collect();
        let mut of: Vec<_> = held.iter().map(|held| held.server.info.instance.0).collect();
        assert_ne!(of[0], of[1], "each gets one before one gets two");
        of.sort_unstable();
        assert_eq!(of, [1, 1, 2, 2]);
        assert_eq!(servers.choose(FunctionId(7)).err(), Some(Refusal::Full));
        drop(held);
        assert!(servers.choose(FunctionId(7)).is_ok());
        assert!(all.iter().all(|server| server.room() == 2));
    }

    #[test]
    fn a_relieved_instance_is_chosen_no_more_and_says_when_it_is_free() {
        let (servers, said) = servers();
        let server = add(&servers, 1);
        server.enter(State::Ready);
        let held = servers.choose(FunctionId(7)).expect("room");
        servers.relieve(InstanceId(1));
        assert_eq!(servers.choose(FunctionId(7)).err(), Some(Refusal::NoReplica));
        assert!(!server.enter(State::Ready), "no probe brings it back");
        assert!(said.lock().expect("unbroken").is_empty());
        drop(held);
        assert_eq!(*said.lock().expect("unbroken"), [FromGateway::Relieved { instance: InstanceId(1) }]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn loads_are_said_while_there_are_any() {
        let (servers, said) = servers();
        add(&servers, 1).enter(State::Ready);
        let loads = servers.report_loads();
        tokio::pin!(loads);
        assert!(loads.as_mut().now_or_never().is_none());
        assert!(said.lock().expect("unbroken").is_empty(), "nobody has anything");
        let held = servers.choose(FunctionId(7)).expect("room");
        assert!(loads.as_mut().now_or_never().is_none());
        assert_eq!(said.lock().expect("unbroken").pop(), Some(FromGateway::Loads(vec![(InstanceId(1), 1)])));
        drop(held);
        let none = FromGateway::Loads(vec![(InstanceId(1), 0)]);
        let is_said = async {
            while said.lock().expect("unbroken").last() != Some(&none) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = loads => {}
            () = is_said => {}
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn turns_are_as_many_as_requests_may_be_in_service_and_end_with_the_instance() {
        let (servers, _) = servers();
        add(&servers, 1).enter(State::Ready);
        let one = servers.choose(FunctionId(7)).expect("room").turn().await.expect("a turn");
        assert!(servers.choose(FunctionId(7)).expect("room").turn_now().is_err(), "one at a time");
        let waiting = servers.choose(FunctionId(7)).expect("room").turn();
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        servers.remove(InstanceId(1));
        assert!(waiting.await.is_none(), "whoever waits for it goes elsewhere");
        drop(one);
    }
}
