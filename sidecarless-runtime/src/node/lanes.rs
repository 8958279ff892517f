//! Laying lanes between instances, in the transports that have them.
//!
//! A lane to an instance is made once the instance is published, for whoever has joined. So an instance that joins gets
//! lanes to all that are published; when those are open it is published itself, and everybody gets lanes to it.

use ramet_common::map::Edge;
use ramet_common::{FunctionId, InstanceId};
use ramet_control::gateway::ToGateway;
use ramet_control::instance::{Direction, Link, ToInstance};
use ramet_dataplane::endpoint::LinkEnd;

use super::{Mode, Node, UNSENT};
use crate::instance::Stage;
use crate::links::{LinkId, Step, Told};

impl Node {
    /// Notes the lanes that an instance needs now: to those that are published, and to it once it is itself.
    pub(super) fn want_lanes_of(&mut self, id: InstanceId) {
        let Some(function) = self.function_of(id) else { return };
        let edges: Vec<_> = self.edges.iter().filter(|e| e.from == function || e.to == function).copied().collect();
        for edge in edges {
            if edge.from == function {
                for to in self.members(edge.to) {
                    self.want_lane(LinkId { from: id, to });
                }
            }
            if edge.to == function {
                for from in self.members(edge.from) {
                    self.want_lane(LinkId { from, to: id });
                }
            }
        }
    }

    /// Notes the lanes that a new edge needs.
    pub(super) fn want_lanes_for(&mut self, edge: Edge) {
        for from in self.members(edge.from) {
            for to in self.members(edge.to) {
                self.want_lane(LinkId { from, to });
            }
        }
    }

    fn want_lane(&mut self, link: LinkId) {
        let sends = self.is_worker(link.from) || self.stage(link.from).is_some_and(Stage::sends_messages);
        if self.plane.lanes().is_some() && sends && self.is_published(link.to) {
            self.links.want(link);
        }
    }

    /// Begins to make as many lanes as may be made now.
    pub(super) fn begin_lanes(&mut self) {
        let Some(kind) = self.plane.lanes() else { return };
        while let Some(link) = self.links.next_wanted() {
            match kind.link() {
                Ok((sender_end, receiver_end)) => {
                    let told = self.tell_link(link.to, link.from, Direction::Incoming, receiver_end);
                    self.links.offered(link, told, sender_end);
                }
                Err(error) => {
                    // Without this lane one of the two is of no use; another instance is tried in its place.
                    self.links.remove(link);
                    let whom = if self.is_worker(link.from) { link.to } else { link.from };
                    self.condemn(whom, &error.to_string());
                }
            }
        }
    }

    /// Somebody has applied a message, which may have been about a lane.
    pub(super) fn advance_lane(&mut self, told: Told) {
        match self.links.applied(told) {
            None => {}
            Some(Step::Give(link, end)) => {
                let capacity = self.capacity_of(link.to);
                let told = self.tell_link(link.from, link.to, Direction::Outgoing { capacity }, end);
                self.links.given(link, told);
            }
            Some(Step::Opened(link)) => {
                self.touched.insert(link.from);
                // The last one makes the receiver ready.
                self.is_readiness_stale |= self.links.are_laid_to(link.to);
            }
            Some(Step::Closed(link)) => drop(self.touched.insert(link.to)),
        }
    }

    /// Whether everything that an instance may have to send to has its lane.
    pub(super) fn lanes_are_laid(&self, id: InstanceId) -> bool {
        self.links.are_laid_from(id)
    }

    /// Whether every sender has its lane to an instance.
    pub(super) fn is_reached(&self, id: InstanceId) -> bool {
        self.links.are_laid_to(id)
    }

    /// Whether the instances of these functions have all their lanes.
    pub(super) fn lanes_are_settled(&self, functions: &[FunctionId]) -> bool {
        let mut members = functions.iter().filter_map(|id| self.functions.get(id)).flat_map(|f| f.instances());
        members.all(|id| self.links.are_laid_from(id) && self.links.are_laid_to(id))
    }

