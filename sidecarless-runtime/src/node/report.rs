//! What the node says about itself: to operators, to probes and to whoever measures.

use std::time::{Duration, Instant};

use ramet_common::FunctionId;
use ramet_common::map::EdgeCount;
use ramet_control::admin::{self, Status};
use ramet_control::gateway::{Figures, ToGateway};
use ramet_manifest::{self as manifest, Kind, QualifiedName};

use super::change::{Change, ChangeError};
use super::{Mode, Node};
use crate::admin::{ObjectFilter, Request};
use crate::function::{Function, Role};
use crate::gateway_process::GatewayStage;
use crate::instance::{Instance, Stage};
use crate::metrics::{FunctionFigures, Metrics};
use crate::route;

/// How many changes may wait for the one under way.
const CHANGES_MAX: usize = 64;

impl Node {
    pub(super) fn answer(&mut self, request: Request) {
        // Whoever asked may have gone; then nobody minds.
        match request {
            Request::Node(answer) => drop(answer.send(self.describe())),
            Request::Objects(filter, answer) => drop(answer.send(self.objects(&filter))),
            Request::Instances(filter, answer) => drop(answer.send(self.list_instances(&filter))),
            Request::Certificate(answer) => drop(answer.send(self.certificate.clone())),
            Request::Change(change) => self.queue_change(change),
        }
    }

    fn queue_change(&mut self, change: Change) {
        if self.mode == Mode::Stopping {
            change.refuse(&ChangeError::Stopping);
        } else if self.changes.len() >= CHANGES_MAX {
            change.refuse(&ChangeError::TooManyChanges);
        } else {
            self.changes.push_back(change);
        }
    }

    fn describe(&self) -> admin::Node {
        let (shortcut, shortcut_reason) = self.shortcut.describe();
        admin::Node {
            shortcut: shortcut.to_owned(),
            shortcut_reason,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            gateway_pid: self.gateway.as_ref().map(|gateway| gateway.process.pid),
            transport: self.choice.kind.as_str().to_owned(),
            transport_reason: self.choice.reason.clone(),
            listen: self.listeners.http_address.to_string(),
            admin: self.listeners.admin_address.to_string(),
            waiting_for: self.what_is_missing(),
        }
    }

