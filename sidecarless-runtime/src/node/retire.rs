//! Letting go of what a change replaced, as soon as no request needs it and no sooner.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ramet_common::{FunctionId, RouteId};
use ramet_control::gateway::ToGateway;
use ramet_control::instance::ToInstance;

use super::{Mode, Node};
use crate::domain::DomainState;
use crate::function::Role;
use crate::timers::Timer;

/// How long after the last deadline a retired route is taken to be idle, even if the gateway does not say so.
const OVERDUE_AFTER: Duration = Duration::from_secs(10);

impl Node {
    /// Marks the routes on which no request starts any more.
    pub(super) fn retire_routes(&mut self) {
        let current: BTreeSet<_> = self.chains.values().copied().collect();
        let now = Instant::now();
        for (id, live) in &mut self.routes {
            if !current.contains(id) && !live.is_retired {
                live.is_retired = true;
                self.timers.set(now + live.deadline + OVERDUE_AFTER, Timer::RouteOverdue(*id));
            }
        }
        let idle = self.routes.values().filter(|live| live.is_retired && live.is_idle).map(|live| live.route.id);
        for id in idle.collect::<Vec<_>>() {
            self.withdraw_route(id);
        }
    }

    /// The gateway says that no request runs on a retired route any more.
    pub(super) fn forget_route(&mut self, id: RouteId) {
        let Some(live) = self.routes.get_mut(&id) else { return };
        live.is_idle = true;
        if live.is_retired {
            self.withdraw_route(id);
            self.retire();
        }
    }

    pub(super) fn route_is_overdue(&mut self, id: RouteId) {
        if self.routes.contains_key(&id) {
            tracing::warn!(route = %id, "a replaced chain has requests past their deadline; its functions end now");
            self.forget_route(id);
        }
    }

    /// Takes a route from everybody who was told it.
    pub(super) fn withdraw_route(&mut self, id: RouteId) {
        self.routes.remove(&id);
        self.are_edges_stale = true;
        let told =
            self.instances.iter_mut().filter_map(|(instance, known)| known.routes.remove(&id).then_some(*instance));
        for instance in told.collect::<Vec<_>>() {
            self.tell(instance, ToInstance::Routes { added: Vec::new(), retired: vec![id] }, Vec::new());
        }
    }

    /// Ends what no route needs any more: instances, then functions, then domains.
    pub(super) fn retire(&mut self) {
        if self.mode == Mode::TearingDown {
            return;
        }
        let needed = self.needed_functions();
        let idle = self.functions.values().filter(|f| f.role == Role::Retired && !needed.contains(&f.id));
        let (ending, gone): (Vec<_>, Vec<_>) = idle.map(|function| function.id).partition(|id| self.has_instances(*id));
        for function in ending {
            let instances: Vec<_> =
                self.functions.get(&function).map(|function| function.instances().collect()).unwrap_or_default();
            for instance in instances {
                self.drain(instance);
            }
        }
        for id in gone {
            self.are_edges_stale = true;
            if let Some(function) = self.functions.remove(&id) {
                self.plane.set_replicas(id, function.domain, &[]);
                self.shortcut.forget(id);
                self.plane.forget_flow(id);
                self.ids.free_function(id);
            }
        }
        if self.are_edges_stale
            && let Err(error) = self.update_edges()
        {
            // Only permitting can fail, and nothing new is wanted here.
            tracing::error!(%error, "cannot update the permitted hops");
        }
        self.retire_domains();
    }

    /// The functions that a request may still come to.
    fn needed_functions(&self) -> BTreeSet<FunctionId> {
        let mut needed = BTreeSet::new();
        let mut waiting: Vec<_> = self.routes.values().flat_map(|live| live.route.functions()).collect();
        while let Some(id) = waiting.pop() {
            if needed.insert(id)
                && let Some(function) = self.functions.get(&id)
            {
                waiting.extend(function.calls.iter().map(|(_, callee)| *callee));
            }
        }
        needed
    }

    fn has_instances(&self, function: FunctionId) -> bool {
        self.functions.get(&function).is_some_and(|function| function.instances().next().is_some())
    }

    /// Tells the gateway of domains that nothing runs in any more.
    fn retire_domains(&mut self) {
        let used: BTreeSet<_> = self.functions.values().map(|function| function.domain).collect();
        let idle = |id| !used.contains(&id) && self.routes.values().all(|live| live.route.domain != id);
        let retired = self.domains.values().filter(|domain| domain.state == DomainState::Retired && idle(domain.id));
        for id in retired.map(|domain| domain.id).collect::<Vec<_>>() {
            let sequence = self.tell_gateway(ToGateway::DomainGone { domain: id }, Vec::new());
            if let Some(domain) = self.domains.get_mut(&id) {
                domain.state = DomainState::Closing(sequence);
            }
        }
    }

    /// Frees the domains that the gateway has let go of.
    pub(super) fn close_domains(&mut self) {
        let applied = |state| matches!(state, DomainState::Closing(sequence) if self.gateway_applied(sequence));
        let closed: Vec<_> = self.domains.values().filter(|d| applied(d.state)).map(|domain| domain.id).collect();
        for id in closed {
            self.domains.remove(&id);
            self.plane.remove_domain(id);
            self.ids.free_domain(id);
        }
    }
}
