//! The node: everything that runs, owned by one task, changed only by what happens to it.
//!
//! A life of the node is an *epoch*: a gateway, and everything that shares memory with it. When the gateway dies, the
//! epoch is torn down and the next one is built from the same manifests.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::{Duration, Instant};

use ramet_common::map::Edge;
use ramet_common::{DomainId, FunctionId, InstanceId, RouteId};
use ramet_manifest::{Desired, NodeSettings, QualifiedName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::brood::Means;
use crate::dataplane::DataPlane;
use crate::domain::Domain;
use crate::event::{Event, Events};
use crate::function::Function;
use crate::gateway_process::{Gateway, GatewayStage};
use crate::ids::Ids;
use crate::instance::Instance;
use crate::links::LinkTable;
use crate::listeners::Listeners;
use crate::logs::Logs;
use crate::metrics::Starts;
use crate::shortcut::Shortcut;
use crate::timers::Timers;
use crate::transport::Choice;

mod births;
mod change;
mod draft;
mod edges;
mod epoch;
mod gateway;
mod instances;
mod lanes;
mod load;
mod loans;
mod placement;
mod report;
mod retire;
mod servers;
mod start;
mod stop;

use births::Birth;
use loans::Loan;
use placement::Placing;

pub(crate) use change::{Change, What};
pub use epoch::EpochError;

/// The number of a message that could not be sent: nothing is to be waited for.
const UNSENT: u64 = 0;

/// The longest wait before another gateway is started.
const GATEWAY_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// The first one, after the second gateway in a row died early.
const GATEWAY_BACKOFF: Duration = Duration::from_millis(100);
/// A gateway that lived this long was no failed start.
const GATEWAY_STABLE_AFTER: Duration = Duration::from_secs(10);

/// What a node is made of at its start.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) settings: NodeSettings,
    pub(crate) desired: Desired,
    pub(crate) choice: Choice,
    pub(crate) plane: DataPlane,
    pub(crate) shortcut: Shortcut,
    pub(crate) listeners: Listeners,
    pub(crate) logs: Logs,
    pub(crate) events: Events,
    pub(crate) inbox: mpsc::Receiver<Event>,
    pub(crate) means: Means,
}

/// A route that is told to somebody.
#[derive(Clone, Debug)]
pub(crate) struct LiveRoute {
    pub(crate) route: ramet_dataplane::Route,
    /// How long a request on it may take.
    pub(crate) deadline: Duration,
    pub(crate) is_retired: bool,
    /// Whether the gateway has said that no request runs on it. It may say so before the change that retires the route
    /// is through here.
    pub(crate) is_idle: bool,
}

/// The running node.
#[derive(Debug)]
pub(crate) struct Node {
    settings: NodeSettings,
    choice: Choice,
    plane: DataPlane,
    shortcut: Shortcut,
    listeners: Listeners,
    logs: Logs,
    events: Events,
    inbox: mpsc::Receiver<Event>,
    ids: Ids,
    timers: Timers,
    /// What the node was last successfully asked for.
    desired: Desired,
    gateway: Option<Gateway>,
    /// The certificate that the gateway shows, PEM; none where it speaks plain HTTP.
    certificate: Option<String>,
    epoch: u32,
    domains: BTreeMap<DomainId, Domain>,
    functions: BTreeMap<FunctionId, Function>,
    routes: BTreeMap<RouteId, LiveRoute>,
    /// The route on which each chain's requests start.
    chains: BTreeMap<QualifiedName, RouteId>,
    edges: HashSet<Edge>,
    /// Whether a route or function has gone since the edges were last looked at.
    are_edges_stale: bool,
    instances: BTreeMap<InstanceId, Instance>,
    /// What instances are forked with, those that are being forked, and how many seeds there have been.
    means: Means,
    births: BTreeMap<InstanceId, Birth>,
    last_brood: u64,
    /// The instances that are frozen, or asked to freeze, for somebody who prepares them.
    loans: BTreeMap<InstanceId, Loan>,
    /// Whether a timer is set to look at loads.
    is_looking: bool,
    /// What is known of where threads are.
    placing: Placing,
    /// How instances were started, and how long it took.
    starts: Starts,
    /// Those to which something has happened that may take them to another stage.
    touched: BTreeSet<InstanceId>,
    /// The gateway's messages that introduce instances, until they are applied.
    introductions: BTreeMap<u64, InstanceId>,
    links: LinkTable,
    /// The tasks that read what instances wrote that have ended.
    outputs: Vec<JoinHandle<()>>,
    /// How often instances of each function died or failed to start.
    restarts: BTreeMap<QualifiedName, u64>,
    /// Changes that wait for the one under way.
    changes: VecDeque<Change>,
    /// What `/readyz` was last told.
    waiting_for: Vec<String>,
    /// Whether something has happened since that may have changed it.
    is_readiness_stale: bool,
    mode: Mode,
    /// Whether a gateway has ever accepted connections: one that never did will not when it is started again.
    has_served: bool,
    signals: u32,
}

/// What the node does about what happens.
///
/// Running → TearingDown when the gateway is gone → Resting → Running; Running → Stopping at the first signal →
/// TearingDown in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// What dies is replaced.
    Running,
    /// Everything of the epoch ends at once.
    TearingDown,
    /// Nothing runs; another epoch begins soon.
    Resting,
    /// Everything ends once it has finished what it holds.
    Stopping,
}

