//! Starting instances, and giving each its place once it has said hello.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ramet_common::{FunctionId, InstanceId};
use ramet_control::gateway::{self, ToGateway};
use ramet_control::instance::{Join, START_TIMEOUT, ToInstance};
use ramet_dataplane::Route;

use super::births::Way;
use super::{LiveRoute, Node};
use crate::brood::BroodError;
use crate::dataplane::{DataPlaneError, Member, copy};
use crate::event::Event;
use crate::function::{Function, Occupant};
use crate::gateway_process;
use crate::ids::NoRoom;
use crate::instance::{Instance, Origin, Stage};
use crate::metrics::StartPhase;
use crate::process::{Process, StartError, Started, Stdin};
use crate::program::{self, Launch, NotFound};
use crate::server::{self, FolderError};
use crate::threads::Visit;
use crate::timers::Timer;

/// How many bytes of routes a `Join` carries; more follow in messages of their own.
const JOIN_ROUTES_BYTES: usize = 32 << 10;

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("cannot make its sockets and pipes: {0}; is the supervisor's limit of open files reached?")]
    Descriptors(#[from] std::io::Error),
    #[error("cannot start it on the cores that `placement` names: {0}")]
    Cores(#[source] std::io::Error),
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Brood(#[from] Box<BroodError>),
}

impl Node {
    /// Starts instances at all places of a function that are to be filled now.
    pub(super) fn fill_places(&mut self, function: FunctionId) {
        let vacancies = self.functions.get_mut(&function).map(Function::vacancies).unwrap_or_default();
        if !vacancies.is_empty() {
            // A parent on another node is there before the first instance here.
            self.seek_parent(function);
        }
        for place in vacancies {
            let outcome = match self.way(function) {
                Way::Later => return,
                Way::Fork(brood) => self.conceive(function, place, brood),
                Way::Exec => self.launch(function).map(|instance| {
                    self.occupy(function, place, Occupant::Instance(instance));
                }),
            };
            if let Err(error) = outcome {
                self.lost(function, place, Duration::ZERO, &format!("it could not be started: {error}"));
            }
        }
    }

    pub(super) fn occupy(&mut self, function: FunctionId, place: u32, occupant: Occupant) {
        let places = self.functions.get_mut(&function).map(|function| &mut function.places);
        if let Some(place) = places.and_then(|places| places.get_mut(place as usize)) {
            place.occupant = occupant;
        }
    }

    fn launch(&mut self, function: FunctionId) -> Result<InstanceId, LaunchError> {
        let id = self.ids.instance()?;
        let launched = self.launch_as(id, function);
        if launched.is_err() {
            self.ids.free_instance(id);
        }
        launched.map(|()| id)
    }

    fn launch_as(&mut self, id: InstanceId, function: FunctionId) -> Result<(), LaunchError> {
        let Some(function) = self.functions.get(&function) else { return Ok(()) };
        let begun = Instant::now();
        let http = function.manifest.spec.http.as_deref();
        let way = http.map(|http| server::Way::new(http, id, &self.settings)).transpose()?;
        let launch = Launch::new(&function.manifest, id, way.as_ref())?;
        let stdin = if way.is_some() { Stdin::Nothing } else { Stdin::Conversation };
        let sandbox = program::sandbox(&function.manifest, id, &self.settings, self.plane.kind());
        let program = |stdin| launch.with_stdin(stdin);
        let event = move |word| Event::Instance(id, word);
        let habitat = self.habitat_for(function);
        let there = self.fixed_cores().map(|cores| Visit::to(&cores)).transpose().map_err(LaunchError::Cores)?;
        let Started { process, captured, sockets } =
            Process::start(program, stdin, &sandbox, habitat, self.events.clone(), event)?;
        drop(there);
        let name = function.name();
        for (part, errno) in process.report.refused() {
            tracing::debug!(function = %name, instance = %id, "the sandbox goes without its {part}: {errno}");
        }
        tracing::info!(function = %name, instance = %id, pid = process.pid, "started");
        let output = match captured {
            Some(captured) => self.logs.capture(&name, id, captured),
            None => tokio::spawn(async {}),
        };
        let mut instance = Instance::new(id, function, process, output, Origin::Exec);
        self.starts.took(Origin::Exec, StartPhase::Spawn, instance.known_since.saturating_duration_since(begun));
        instance.started = begun;
        self.watch_start(&instance);
        self.instances.insert(id, instance);
        if let Some(way) = way {
            self.introduce_server(id, &way, sockets);
            // Its folder is there for as long as it is.
            if let Some(instance) = self.instances.get_mut(&id) {
                instance.way = Some(way);
            }
        }
        Ok(())
    }

    /// Ends an instance that does not get ready.
    pub(super) fn watch_start(&mut self, instance: &Instance) {
        let function = self.functions.get(&instance.function);
        let timeout = function.map_or(START_TIMEOUT, Function::start_timeout);
        self.timers.set(instance.started + timeout, Timer::Start(instance.id));
    }

    /// Makes an instance's place on the data plane, and tells it and the gateway.
    pub(super) fn welcome(&mut self, id: InstanceId) -> Result<(), DataPlaneError> {
        let Some(instance) = self.instances.get(&id) else { return Ok(()) };
        let Some(function) = self.functions.get(&instance.function) else { return Ok(()) };
        let Some(domain) = self.domains.get(&instance.domain) else { return Ok(()) };
        let mut fds = vec![copy(&domain.memory.pool)?];
        let member =
            Member { instance: id, function: function.id, domain: function.domain, capacity: function.capacity() };
        if self.plane.lanes().is_some() {
            fds.push(copy(&domain.memory.ledger)?);
        }
        fds.extend(self.plane.join(member)?);
        let mut routes = self.routes_through(function.id);
        let later = routes.split_off(within(&routes, JOIN_ROUTES_BYTES));
        let join = Join {
            instance: id,
            function: function.id,
            name: function.name().to_string(),
            domain: function.domain,
            layout: domain.layout,
            transport: self.plane.kind(),
            busy_poll: gateway_process::busy_poll(self.settings.busy_poll),
            concurrency: function.manifest.spec.concurrency,
            callable: function.calls.clone(),
            routes,
        };
        let introduction = gateway::Instance {
            instance: id,
            function: function.id,
            name: join.name.clone(),
            domain: function.domain,
            hang_grace: function.manifest.spec.hang_grace,
            capacity: function.capacity(),
            http: None,
        };
        let told: BTreeSet<_> = join.routes.iter().chain(&later).map(|route| route.id).collect();
        let mut welcomed = self.tell(id, ToInstance::Join(Box::new(join)), fds);
        for route in later {
            welcomed = self.tell(id, ToInstance::Routes { added: vec![route], retired: Vec::new() }, Vec::new());
        }
        let introduced = self.tell_gateway(ToGateway::Instance(introduction), Vec::new());
        self.introductions.insert(introduced, id);
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.stage = Stage::Joining;
            instance.welcomed = Some(welcomed);
            instance.introduced = Some(introduced);
            instance.routes = told;
        }
        self.want_lanes_of(id);
        Ok(())
    }

    fn routes_through(&self, function: FunctionId) -> Vec<Route> {
        let through = |live: &&LiveRoute| live.route.functions().contains(&function);
        self.routes.values().filter(through).map(|live| live.route.clone()).collect()
    }
}

/// How many of `routes` take at most `bytes` together.
fn within(routes: &[Route], bytes: usize) -> usize {
    let mut total = 0;
    let fits = |route: &&Route| {
        total += ramet_control::socket::message_bytes(*route);
        total <= bytes
    };
    routes.iter().take_while(fits).count()
}