    /// Tells every sender to choose an instance no more. It goes on sending, and they go on receiving.
    pub(super) fn close_lanes_to(&mut self, id: InstanceId) {
        // When the node stops there is nothing to be sent any more, and everybody drains.
        if self.mode != Mode::Running {
            return;
        }
        let links: Vec<_> = self.links.of_receiver(id).collect();
        for link in links {
            self.close_lane(link, Direction::Retiring);
        }
    }

    /// Tells the ends of the lanes of an edge that is gone to forget each other.
    pub(super) fn close_lanes_for(&mut self, edge: Edge) {
        let back = Edge { from: edge.to, to: edge.from };
        for from in self.members(edge.from) {
            for to in self.members(edge.to) {
                let link = LinkId { from, to };
                if self.links.contains(link) {
                    self.close_lane(link, Direction::Closed);
                    self.links.remove(link);
                    if !self.edges.contains(&back) {
                        self.tell_unlink(to, from);
                    }
                }
            }
        }
    }

    fn close_lane(&mut self, link: LinkId, how: Direction) {
        if self.links.is_in_use(link) {
            let told = self.tell_link(link.from, link.to, how, LinkEnd(Vec::new()));
            self.links.closing(link, told);
        } else {
            self.links.remove(link);
        }
    }

    /// Whether no sender chooses the instance any more.
    pub(super) fn is_unpublished(&self, id: InstanceId) -> bool {
        self.links.are_closed_to(id)
    }

    /// Tells the peers of an instance that is gone to forget it.
    pub(super) fn forget_lanes_of(&mut self, id: InstanceId) {
        let mut is_gateway_told = false;
        for peer in self.links.remove_member(id) {
            if self.mode != Mode::Running {
                continue;
            }
            self.touched.insert(peer);
            // One word is for all of the gateway's workers.
            if !(self.is_worker(peer) && std::mem::replace(&mut is_gateway_told, true)) {
                self.tell_unlink(peer, id);
            }
        }
    }

    fn tell_unlink(&mut self, whom: InstanceId, peer: InstanceId) {
        if self.is_worker(whom) {
            self.tell_gateway(ToGateway::Unlink { peer }, Vec::new());
        } else {
            self.tell(whom, ToInstance::Unlink { peer }, Vec::new());
        }
    }

    fn tell_link(&mut self, whom: InstanceId, peer: InstanceId, direction: Direction, end: LinkEnd) -> Told {
        let Some(function) = self.function_of(peer) else { return (whom, UNSENT) };
        let link = Link { peer, function, direction };
        match self.worker_index(whom) {
            Some(worker) => (InstanceId::NONE, self.tell_gateway(ToGateway::Link { worker, link }, end.0)),
            None => (whom, self.tell(whom, ToInstance::Link(link), end.0)),
        }
    }

    fn is_published(&self, id: InstanceId) -> bool {
        self.is_worker(id) || self.stage(id) == Some(Stage::Ready)
    }

    fn is_worker(&self, id: InstanceId) -> bool {
        self.worker_index(id).is_some()
    }

    fn worker_index(&self, id: InstanceId) -> Option<u32> {
        let workers = self.gateway.as_ref().map(|gateway| gateway.workers.as_slice()).unwrap_or_default();
        (0..).zip(workers).find(|(_, worker)| **worker == id).map(|(index, _)| index)
    }

    fn function_of(&self, id: InstanceId) -> Option<FunctionId> {
        if self.is_worker(id) {
            return Some(FunctionId::GATEWAY);
        }
        self.instances.get(&id).map(|instance| instance.function)
    }

    fn capacity_of(&self, id: InstanceId) -> u32 {
        let instance = self.instances.get(&id);
        let function = instance.and_then(|instance| self.functions.get(&instance.function));
        // A gateway worker always has room: what moves to it is the gateway's own.
        function.map_or(u32::MAX, crate::function::Function::capacity)
    }

    /// The instances of a function, or the gateway's workers.
    fn members(&self, function: FunctionId) -> Vec<InstanceId> {
        if function == FunctionId::GATEWAY {
            return self.gateway.as_ref().map(|gateway| gateway.workers.clone()).unwrap_or_default();
        }
        self.functions.get(&function).map(|function| function.instances().collect()).unwrap_or_default()
    }
}
