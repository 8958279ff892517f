//! Instances from their start to their death.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ramet_common::{ABI, FunctionId, InstanceId};
use ramet_control::gateway::{self, ToGateway};
use ramet_control::instance::{FromInstance, Join, START_TIMEOUT, ToInstance};
use ramet_control::socket::ControlError;
use ramet_dataplane::Route;

use super::{Mode, Node, UNSENT};
use crate::conversation::ANSWER_TIMEOUT;
use crate::dataplane::{DataPlaneError, Member, copy};
use crate::event::{Event, Word};
use crate::function::{Function, Occupant, Role};
use crate::ids::NoRoom;
use crate::instance::{Instance, Stage};
use crate::process::{Process, StartError};
use crate::program::{self, Launch, NotFound};
use crate::timers::Timer;

/// How long an instance that was asked to end may take once it holds nothing any more.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How many bytes of routes a `Join` carries; more follow in messages of their own.
const JOIN_ROUTES_BYTES: usize = 32 << 10;

/// Why an instance could not be started.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Node {
    /// Starts instances at all places of a function that are to be filled now.
    pub(super) fn fill_places(&mut self, function: FunctionId) {
        let vacancies = self.functions.get_mut(&function).map(Function::vacancies).unwrap_or_default();
        for place in vacancies {
            match self.launch(function) {
                Ok(instance) => self.occupy(function, place, Occupant::Instance(instance)),
                Err(error) => self.lost(function, place, Duration::ZERO, &format!("it could not be started: {error}")),
            }
        }
    }

    fn occupy(&mut self, function: FunctionId, place: u32, occupant: Occupant) {
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
        let launch = Launch::new(&function.manifest, id)?;
        let sandbox = program::sandbox(&function.manifest, id, &self.settings, self.plane.kind());
        let program = |stdin| launch.with_stdin(stdin);
        let event = move |word| Event::Instance(id, word);
        let (process, captured) = Process::start(program, &sandbox, self.events.clone(), event)?;
        let name = function.name();
        for (part, errno) in process.report.refused() {
            tracing::debug!(function = %name, instance = %id, "the sandbox goes without its {part}: {errno}");
        }
        tracing::info!(function = %name, instance = %id, pid = process.pid, "started");
        let output = match captured {
            Some(captured) => self.logs.capture(&name, id, captured),
            None => tokio::spawn(async {}),
        };
        let instance = Instance {
            id,
            function: function.id,
            domain: function.domain,
            name,
            process,
            stage: Stage::Starting,
            started: Instant::now(),
            is_willing: false,
            welcomed: None,
            introduced: None,
            routes: BTreeSet::new(),
            is_watched: false,
            output,
            condemned: None,
        };
        self.timers.set(instance.started + START_TIMEOUT, Timer::Start(id));
        self.instances.insert(id, instance);
        Ok(())
    }

    /// Says something to an instance, and returns its number. One that cannot be spoken to is killed.
    pub(super) fn tell(&mut self, id: InstanceId, message: ToInstance, fds: Vec<OwnedFd>) -> u64 {
        let Some(instance) = self.instances.get_mut(&id) else { return UNSENT };
        let sequence = match instance.process.conversation.say(message, fds) {
            Ok(sequence) => sequence,
            Err(error) => {
                self.cannot_speak(id, &error);
                return UNSENT;
            }
        };
        if !instance.is_watched
            && let Some(since) = instance.process.conversation.waiting_since()
        {
            instance.is_watched = true;
            self.timers.set(since + ANSWER_TIMEOUT, Timer::Answer(id));
        }
        sequence
    }

    /// Whether an instance has applied the message of this number, or is not there to do so.
    pub(super) fn applied_or_gone(&self, id: InstanceId, sequence: u64) -> bool {
        self.instances.get(&id).is_none_or(|instance| instance.process.conversation.is_applied(sequence))
    }

    /// Kills an instance that does not do its part. What follows is what follows any death.
    pub(super) fn condemn(&mut self, id: InstanceId, why: &str) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        tracing::warn!(function = %instance.name, instance = %id, pid = instance.process.pid, "killed: {why}");
        instance.condemned.get_or_insert_with(|| why.to_owned());
        instance.process.kill();
    }

    pub(super) fn hear_instance(&mut self, id: InstanceId, word: Word<FromInstance>) {
        match word {
            Word::Said(message) => self.hear_instance_say(id, message),
            Word::Silent(error) => {
                if self.instances.get(&id).is_some_and(|instance| instance.stage < Stage::Ending) {
                    self.condemn(id, &error.to_string());
                }
            }
            Word::Ended(status) => self.bury(id, status),
        }
    }

    fn hear_instance_say(&mut self, id: InstanceId, message: FromInstance) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        match message {
            FromInstance::Hello { abi, .. } if abi != ABI => {
                let why = format!("it speaks layout version {abi}, this node {ABI}: build it with this release's SDK");
                self.condemn(id, &why);
            }
            FromInstance::Hello { sdk, .. } if instance.stage == Stage::Starting => {
                tracing::debug!(function = %instance.name, instance = %id, sdk, "said hello");
                if let Err(error) = self.welcome(id) {
                    self.condemn(id, &error.to_string());
                }
            }
            FromInstance::Hello { .. } => self.condemn(id, "it said hello twice"),
            FromInstance::Applied { sequence } => {
                if let Err(error) = instance.process.conversation.applied(sequence) {
                    self.cannot_speak(id, &error);
                }
                self.advance_lane((id, sequence));
                self.touched.insert(id);
            }
            FromInstance::Ready => {
                instance.is_willing = true;
                self.touched.insert(id);
            }
            FromInstance::WhyRefused => {
                let reason = self.plane.last_refusal(id);
                self.mention(id, ToInstance::Refusal { reason });
            }
            FromInstance::Drained if instance.stage == Stage::Stopping => {
                instance.stage = Stage::Ending;
                instance.process.ask_to_end();
                self.timers.set(Instant::now() + END_TIMEOUT, Timer::Grace(id));
            }
            FromInstance::Drained => {}
        }
    }

    /// Says something that is not answered.
    pub(super) fn mention(&mut self, id: InstanceId, message: ToInstance) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        if let Err(error) = instance.process.conversation.mention(message) {
            self.cannot_speak(id, &error);
        }
    }

    fn cannot_speak(&mut self, id: InstanceId, error: &ControlError) {
        // One that has just ended needs no other end; its death is an event soon.
        if !matches!(error, ControlError::Closed) {
            self.condemn(id, &error.to_string());
        }
    }

    /// Makes an instance's place on the data plane, and tells it and the gateway.
    fn welcome(&mut self, id: InstanceId) -> Result<(), DataPlaneError> {
        let Some(instance) = self.instances.get(&id) else { return Ok(()) };
        let Some(function) = self.functions.get(&instance.function) else { return Ok(()) };
        let Some(domain) = self.domains.get(&instance.domain) else { return Ok(()) };
        let mut fds = vec![copy(&domain.memory.pool)?];
        let member =
            Member { instance: id, function: function.id, domain: function.domain, capacity: function.capacity() };
        fds.extend(self.plane.join(member)?);
        if self.plane.lanes().is_some() {
            fds.push(copy(&domain.memory.ledger)?);
        }
        let mut routes = self.routes_through(function.id);
        let later = routes.split_off(within(&routes, JOIN_ROUTES_BYTES));
        let join = Join {
            instance: id,
            function: function.id,
            name: function.name().to_string(),
            domain: function.domain,
            layout: domain.layout,
            transport: self.plane.kind(),
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

    /// Takes an instance as far as it can go now.
    pub(super) fn advance_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else { return };
        match instance.stage {
            Stage::Joining if self.is_known_everywhere(instance) => self.publish(id),
            Stage::Unpublishing if self.is_unpublished(id) => {
                self.set_stage(id, Stage::Stopping);
                self.mention(id, ToInstance::Stop);
            }
            _ => {}
        }
    }

    fn set_stage(&mut self, id: InstanceId, stage: Stage) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.stage = stage;
        }
    }

    /// Whether a message to the instance would be understood, and could be followed by all that it leads to.
    fn is_known_everywhere(&self, instance: &Instance) -> bool {
        instance.is_willing
            && instance.welcomed.is_some_and(|sequence| instance.process.conversation.is_applied(sequence))
            && instance.introduced.is_some_and(|sequence| self.gateway_applied(sequence))
            && self.lanes_are_laid(instance.id)
    }

    /// Lets senders choose the instance.
    fn publish(&mut self, id: InstanceId) {
        self.set_stage(id, Stage::Ready);
        let Some(instance) = self.instances.get(&id) else { return };
        let (function, domain) = (instance.function, instance.domain);
        tracing::info!(function = %instance.name, instance = %id, after = ?instance.started.elapsed(), "ready");
        self.update_replicas(function, domain);
        self.want_lanes_of(id);
        self.is_readiness_stale = true;
    }

    fn update_replicas(&mut self, function: FunctionId, domain: ramet_common::DomainId) {
        let Some(members) = self.functions.get(&function) else { return };
        let ready: Vec<_> = members.instances().filter(|id| self.stage(*id) == Some(Stage::Ready)).collect();
        self.plane.set_replicas(function, domain, &ready);
    }

    pub(super) fn stage(&self, id: InstanceId) -> Option<Stage> {
        self.instances.get(&id).map(|instance| instance.stage)
    }

    /// Lets an instance finish what it holds and end.
    pub(super) fn drain(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        match instance.stage {
            Stage::Starting | Stage::Joining => {
                instance.stage = Stage::Ending;
                instance.process.kill();
            }
            Stage::Ready => {
                instance.stage = Stage::Unpublishing;
                self.is_readiness_stale = true;
                let (function, domain) = (instance.function, instance.domain);
                let grace = self.functions.get(&function).map(|function| function.manifest.spec.shutdown_grace);
                self.timers.set(Instant::now() + grace.unwrap_or_default(), Timer::Grace(id));
                self.update_replicas(function, domain);
                self.close_lanes_to(id);
                self.touched.insert(id);
            }
            Stage::Unpublishing | Stage::Stopping | Stage::Ending => {}
        }
    }

    /// An instance's process has ended.
    fn bury(&mut self, id: InstanceId, status: ExitStatus) {
        let Some(instance) = self.instances.remove(&id) else { return };
        self.is_readiness_stale = true;
        let lived = instance.started.elapsed();
        self.update_replicas(instance.function, instance.domain);
        self.plane.leave(id);
        self.forget_lanes_of(id);
        if instance.introduced.is_some() {
            self.tell_gateway(ToGateway::InstanceGone { instance: id }, Vec::new());
        }
        self.ids.free_instance(id);
        let is_expected = instance.stage == Stage::Ending || self.mode != Mode::Running;
        let how = instance.condemned.unwrap_or_else(|| status.to_string());
        let asked = if instance.stage == Stage::Ending { " as it was asked to" } else { "" };
        let pid = instance.process.pid;
        tracing::info!(function = %instance.name, instance = %id, pid, ?lived, "ended{asked}: {how}");
        let mut function = self.functions.get_mut(&instance.function);
        let place = function.as_mut().and_then(|function| function.place_of(id)).map(|(place, _)| place);
        if let Some(function) = function.filter(|function| function.role == Role::Incoming) {
            function.failed = Some((id, instance.output));
        }
        if let Some(place) = place {
            self.occupy(instance.function, place, Occupant::Nobody);
            if !is_expected {
                let was = match instance.stage {
                    Stage::Starting | Stage::Joining => "it ended before it was ready",
                    _ => "it ended",
                };
                self.lost(instance.function, place, lived, &format!("{was}: {how}"));
            }
        }
        self.retire();
    }

    /// A place is empty that should not be.
    fn lost(&mut self, id: FunctionId, place: u32, lived: Duration, why: &str) {
        let mode = self.mode;
        self.is_readiness_stale = true;
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.failure = Some(format!("function {}: {why}", function.name()));
        if function.role == Role::Retired || mode != Mode::Running {
            return;
        }
        let name = function.name();
        *self.restarts.entry(name.clone()).or_default() += 1;
        // Whoever brings the new version decides what its failure means.
        let is_wanted = place < function.wanted() && function.role == Role::Current;
        let Some(empty) = function.places.get_mut(place as usize).filter(|_| is_wanted) else { return };
        let wait = empty.wait_after(lived, &function.manifest.spec.restart);
        tracing::warn!(function = %name, again_after = ?wait, "an instance is lost: {why}");
        empty.occupant = Occupant::Waiting;
        self.timers.set(Instant::now() + wait, Timer::Restart(id, place));
    }

    /// How many of a function's instances every sender can reach.
    pub(super) fn ready_instances(&self, function: &Function) -> u32 {
        let ready = function.instances().filter(|id| self.is_ready(*id));
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    /// Whether every sender can reach an instance.
    pub(super) fn is_ready(&self, id: InstanceId) -> bool {
        self.stage(id) == Some(Stage::Ready) && self.is_reached(id)
    }

    fn routes_through(&self, function: FunctionId) -> Vec<Route> {
        let through = |live: &&super::LiveRoute| live.route.functions().contains(&function);
        self.routes.values().filter(through).map(|live| live.route.clone()).collect()
    }

    /// Something is due.
    pub(super) fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Start(id) if self.stage(id).is_some_and(|stage| stage < Stage::Ready) => {
                self.condemn(id, &format!("it was not ready within {START_TIMEOUT:?}"));
            }
            Timer::Start(_) => {}
            Timer::Answer(id) => self.check_answers(id),
            Timer::GatewayAnswer(epoch) => self.check_gateway_answers(epoch),
            Timer::Restart(function, place) => {
                let is_waiting = self.functions.get(&function).and_then(|f| f.places.get(place as usize));
                if is_waiting.is_some_and(|place| place.occupant == Occupant::Waiting) {
                    self.occupy(function, place, Occupant::Nobody);
                    if self.mode == Mode::Running {
                        self.fill_places(function);
                    }
                }
            }
            Timer::Grace(id) => {
                let stage = self.stage(id);
                if stage == Some(Stage::Ending) {
                    self.condemn(id, &format!("it did not end within {END_TIMEOUT:?} of SIGTERM"));
                } else if stage.is_some_and(|stage| stage > Stage::Ready) {
                    self.set_stage(id, Stage::Ending);
                    self.condemn(id, "it did not finish what it held within its shutdownGrace");
                }
            }
            Timer::RouteOverdue(route) => self.route_is_overdue(route),
        }
    }

    fn check_answers(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get_mut(&id) else { return };
        match instance.process.conversation.waiting_since() {
            None => instance.is_watched = false,
            Some(since) if since + ANSWER_TIMEOUT <= Instant::now() => {
                self.condemn(id, &format!("it has not answered the supervisor for {ANSWER_TIMEOUT:?}"));
            }
            Some(since) => self.timers.set(since + ANSWER_TIMEOUT, Timer::Answer(id)),
        }
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
