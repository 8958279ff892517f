//! What a change brings, side by side with what runs, until it is committed or discarded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ramet_common::{DomainId, FunctionId, RouteId};
use ramet_control::gateway::{self, ToGateway};
use ramet_manifest::{self as manifest, Chain, Desired, Name, QualifiedName};

use super::change::ChangeError;
use super::{LiveRoute, Node};
use crate::dataplane::copy;
use crate::domain::{Domain, DomainState};
use crate::function::{Ancestry, Function, Role};
use crate::plan::{Plan, PlannedDomain, Running};
use crate::route::{self, FunctionIds, Speaks};
use crate::scale::Scale;

/// A change that is being prepared.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(super) desired: Desired,
    /// The domains after the change.
    domains: BTreeSet<DomainId>,
    /// New versions, whose instances start.
    pub(super) incoming: BTreeSet<FunctionId>,
    /// Versions that stay, with what they are asked for now.
    kept: BTreeMap<FunctionId, Arc<manifest::Function>>,
    /// The chains after the change.
    chains: BTreeMap<QualifiedName, (RouteId, Arc<Chain>)>,
    /// Routes that are new.
    pub(super) new_routes: BTreeSet<RouteId>,
}

impl Node {
    /// Prepares a change: memory, ids, routes and policy; instances of new versions start.
    pub(super) fn draft(&mut self, desired: Desired) -> Result<Draft, ChangeError> {
        let plan = Plan::new(&self.running(), &desired, self.settings.pool);
        let mut draft = Draft {
            desired,
            domains: BTreeSet::new(),
            incoming: BTreeSet::new(),
            kept: BTreeMap::new(),
            chains: BTreeMap::new(),
            new_routes: BTreeSet::new(),
        };
        match self.fill(&mut draft, plan) {
            Ok(()) => Ok(draft),
            Err(error) => {
                self.discard(&draft);
                Err(error)
            }
        }
    }

