//! Policy: which function may send to which follows from routes and calls, and from nothing else.

use std::collections::HashSet;

use ramet_common::FunctionId;
use ramet_common::map::Edge;
use ramet_dataplane::Route;
use ramet_dataplane::route::Work;

use super::Node;
use crate::dataplane::DataPlaneError;
use crate::route::Speaks;

/// The hops that a route takes without the gateway.
pub(super) fn of_route(route: &Route) -> HashSet<Edge> {
    let mut edges = HashSet::new();
    for step in &route.steps {
        let runs: Vec<FunctionId> = match &step.work {
            Work::Function(function) => vec![*function],
            Work::Parallel(branches) => branches.iter().map(|branch| branch.function).collect(),
        };
        for to in route.successors(step) {
            edges.extend(runs.iter().map(|&from| Edge { from, to }));
        }
    }
    edges
}

impl Node {
    /// Permits what routes and functions need now, and forbids the rest.
    ///
    /// # Errors
    /// An edge could not be permitted; those that could are.
    pub(super) fn update_edges(&mut self) -> Result<(), DataPlaneError> {
        self.are_edges_stale = false;
        let wanted = self.wanted_edges();
        let gone: Vec<_> = self.edges.difference(&wanted).copied().collect();
        for edge in gone {
            self.edges.remove(&edge);
            self.plane.deny(edge);
            self.close_lanes_for(edge);
        }
        let new: Vec<_> = wanted.difference(&self.edges).copied().collect();
        for edge in new {
            self.plane.allow(edge)?;
            self.edges.insert(edge);
            self.want_lanes_for(edge);
        }
        Ok(())
    }

    fn wanted_edges(&self) -> HashSet<Edge> {
        let mut wanted = HashSet::new();
        for live in self.routes.values() {
            wanted.extend(of_route(&live.route));
        }
        for function in self.functions.values().filter(|function| function.speaks() == Speaks::Descriptors) {
            wanted.extend(Self::gateway_edges(function.id));
            for &(_, callee) in &function.calls {
                // The call goes there, the answer comes back.
                let call = Edge { from: function.id, to: callee };
                wanted.extend([call, Edge { from: callee, to: function.id }]);
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use ramet_common::{DomainId, RouteId};
    use ramet_dataplane::route::{Branch, Next, Step, Target};

    fn step(work: Work, next: Target) -> Step {
        Step { name: String::new(), work, timeout: None, retries: 0, next: Next::To(next) }
    }

    #[test]
    fn only_plain_hops_need_an_edge() {
        let function = |id| Work::Function(FunctionId(id));
        let branch = |id| Branch { name: String::new(), function: FunctionId(id) };
        let steps = vec![
            step(function(1), Target::Step(1)),
            step(function(2), Target::Step(2)),
            step(Work::Parallel(vec![branch(3), branch(4)]), Target::Step(3)),
            step(function(5), Target::Reply),
        ];
        let route = Route {
            id: RouteId(1),
            domain: DomainId(1),
            chain: String::new(),
            steps,
            http: BTreeSet::new(),
            streamed: BTreeSet::new(),
        };
        let edges: Vec<_> = of_route(&route).into_iter().collect();
        assert_eq!(edges, [Edge { from: FunctionId(1), to: FunctionId(2) }], "the gateway runs the branches");
    }
}