/// Why a wait ended before what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It took too long.
    TimedOut,
    /// The gateway died.
    GatewayGone,
    /// The supervisor was told to end, or to end at once.
    Signal,
}

impl Node {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { settings, desired, choice, plane, shortcut, listeners, logs, events, inbox, means } = parts;
        Self {
            settings,
            choice,
            plane,
            shortcut,
            listeners,
            logs,
            events,
            inbox,
            ids: Ids::new(),
            timers: Timers::default(),
            desired,
            gateway: None,
            certificate: None,
            epoch: 0,
            domains: BTreeMap::new(),
            functions: BTreeMap::new(),
            routes: BTreeMap::new(),
            chains: BTreeMap::new(),
            edges: HashSet::new(),
            are_edges_stale: false,
            instances: BTreeMap::new(),
            means,
            births: BTreeMap::new(),
            last_brood: 0,
            loans: BTreeMap::new(),
            is_looking: false,
            placing: Placing::default(),
            starts: Starts::default(),
            touched: BTreeSet::new(),
            introductions: BTreeMap::new(),
            links: LinkTable::default(),
            outputs: Vec::new(),
            restarts: BTreeMap::new(),
            changes: VecDeque::new(),
            waiting_for: Vec::new(),
            is_readiness_stale: true,
            mode: Mode::Running,
            has_served: false,
            signals: 0,
        }
    }

    /// Runs until the supervisor is told to end.
    pub(crate) async fn run(mut self) -> Result<(), EpochError> {
        let mut wait = Duration::ZERO;
        loop {
            let started = Instant::now();
            let ended = self.live().await;
            match ended {
                Ok(()) | Err(EpochError::Interrupted(Interrupted::Signal)) => {
                    self.stop().await;
                    return Ok(());
                }
                Err(error) if !self.has_served => {
                    self.tear_down().await;
                    return Err(error);
                }
                Err(error) => tracing::error!(%error, "the gateway is gone; everything is started anew"),
            }
            self.tear_down().await;
            if started.elapsed() >= GATEWAY_STABLE_AFTER {
                wait = Duration::ZERO;
            }
            self.mode = Mode::Resting;
            if self.interruption().and(self.wait_for(wait, |_| false).await) == Err(Interrupted::Signal) {
                self.stop().await;
                return Ok(());
            }
            wait = (wait * 2).clamp(GATEWAY_BACKOFF, GATEWAY_BACKOFF_MAX);
        }
    }

    /// Lets things happen until `done`, at most for `timeout`.
    async fn wait_for(&mut self, timeout: Duration, done: impl Fn(&Self) -> bool) -> Result<(), Interrupted> {
        let deadline = Instant::now() + timeout;
        while !done(self) {
            if Instant::now() >= deadline {
                return Err(Interrupted::TimedOut);
            }
            self.next(Some(deadline)).await?;
        }
        Ok(())
    }

    /// Lets one thing happen, or the time pass.
    async fn next(&mut self, deadline: Option<Instant>) -> Result<(), Interrupted> {
        // What was done since the last event may have made something possible, and may be the only thing that happens.
        self.settle();
        let due = [self.timers.next_due(), deadline].into_iter().flatten().min();
        let time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = self.inbox.recv() => self.handle(event),
            () = time => {}
        }
        while let Some(timer) = self.timers.take_due(Instant::now()) {
            self.fire(timer);
        }
        self.settle();
        self.interruption()
    }

    fn interruption(&self) -> Result<(), Interrupted> {
        let (tolerated, needs_gateway) = match self.mode {
            Mode::Running => (0, true),
            // What is killed is gone in no time.
            Mode::TearingDown => (u32::MAX, false),
            Mode::Resting => (0, false),
            Mode::Stopping => (1, false),
        };
        if self.signals > tolerated {
            return Err(Interrupted::Signal);
        }
        if needs_gateway && self.gateway.is_none() {
            return Err(Interrupted::GatewayGone);
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Instance(instance, word) => self.hear_instance(instance, word),
            Event::Gateway(epoch, word) => self.hear_gateway(epoch, word),
            Event::Brood(function, number, news) => self.hear_brood(function, number, news),
            Event::Loan(request) => self.hear_loan(request),
            Event::Admin(request) => self.answer(request),
            Event::Signal => self.signals += 1,
        }
    }

    /// Does everything that has become possible.
    fn settle(&mut self) {
        while let Some(id) = self.touched.pop_first() {
            self.advance_instance(id);
        }
        self.begin_lanes();
        self.close_domains();
        if self.is_readiness_stale {
            self.is_readiness_stale = false;
            self.tell_readiness();
        }
    }

    fn is_running(&self) -> bool {
        self.mode == Mode::Running
    }

    fn gateway_stage(&self) -> Option<GatewayStage> {
        self.gateway.as_ref().map(|gateway| gateway.stage)
    }

    /// Ends every child at once. Their deaths follow as events.
    fn kill_all(&self) {
        for instance in self.instances.values() {
            instance.process.kill();
        }
        if let Some(gateway) = &self.gateway {
            gateway.process.kill();
        }
    }
}