    fn running(&self) -> Running<'_> {
        let mut running = Running::default();
        for domain in self.domains.values().filter(|domain| domain.state == DomainState::Wanted) {
            running.domains.insert(&domain.name, domain.layout);
        }
        for function in self.functions.values().filter(|function| function.role == Role::Current) {
            let key = (&function.domain_name, &function.manifest.metadata.name);
            running.functions.insert(key, (function.id, &function.manifest));
        }
        running
    }

    fn fill(&mut self, draft: &mut Draft, plan: Plan) -> Result<(), ChangeError> {
        for planned in plan.domains {
            let domain = self.domain_for(&planned)?;
            draft.domains.insert(domain);
            let ids = self.functions_for(draft, domain, &planned)?;
            for chain in planned.chains {
                self.route_for(draft, domain, chain, &ids);
            }
        }
        self.update_edges()?;
        for function in draft.incoming.clone() {
            // Of a process on another node, if there is one.
            self.seek_parent(function);
            self.fill_places(function);
        }
        Ok(())
    }

    /// The domain that is there, or a new one.
    fn domain_for(&mut self, planned: &PlannedDomain) -> Result<DomainId, ChangeError> {
        let same = |domain: &&Domain| domain.name == planned.name && domain.state == DomainState::Wanted;
        if !planned.is_new
            && let Some(domain) = self.domains.values().find(same)
        {
            return Ok(domain.id);
        }
        let id = self.ids.domain()?;
        let memory = self.plane.add_domain(id, &planned.name.to_string(), &planned.layout);
        let memory = memory.inspect_err(|_| self.ids.free_domain(id))?;
        if self.settings.prefault_pools {
            memory.prefault(planned.layout);
        }
        let fds = vec![copy(&memory.pool)?, copy(&memory.ledger)?];
        let state = DomainState::Wanted;
        let domain = Domain { id, name: planned.name.clone(), layout: planned.layout, memory, state };
        self.tell_gateway(ToGateway::Domain(domain.for_gateway()), fds);
        self.domains.insert(id, domain);
        Ok(id)
    }

    fn functions_for(
        &mut self,
        draft: &mut Draft,
        domain: DomainId,
        planned: &PlannedDomain,
    ) -> Result<FunctionIds, ChangeError> {
        let mut ids = FunctionIds::new();
        for function in &planned.functions {
            let id = match function.kept {
                Some(id) => id,
                None => self.ids.function()?,
            };
            let (speaks, body) = (Speaks::of(&function.manifest), function.manifest.spec.request_body);
            ids.insert(function.manifest.metadata.name.clone(), (id, speaks, body));
            let manifest = Arc::clone(&function.manifest);
            if function.kept.is_some() {
                draft.kept.insert(id, manifest);
                continue;
            }
            draft.incoming.insert(id);
            let ancestry = Ancestry::of(&manifest.spec.start);
            let version = Function {
                id,
                domain,
                domain_name: planned.name.clone(),
                manifest,
                calls: Vec::new(),
                role: Role::Incoming,
                places: Vec::new(),
                scale: Scale::default(),
                ancestry,
                fruitless: 0,
                start_problem: None,
                failure: None,
                failed: None,
            };
            self.functions.insert(id, version);
        }
        for function in &draft.incoming {
            if let Some(function) = self.functions.get_mut(function).filter(|function| function.domain == domain) {
                let callee = |name: &Name| Some((name.to_string(), ids.get(name)?.0));
                function.calls = function.manifest.spec.calls.iter().filter_map(callee).collect();
            }
        }
        Ok(ids)
    }

    /// The chain's route: the one that is there if it is the same.
    fn route_for(&mut self, draft: &mut Draft, domain: DomainId, chain: Arc<Chain>, functions: &FunctionIds) {
        let name = chain.qualified_name();
        let current = self.chains.get(&name).and_then(|id| self.routes.get(id));
        let mut route = route::compile(&chain, RouteId::default(), domain, functions);
        if let Some(current) = current {
            route.id = current.route.id;
            if route == current.route {
                draft.chains.insert(name, (route.id, chain));
                return;
            }
        }
        route.id = self.ids.route();
        draft.chains.insert(name, (route.id, Arc::clone(&chain)));
        draft.new_routes.insert(route.id);
        self.routes
            .insert(route.id, LiveRoute { route, deadline: chain.spec.deadline, is_retired: false, is_idle: false });
    }

    /// The chains after a change, as the gateway matches them.
    pub(super) fn chains_for_gateway(&self, draft: &Draft) -> Result<Vec<gateway::Chain>, ChangeError> {
        let chains = draft.chains.values().filter_map(|(id, chain)| {
            let live = self.routes.get(id)?;
            Some(route::for_gateway(chain, live.route.clone()))
        });
        let chains: Vec<_> = chains.collect();
        let bytes = ramet_control::socket::message_bytes(&chains);
        if bytes > CHAINS_BYTES_MAX { Err(ChangeError::TooManyChains { bytes }) } else { Ok(chains) }
    }

    /// Makes the change what runs, and lets go of what it replaces.
    pub(super) fn commit(&mut self, draft: Draft) {
        for function in self.functions.values_mut() {
            if draft.incoming.contains(&function.id) {
                function.role = Role::Current;
                function.failed = None;
            } else if let Some(manifest) = draft.kept.get(&function.id) {
                function.manifest = Arc::clone(manifest);
            } else {
                function.role = Role::Retired;
            }
        }
        for domain in self.domains.values_mut() {
            if !draft.domains.contains(&domain.id) && domain.state == DomainState::Wanted {
                domain.state = DomainState::Retired;
            }
        }
        for (id, chain) in draft.chains.values() {
            if let Some(live) = self.routes.get_mut(id) {
                live.deadline = chain.spec.deadline.max(live.deadline);
            }
        }
        self.chains = draft.chains.into_iter().map(|(name, (id, _))| (name, id)).collect();
        self.desired = draft.desired;
        self.is_readiness_stale = true;
        self.forget_what_is_removed();
        self.retire_routes();
        for function in self.functions.keys().copied().collect::<Vec<_>>() {
            self.scale(function);
        }
        self.begin_looking();
        self.retire();
    }

    /// Brings the number of a function's instances to what is wanted.
    pub(super) fn scale(&mut self, id: FunctionId) {
        let Some(function) = self.functions.get(&id) else { return };
        if function.role != Role::Current {
            return;
        }
        for surplus in function.surplus() {
            self.drain(surplus);
        }
        self.fill_places(id);
    }

    /// Takes back everything that a draft has brought.
    pub(super) fn discard(&mut self, draft: &Draft) {
        for id in &draft.incoming {
            if let Some(function) = self.functions.get_mut(id) {
                function.role = Role::Retired;
            }
        }
        for route in &draft.new_routes {
            self.withdraw_route(*route);
        }
        for live in self.routes.values_mut().filter(|live| !live.is_retired) {
            live.is_idle = false;
        }
        let used: BTreeSet<_> = self.functions.values().filter(|f| f.role == Role::Current).map(|f| f.domain).collect();
        let kept: BTreeSet<_> = self.routes.values().map(|live| live.route.domain).chain(used).collect();
        for domain in self.domains.values_mut() {
            if !kept.contains(&domain.id) && domain.state == DomainState::Wanted {
                domain.state = DomainState::Retired;
            }
        }
        self.retire();
    }

    fn forget_what_is_removed(&mut self) {
        let desired = &self.desired;
        let removed: Vec<_> = self
            .functions
            .values()
            .map(Function::name)
            .filter(|name| desired.function(name).is_none())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        for name in removed {
            self.restarts.remove(&name);
            self.logs.forget(name);
        }
    }
}

/// How many bytes all chains may take: they travel in one message.
const CHAINS_BYTES_MAX: usize = ramet_control::socket::MESSAGE_BYTES_MAX - 1024;
