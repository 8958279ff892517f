//! Instances that are forked: who their parent is, and how they are taken in.
//!
//! The first instance of a version executes its command. Once it is ready it is frozen between two requests and
//! prepared, and goes on; whatever instance is needed after that is a copy of what it was then. Where that is not
//! possible, instances execute the command, and it is tried again later.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_common::{FunctionId, InstanceId};
use ramet_control::instance::ToInstance;
use ramet_control::socket::ControlSocket;
use ramet_fork::{Given, Habitat};
use ramet_manifest::Start;
use ramet_sys::Captured;

use super::Node;
use super::start::LaunchError;
use crate::brood::{Brood, BroodError, Newborn, News, Parent, Seeded};
use crate::dataplane::DataPlaneError;
use crate::function::{Ancestry, Function, Occupant, Role};
use crate::instance::{Instance, Origin, Stage};
use crate::metrics::StartPhase;
use crate::process::Process;
use crate::program;
use crate::timers::Timer;

/// How long what a parent has in service may take before it is left alone for now.
const FREEZE_PATIENCE: Duration = Duration::from_secs(1);
/// How much longer it may take to answer.
const FREEZE_MARGIN: Duration = Duration::from_secs(5);
/// When it is tried again to fork instances of a function whose last attempt failed.
const BARREN_FOR: Duration = Duration::from_secs(10);

/// How many seeds in a row may give no copy before it is left for a while.
const FRUITLESS_MAX: u32 = 1;

/// An instance that is being forked.
#[derive(Debug)]
pub(super) struct Birth {
    function: FunctionId,
    place: u32,
    control: ControlSocket,
    captured: Captured,
    begun: Instant,
    brood: Arc<Brood>,
}

/// How an instance is to be made now.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By executing the command.
    Exec,
    /// As a copy.
    Fork(Arc<Brood>),
    /// As a copy, of which is not there yet.
    Later,
}

impl Node {
    /// How the next instance of a function is to be made.
    pub(super) fn way(&self, id: FunctionId) -> Way {
        let Some(function) = self.functions.get(&id) else { return Way::Exec };
        match &function.ancestry {
            Ancestry::None | Ancestry::Barren => Way::Exec,
            Ancestry::Ready(brood) => Way::Fork(Arc::clone(brood)),
            Ancestry::Preparing(None, _) => Way::Later,
            // Somebody has to be the parent.
            Ancestry::Sought | Ancestry::Freezing(_) | Ancestry::Preparing(..) => {
                if function.instances().next().is_some() { Way::Later } else { Way::Exec }
            }
        }
    }

    /// Begins to make a seed for a function that has none, if somebody can be its parent.
    pub(super) fn seek_parent(&mut self, id: FunctionId) {
        let Some(function) = self.functions.get(&id) else { return };
        if !matches!(function.ancestry, Ancestry::Sought) || function.role == Role::Retired {
            return;
        }
        match &function.manifest.spec.start {
            Start::RemoteFork(seed) => {
                let limits = program::limits(&function.manifest, self.plane.kind());
                self.prepare(id, None, Parent::Elsewhere(seed.clone(), limits));
            }
            Start::Fork => {
                let ready = |id| self.instances.get(&id).filter(|one| one.stage == Stage::Ready && !self.is_lent(id));
                // A copy depends on the seed that it was forked from.
                let parent = function.instances().filter_map(ready).min_by_key(|one| one.origin);
                if let Some(parent) = parent.map(|one| one.id) {
                    self.freeze(id, parent);
                }
            }
            _ => {}
        }
    }

    /// Where an instance that executes its command is to live, so that it can be forked, now or later. Without one it
    /// cannot be, and that is found out then.
    pub(super) fn habitat_for(&self, function: &Function) -> Habitat {
        if function.manifest.spec.start != Start::Fork {
            return Habitat::default();
        }
        let host = self.means.hosts.host().map_err(|error| error.to_string());
        let habitat = host.and_then(|host| host.habitat().map_err(|error| error.to_string()));
        let name = function.name();
        habitat
            .inspect_err(|why| tracing::debug!(function = %name, "no place to fork instances in: {why}"))
            .unwrap_or_default()
    }

    fn freeze(&mut self, id: FunctionId, parent: InstanceId) {
        match self.ask_to_freeze(parent) {
            Ok(()) => self.set_ancestry(id, Ancestry::Freezing(parent)),
            Err(error) => self.give_up_forking(id, &error.to_string()),
        }
    }

    /// Asks an instance to freeze. Its answer follows, or a timer.
    pub(super) fn ask_to_freeze(&mut self, parent: InstanceId) -> Result<(), DataPlaneError> {
        let far_end = self.plane.far_end(parent)?;
        self.timers.set(Instant::now() + FREEZE_PATIENCE + FREEZE_MARGIN, Timer::Freeze(parent));
        self.tell(parent, ToInstance::Freeze { patience: FREEZE_PATIENCE }, far_end.into_iter().collect());
        Ok(())
    }