    /// What keeps the node from being ready.
    fn what_is_missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.mode == Mode::Stopping {
            missing.push("nothing: the node is stopping".to_owned());
        }
        if self.gateway_stage() != Some(GatewayStage::Serving) {
            missing.push("the gateway".to_owned());
        }
        let current = self.functions.values().filter(|function| function.role == Role::Current);
        let without = current.filter(|function| self.ready_instances(function) == 0);
        missing.extend(without.map(|function| match &function.failure {
            Some(failure) => format!("function {}: {failure}", function.name()),
            None => match self.why_unready(function) {
                Some(why) => format!("function {}: {why}", function.name()),
                None => format!("function {}", function.name()),
            },
        }));
        missing
    }

    /// Tells the gateway whether the node is ready, if that has changed.
    pub(super) fn tell_readiness(&mut self) {
        if self.mode == Mode::TearingDown {
            return;
        }
        let waiting_for = self.what_is_missing();
        if waiting_for == self.waiting_for {
            return;
        }
        if self.gateway_stage() >= Some(GatewayStage::Greeted) {
            self.tell_gateway(ToGateway::Readiness { waiting_for: waiting_for.clone() }, Vec::new());
            self.waiting_for = waiting_for;
        }
    }

    fn objects(&self, filter: &ObjectFilter) -> Vec<admin::Object> {
        let wanted = |kind, name: &QualifiedName| filter.admits(kind, name);
        let functions = self.desired.functions().filter(|function| wanted(Kind::Function, &function.qualified_name()));
        let functions = functions.map(|function| {
            let name = function.qualified_name();
            object(Kind::Function, &name, serde_json::to_value(&**function), self.function_status(&name))
        });
        let chains = self.desired.chains().filter(|chain| wanted(Kind::Chain, &chain.qualified_name()));
        let chains = chains.map(|chain| {
            let name = chain.qualified_name();
            object(Kind::Chain, &name, serde_json::to_value(&**chain), self.chain_status(chain))
        });
        functions.chain(chains).collect()
    }

    fn function_status(&self, name: &QualifiedName) -> Status {
        let is_current = |function: &&Function| function.role == Role::Current && function.name() == *name;
        let versions: Vec<_> = self.functions.values().filter(is_current).collect();
        let ready = versions.iter().map(|function| self.ready_instances(function)).sum();
        let wanted = versions.iter().map(|function| function.wanted()).sum();
        // In each domain where it runs, one that is ready is enough for requests to be served.
        let failed = versions.iter().find(|function| self.ready_instances(function) == 0);
        Status {
            ready: failed.is_none() && !versions.is_empty(),
            message: match failed {
                Some(Function { failure: Some(failure), .. }) => failure.clone(),
                Some(function) => self.why_unready(function).unwrap_or("no instance is ready yet").to_owned(),
                None => versions
                    .iter()
                    .find_map(|function| function.start_problem.as_ref())
                    .map_or_else(String::new, |why| {
                        format!("instances execute the command, because they cannot be forked: {why}")
                    }),
            },
            ready_instances: ready,
            wanted_instances: wanted,
            restarts: self.restarts.get(name).copied().unwrap_or_default(),
            routes: Vec::new(),
        }
    }

    /// Why an instance of a function is not ready, in the gateway's words.
    fn why_unready(&self, function: &Function) -> Option<&str> {
        function.instances().find_map(|id| self.instances.get(&id)?.unready.as_deref())
    }

    fn chain_status(&self, chain: &manifest::Chain) -> Status {
        let live = self.chains.get(&chain.qualified_name()).and_then(|id| self.routes.get(id));
        let functions = live.map(|live| live.route.functions()).unwrap_or_default();
        let functions = functions.iter().filter_map(|id| self.functions.get(id));
        let missing: Vec<_> = functions
            .filter(|function| self.ready_instances(function) == 0)
            .map(|function| function.name().to_string())
            .collect();
        Status {
            ready: missing.is_empty() && live.is_some(),
            message: match missing.as_slice() {
                [] => String::new(),
                names => format!("no instance is ready of: {}", names.join(", ")),
            },
            routes: route::addresses(chain),
            ..Status::default()
        }
    }

    fn list_instances(&self, filter: &ObjectFilter) -> Vec<admin::Instance> {
        let wanted = self.instances.values().filter(|instance| filter.admits(Kind::Function, &instance.name));
        wanted
            .map(|instance| admin::Instance {
                id: instance.id.0,
                namespace: instance.name.namespace.to_string(),
                function: instance.name.name.to_string(),
                pid: instance.process.pid,
                state: self.state_of(instance).to_owned(),
                origin: instance.origin.as_str().to_owned(),
                age_seconds: Instant::now().saturating_duration_since(instance.started).as_secs(),
            })
            .collect()
    }

    /// What people are told of an instance's stage.
    pub(super) fn state_of(&self, instance: &Instance) -> &'static str {
        match instance.stage {
            Stage::Ready if instance.unready.is_some() => "unready",
            Stage::Ready if self.is_reached(instance.id) => "ready",
            Stage::Starting | Stage::Joining | Stage::Ready => "starting",
            Stage::Unpublishing | Stage::Stopping | Stage::Ending => "draining",
        }
    }

    /// What came to each function: by the gateway's count for those that serve HTTP by themselves, by the kernel's or
    /// their own for the others.
    fn measure_functions(&self, metrics: &mut Metrics, servers: &[(FunctionId, Figures)]) {
        let now_ns = ramet_dataplane::clock::now_ns();
        for function in self.functions.values() {
            let name = function.name().to_string();
            let by_gateway = servers.iter().find(|(id, _)| *id == function.id).map(|(_, figures)| *figures);
            let by_data_plane = || {
                let flow = self.plane.flow(function.id)?;
                let spent = Duration::from_nanos(flow.spent_ns(now_ns));
                // What waits in a lane is held already, though its receiver has yet to count it.
                let held = function.instances().map(|id| u64::from(self.held_by(id, function.domain))).sum();
                Some(Figures { done: flow.left, held, spent, ..Figures::default() })
            };
            if let Some(Figures { asked, answered, .. }) = by_gateway {
                // Both are sends of one message each, and nothing else is an edge to or from it.
                let one_each = |count| EdgeCount { descriptors: count, batches: count };
                metrics.edge(None, Some(name.clone()), one_each(asked));
                metrics.edge(Some(name.clone()), None, one_each(answered));
            }
            if let Some(figures) = by_gateway.or_else(by_data_plane) {
                let capacity = function.instances().count() as u64 * u64::from(function.manifest.spec.concurrency);
                metrics.flow(name, figures, capacity);
            }
        }
    }

    /// The supervisor's part of `/metrics`.
    pub(super) fn metrics(&self, servers: &[(FunctionId, Figures)]) -> String {
        let mut metrics = Metrics::default();
        for function in self.desired.functions() {
            let name = function.qualified_name();
            let of_it = self.instances.values().filter(|instance| instance.name == name);
            let count = |state: &str| of_it.clone().filter(|instance| self.state_of(instance) == state).count();
            let status = self.function_status(&name);
            metrics.function(&FunctionFigures {
                starting: count("starting"),
                ready: count("ready"),
                draining: count("draining"),
                wanted: status.wanted_instances,
                restarts: status.restarts,
                name,
            });
        }
        metrics.refusals(&self.plane.refusals());
        let name = |id| self.functions.get(&id).map(|function| function.name().to_string());
        for (edge, count) in self.plane.edge_counts() {
            metrics.edge(name(edge.from), name(edge.to), count);
        }
        self.measure_functions(&mut metrics, servers);
        for (function, count) in self.shortcut.counts() {
            if let Some(name) = name(function) {
                metrics.shortcut(name, count);
            }
        }
        metrics.text(self.choice.kind, self.epoch, &self.starts)
    }
}

fn object(
    kind: Kind,
    name: &QualifiedName,
    manifest: serde_json::Result<serde_json::Value>,
    status: Status,
) -> admin::Object {
    admin::Object {
        kind: kind.as_str().to_owned(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        manifest: manifest.unwrap_or_default(),
        status,
    }
}
