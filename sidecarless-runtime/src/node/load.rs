//! How busy the instances of functions are whose number follows the load. A node without such functions does not look.

use std::time::{Duration, Instant};

use ramet_common::{DomainId, FunctionId, InstanceId};

use super::Node;
use crate::function::{Function, Role};
use crate::route::Speaks;
use crate::scale::Load;
use crate::timers::Timer;

/// How often it is looked while something may change soon.
pub(super) const BUSY_TICK: Duration = Duration::from_millis(5);
/// How often it is looked while nothing is to do. It bounds how long the first of a burst's messages wait for more
/// instances.
const QUIET_TICK: Duration = Duration::from_millis(25);

impl Node {
    /// Begins to look, if there is anything to look at.
    pub(super) fn begin_looking(&mut self) {
        if !self.is_looking && self.functions.values().any(is_elastic) {
            self.is_looking = true;
            self.timers.set(Instant::now() + QUIET_TICK, Timer::Look);
        }
    }

    /// Looks at the loads once, and has as many instances as they ask for.
    pub(super) fn look(&mut self) {
        self.is_looking = false;
        let now = Instant::now();
        let elastic: Vec<(FunctionId, DomainId)> =
            self.functions.values().filter(|f| is_elastic(f)).map(|f| (f.id, f.domain)).collect();
        if elastic.is_empty() || !self.is_running() {
            return;
        }
        let mut is_at_rest = true;
        for (id, domain) in elastic {
            let Some(function) = self.functions.get(&id) else { continue };
            let instances: Vec<_> = function.instances().collect();
            let of_it = instances.into_iter().map(|instance| self.held_by(instance, domain)).sum();
            let Some(function) = self.functions.get_mut(&id) else { continue };
            let spec = &function.manifest.spec;
            let load = Load { held: of_it, concurrency: spec.concurrency };
            let limits = spec.replicas;
            let is_changed = function.scale.look(now, load, &limits);
            is_at_rest &= function.scale.is_at_rest(load, &limits);
            if is_changed {
                tracing::debug!(function = %function.name(), held = of_it, wanted = function.wanted(), "scaled");
                self.is_readiness_stale = true;
                self.scale(id);
            }
        }
        self.is_looking = true;
        self.timers.set(now + if is_at_rest { QUIET_TICK } else { BUSY_TICK }, Timer::Look);
    }
}

impl Node {
    /// How many messages an instance has, by whoever counts them: the gateway for one that serves HTTP by itself, the
    /// kernel in S mode, its senders and itself otherwise.
    pub(super) fn held_by(&self, id: InstanceId, domain: DomainId) -> u32 {
        match self.instances.get(&id) {
            None => 0,
            Some(instance) if instance.speaks == Speaks::Http => instance.held,
            Some(_) => self.plane.held(id).or_else(|| Some(self.domains.get(&domain)?.held_by(id))).unwrap_or_default(),
        }
    }
}

fn is_elastic(function: &Function) -> bool {
    function.role == Role::Current && function.manifest.spec.replicas.is_elastic()
}