    fn prepare(&mut self, id: FunctionId, frozen: Option<InstanceId>, parent: Parent) {
        self.last_brood += 1;
        match Brood::start(&self.means, id, self.last_brood, parent) {
            Ok(brood) => self.set_ancestry(id, Ancestry::Preparing(frozen, Arc::new(brood))),
            Err(error) => {
                self.thaw(frozen);
                self.give_up_forking(id, &format!("cannot start a thread: {error}"));
            }
        }
    }

    fn set_ancestry(&mut self, id: FunctionId, ancestry: Ancestry) {
        if let Some(function) = self.functions.get_mut(&id) {
            function.ancestry = ancestry;
        }
    }

    pub(super) fn thaw(&mut self, parent: Option<InstanceId>) {
        if let Some(parent) = parent {
            self.tell(parent, ToInstance::Thaw, Vec::new());
        }
    }

    /// Lets instances execute the command for a while.
    fn give_up_forking(&mut self, id: FunctionId, why: &str) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let name = function.name();
        if function.start_problem.replace(why.to_owned()).as_deref() == Some(why) {
            tracing::debug!(function = %name, "its instances still cannot be forked: {why}");
        } else {
            tracing::warn!(
                function = %name,
                "its instances cannot be forked, so they execute the command; another try in {BARREN_FOR:?}: {why}"
            );
        }
        function.ancestry = Ancestry::Barren;
        self.timers.set(Instant::now() + BARREN_FOR, Timer::Seek(id));
        self.fill_places(id);
    }

    /// The time has come to try again to fork a function's instances.
    pub(super) fn seek_again(&mut self, id: FunctionId) {
        if self.functions.get(&id).is_some_and(|function| matches!(function.ancestry, Ancestry::Barren)) {
            self.set_ancestry(id, Ancestry::Sought);
            self.seek_parent(id);
        }
    }

    /// An instance is frozen.
    pub(super) fn hear_frozen(&mut self, id: InstanceId) {
        if self.lend(id) {
            return;
        }
        let Some(instance) = self.instances.get(&id) else { return };
        let (function, pid) = (instance.function, instance.process.pid);
        let (habitat, kin) = (instance.process.habitat.clone(), instance.kin.clone());
        let is_awaited = |ancestry: &Ancestry| matches!(ancestry, Ancestry::Freezing(parent) if *parent == id);
        if self.functions.get(&function).is_some_and(|function| is_awaited(&function.ancestry)) {
            self.prepare(function, Some(id), Parent::Here { pid, kin, habitat });
        } else {
            self.thaw(Some(id));
        }
    }

    /// An instance did not freeze, or has ended before its seed was there.
    pub(super) fn hear_unfrozen(&mut self, id: InstanceId, why: &str) {
        if self.lose_loan(id, why) {
            return;
        }
        let Some(instance) = self.instances.get(&id) else { return };
        self.lose_parent(instance.function, id, why);
    }

    /// A parent that was waited for is none.
    pub(super) fn lose_parent(&mut self, function: FunctionId, id: InstanceId, why: &str) {
        let is_it = |ancestry: &Ancestry| matches!(ancestry, Ancestry::Freezing(parent) if *parent == id);
        if self.functions.get(&function).is_some_and(|function| is_it(&function.ancestry)) {
            self.give_up_forking(function, &format!("instance {id} does not freeze: {why}"));
        }
    }

    /// An instance should be frozen by now.
    pub(super) fn check_freezing(&mut self, id: InstanceId) {
        if self.is_loan_asked(id) && self.lose_loan(id, "it does not answer") {
            return self.thaw(Some(id));
        }
        let Some(instance) = self.instances.get(&id) else { return };
        let function = instance.function;
        let is_it = |ancestry: &Ancestry| matches!(ancestry, Ancestry::Freezing(parent) if *parent == id);
        if self.functions.get(&function).is_some_and(|function| is_it(&function.ancestry)) {
            // Should it freeze after all it does not wait for somebody who has given up.
            self.thaw(Some(id));
            self.lose_parent(function, id, "it does not answer");
        }
    }

    /// What a brood's thread has to say.
    pub(super) fn hear_brood(&mut self, function: FunctionId, number: u64, news: News) {
        match news {
            News::Prepared(outcome) => self.take_seed(function, number, outcome),
            News::Child(id, outcome) => self.take_child(id, outcome),
        }
    }

    fn take_seed(&mut self, id: FunctionId, number: u64, outcome: Result<Seeded, BroodError>) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        let (parent, brood) = match &function.ancestry {
            Ancestry::Preparing(parent, brood) if brood.number() == number => (*parent, Arc::clone(brood)),
            _ => return,
        };
        match outcome {
            Ok(Seeded { pause }) => {
                let name = function.name();
                function.ancestry = Ancestry::Ready(brood);
                // That there is a seed does not say yet that its copies serve.
                if function.fruitless == 0 {
                    function.start_problem = None;
                }
                // Where the parent is another node's there was none here.
                let pause = pause.map(tracing::field::debug);
                tracing::info!(function = %name, pause, "its further instances are forked");
                self.thaw(parent);
                self.fill_places(id);
            }
            Err(error) => {
                self.thaw(parent);
                self.give_up_forking(id, &error.to_string());
            }
        }
    }

    /// Asks for a copy that is to take a place.
    pub(super) fn conceive(&mut self, id: FunctionId, place: u32, brood: Arc<Brood>) -> Result<(), LaunchError> {
        let instance = self.ids.instance()?;
        let conceived = self.conceive_as(instance, id, place, brood);
        match conceived {
            Ok(()) => self.occupy(id, place, Occupant::Expected),
            Err(_) => self.ids.free_instance(instance),
        }
        conceived
    }

    fn conceive_as(
        &mut self,
        instance: InstanceId,
        id: FunctionId,
        place: u32,
        brood: Arc<Brood>,
    ) -> Result<(), LaunchError> {
        let Some(function) = self.functions.get(&id) else { return Ok(()) };
        let begun = Instant::now();
        let sandbox = program::sandbox(&function.manifest, instance, &self.settings, self.plane.kind());
        let (control, theirs) = ControlSocket::pair()?;
        let (stdout, stdout_writer) = std::io::pipe()?;
        let (stderr, stderr_writer) = std::io::pipe()?;
        let streams: [OwnedFd; 3] = [theirs.into_fd(), stdout_writer.into(), stderr_writer.into()];
        let given = Given { streams, user: sandbox.user, limits: Some(sandbox.limits) };
        brood.ask(instance, given).map_err(Box::new)?;
        let captured = Captured { stdout, stderr };
        self.births.insert(instance, Birth { function: id, place, control, captured, begun, brood });
        Ok(())
    }

    fn take_child(&mut self, id: InstanceId, outcome: Result<Newborn, BroodError>) {
        let Some(birth) = self.births.remove(&id) else { return };
        let (function, place) = (birth.function, birth.place);
        let is_expected = self.functions.get(&function).is_some_and(|function| {
            let expected = function.places.get(place as usize).is_some_and(|p| p.occupant == Occupant::Expected);
            expected && place < function.wanted()
        });
        if !is_expected || !self.is_running() {
            self.occupy(function, place, Occupant::Nobody);
            self.ids.free_instance(id);
            return;
        }
        let number = birth.brood.number();
        match outcome.and_then(|newborn| self.adopt(id, birth, newborn)) {
            Ok(()) => {
                self.occupy(function, place, Occupant::Instance(id));
                self.greet_child(id);
            }
            Err(error) => {
                self.ids.free_instance(id);
                self.occupy(function, place, Occupant::Nobody);
                self.lose_brood(function, number, &format!("a copy could not be made: {error}"));
                self.fill_places(function);
            }
        }
    }

    /// A brood has failed to give a child that serves. Another seed may be better, once.
    pub(super) fn lose_brood(&mut self, id: FunctionId, number: u64, why: &str) {
        let Some(function) = self.functions.get_mut(&id) else { return };
        if !matches!(&function.ancestry, Ancestry::Ready(brood) if brood.number() == number) {
            return;
        }
        function.fruitless += 1;
        if function.fruitless > FRUITLESS_MAX {
            return self.give_up_forking(id, why);
        }
        tracing::warn!(function = %function.name(), "{why}; another seed is prepared");
        function.ancestry = Ancestry::Sought;
        self.seek_parent(id);
    }

    /// Begins to look after a child.
    fn adopt(&mut self, id: InstanceId, birth: Birth, newborn: Newborn) -> Result<(), BroodError> {
        let Birth { function, control, captured, begun, brood, .. } = birth;
        let Some(function) = self.functions.get(&function) else { return Ok(()) };
        let phases = newborn.phases();
        let Some((child, kin)) = newborn.adopt() else { return Err(BroodError::Gone) };
        let process =
            Process::adopt(child, control, self.events.clone(), move |word| crate::event::Event::Instance(id, word))?;
        self.pin(process.pid);
        let name = function.name();
        tracing::info!(function = %name, instance = %id, pid = process.pid, after = ?begun.elapsed(), "forked");
        let origin = match function.manifest.spec.start {
            Start::RemoteFork(_) => Origin::RemoteFork,
            _ => Origin::Fork,
        };
        for (phase, time) in StartPhase::of_fork(&phases) {
            self.starts.took(origin, phase, time);
        }
        let output = self.logs.capture(&name, id, captured);
        let mut instance = Instance::new(id, function, process, output, origin);
        instance.started = begun;
        (instance.brood, instance.kin) = (Some(brood), Some(kin));
        self.watch_start(&instance);
        self.instances.insert(id, instance);
        Ok(())
    }

    /// Tells a child that it is an instance of its own, and its place.
    fn greet_child(&mut self, id: InstanceId) {
        self.tell(id, ToInstance::Reborn, Vec::new());
        if let Err(error) = self.welcome(id) {
            self.condemn(id, &error.to_string());
        }
    }
}
