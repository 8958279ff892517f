//! The conversation with instances, and their ends.

use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use ramet_common::{ABI, FunctionId, InstanceId};
use ramet_control::gateway::ToGateway;
use ramet_control::instance::{FromInstance, START_TIMEOUT, ToInstance};
use ramet_control::socket::ControlError;

use super::{Mode, Node, UNSENT};
use crate::conversation::ANSWER_TIMEOUT;
use crate::event::Word;
use crate::function::{Function, Occupant, Role};
use crate::instance::{Instance, Stage};
use crate::metrics::StartPhase;
use crate::route::Speaks;
use crate::timers::Timer;

/// How long an instance that was asked to end may take once it holds nothing any more.
pub(super) const END_TIMEOUT: Duration = Duration::from_secs(2);

impl Node {
    /// Says something to an instance, and returns its number. One that cannot be spoken to is killed.
    pub(super) fn tell(&mut self, id: InstanceId, message: ToInstance, fds: Vec<OwnedFd>) -> u64 {
        let Some(instance) = self.instances.get_mut(&id) else { return UNSENT };
        if instance.speaks == Speaks::Http {
            // It would not know what to do with it.
            return UNSENT;
        }
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
                self.starts.took(instance.origin, StartPhase::Greet, instance.known_since.elapsed());
                instance.known_since = Instant::now();
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
                self.tell(id, ToInstance::Refusal { reason }, Vec::new());
            }
            // A message may be between the kernel and the instance, which says the same again when it is through.
            FromInstance::Drained if self.domains.get(&instance.domain).is_some_and(|domain| domain.is_held_by(id)) => {
            }
            FromInstance::Drained if instance.stage == Stage::Stopping => {
                instance.stage = Stage::Ending;
                instance.process.ask_to_end();
                self.timers.set(Instant::now() + END_TIMEOUT, Timer::Grace(id));
            }
            FromInstance::Drained => {}
            FromInstance::Frozen => self.hear_frozen(id),
            FromInstance::Unfrozen { why } => self.hear_unfrozen(id, &why),
        }
    }

    fn cannot_speak(&mut self, id: InstanceId, error: &ControlError) {
        // One that has just ended needs no other end; its death is an event soon.
        if !matches!(error, ControlError::Closed) {
            self.condemn(id, &error.to_string());
        }
    }

    /// Takes an instance as far as it can go now.
    pub(super) fn advance_instance(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else { return };
        match instance.stage {
            Stage::Joining if self.is_known_everywhere(instance) => self.publish(id),
            Stage::Unpublishing if instance.speaks == Speaks::Descriptors && self.is_unpublished(id) => {
                self.set_stage(id, Stage::Stopping);
                self.tell(id, ToInstance::Stop, Vec::new());
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
        let welcomed = |sequence| instance.process.conversation.is_applied(sequence);
        instance.is_willing
            && (instance.speaks == Speaks::Http || instance.welcomed.is_some_and(welcomed))
            && instance.introduced.is_some_and(|sequence| self.gateway_applied(sequence))
            && self.lanes_are_laid(instance.id)
    }

    /// Lets senders choose the instance.
    fn publish(&mut self, id: InstanceId) {
        self.set_stage(id, Stage::Ready);
        let Some(instance) = self.instances.get(&id) else { return };
        let (function, domain) = (instance.function, instance.domain);
        if instance.brood.is_some()
            && let Some(function) = self.functions.get_mut(&function)
        {
            function.fruitless = 0;
            function.start_problem = None;
        }
        // In this order, so that the parts are no more than the whole.
        let join = instance.known_since.elapsed();
        let after = instance.started.elapsed();
        tracing::info!(function = %instance.name, instance = %id, origin = instance.origin.as_str(), ?after, "ready");
        self.starts.took(instance.origin, StartPhase::Join, join);
        self.starts.started(instance.origin, after);
        self.update_replicas(function, domain);
        self.want_lanes_of(id);
        self.is_readiness_stale = true;
        self.seek_parent(function);
    }

    fn update_replicas(&mut self, function: FunctionId, domain: ramet_common::DomainId) {
        let speaks_descriptors = |function: &&Function| function.speaks() == Speaks::Descriptors;
        let Some(members) = self.functions.get(&function).filter(speaks_descriptors) else { return };
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
                if instance.speaks == Speaks::Http {
                    self.tell_gateway(ToGateway::Relieve { instance: id }, Vec::new());
                    return;
                }
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
        self.lose_loan(id, "it has ended");
        self.lose_parent(instance.function, id, "it has ended");
        let is_expected = instance.stage == Stage::Ending || self.mode != Mode::Running;
        let how = instance.condemned.unwrap_or_else(|| status.to_string());
        let asked = if instance.stage == Stage::Ending { " as it was asked to" } else { "" };
        let pid = instance.process.pid;
        tracing::info!(function = %instance.name, instance = %id, pid, ?lived, "ended{asked}: {how}");
        let mut function = self.functions.get_mut(&instance.function);
        let place = function.as_mut().and_then(|function| function.place_of(id)).map(|(place, _)| place);
        match function.filter(|function| function.role == Role::Incoming) {
            Some(function) => function.failed = Some((id, instance.output)),
            None => {
                self.outputs.retain(|output| !output.is_finished());
                self.outputs.push(instance.output);
            }
        }
        if let Some(place) = place {
            self.occupy(instance.function, place, Occupant::Nobody);
            if is_expected {
                self.refill(instance.function);
            } else {
                let was = match instance.stage {
                    Stage::Starting | Stage::Joining => "it ended before it was ready",
                    _ => "it ended",
                };
                self.lost(instance.function, place, lived, &format!("{was}: {how}"));
                if instance.stage < Stage::Ready
                    && let Some(brood) = &instance.brood
                {
                    let why = format!("a copy ended before it was ready: {how}");
                    self.lose_brood(instance.function, brood.number(), &why);
                }
            }
        }
        self.retire();
    }

    /// An instance has ended that was not wanted any more. Its place may be wanted again by now.
    fn refill(&mut self, id: FunctionId) {
        let is_current = self.functions.get(&id).is_some_and(|function| function.role == Role::Current);
        if is_current && self.is_running() {
            self.fill_places(id);
        }
    }

    /// A place is empty that should not be.
    pub(super) fn lost(&mut self, id: FunctionId, place: u32, lived: Duration, why: &str) {
        let mode = self.mode;
        self.is_readiness_stale = true;
        let Some(function) = self.functions.get_mut(&id) else { return };
        function.failure = Some(why.to_owned());
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
        let takes_requests = |instance: &Instance| instance.stage == Stage::Ready && instance.unready.is_none();
        self.instances.get(&id).is_some_and(takes_requests) && self.is_reached(id)
    }

    /// Something is due.
    pub(super) fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Start(id) if self.stage(id).is_some_and(|stage| stage < Stage::Ready) => {
                let function = self.instances.get(&id).and_then(|instance| self.functions.get(&instance.function));
                let timeout = function.map_or(START_TIMEOUT, Function::start_timeout);
                let unready = self.instances.get(&id).and_then(|instance| instance.unready.clone());
                let why = unready.map_or_else(String::new, |why| format!(": {why}"));
                self.condemn(id, &format!("it was not ready within {timeout:?}{why}"));
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
            Timer::Freeze(parent) => self.check_freezing(parent),
            Timer::Seek(function) => self.seek_again(function),
            Timer::Look => self.look(),
            Timer::Place => self.place(),
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
