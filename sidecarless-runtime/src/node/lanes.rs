//! Laying lanes between instances, in the transports that have them.

use ramet_common::map::Edge;
use ramet_common::{FunctionId, InstanceId};
use ramet_control::gateway::ToGateway;
use ramet_control::instance::{Direction, Link, ToInstance};
use ramet_dataplane::endpoint::LinkEnd;

use super::{Node, UNSENT};
use crate::dataplane::DataPlaneError;
use crate::instance::Stage;
use crate::links::{LinkId, LinkState};

impl Node {
    /// Offers every lane that an instance which joins needs.
    pub(super) fn offer_lanes_of(&mut self, id: InstanceId) -> Result<(), DataPlaneError> {
        let Some(function) = self.instances.get(&id).map(|instance| instance.function) else { return Ok(()) };
        if self.plane.lanes().is_none() {
            return Ok(());
        }
        let edges: Vec<_> = self.edges.iter().filter(|e| e.from == function || e.to == function).copied().collect();
        for edge in edges {
            if edge.from == function {
                for to in self.members(edge.to) {
                    self.offer_lane(LinkId { from: id, to })?;
                }
            }
            if edge.to == function {
                for from in self.members(edge.from) {
                    self.offer_lane(LinkId { from, to: id })?;
                }
            }
        }
        Ok(())
    }

    /// Offers the lanes of an edge that is new.
    pub(super) fn offer_lanes_for(&mut self, edge: Edge) -> Result<(), DataPlaneError> {
        if self.plane.lanes().is_none() {
            return Ok(());
        }
        for from in self.members(edge.from) {
            for to in self.members(edge.to) {
                self.offer_lane(LinkId { from, to })?;
            }
        }
        Ok(())
    }

    /// Tells the ends of the lanes of an edge that is gone to forget each other.
    pub(super) fn close_lanes_for(&mut self, edge: Edge) {
        let back = Edge { from: edge.to, to: edge.from };
        for from in self.members(edge.from) {
            for to in self.members(edge.to) {
                let link = LinkId { from, to };
                if self.links.contains(link) {
                    self.close_lane(link);
                    self.links.remove(link);
                    if !self.edges.contains(&back) {
                        self.tell_unlink(to, from);
                    }
                }
            }
        }
    }

    /// Tells the receiver of its end, if both ends are there and want it.
    fn offer_lane(&mut self, link: LinkId) -> Result<(), DataPlaneError> {
        let sends = self.is_worker(link.from) || self.stage(link.from).is_some_and(Stage::sends_messages);
        let takes = self.is_worker(link.to) || self.stage(link.to).is_some_and(Stage::takes_messages);
        let Some(kind) = self.plane.lanes() else { return Ok(()) };
        if !sends || !takes || self.links.contains(link) {
            return Ok(());
        }
        let (sender_end, receiver_end) = kind.link()?;
        let sequence = self.tell_link(link.to, link.from, Direction::Incoming, receiver_end);
        self.links.set(link, LinkState::Offered { sequence, sender_end });
        Ok(())
    }

    /// Takes every lane as far as it can go now. True: something has changed.
    pub(super) fn advance_lanes(&mut self) -> bool {
        let mut changed = false;
        for link in self.links.unfinished() {
            changed |= match self.links.state(link) {
                Some(LinkState::Offered { sequence, .. }) if self.has_applied(link.to, *sequence) => {
                    self.links.accept(link);
                    true
                }
                Some(LinkState::Accepted { .. }) if self.is_published(link.to) => {
                    self.give_lane(link);
                    true
                }
                Some(LinkState::Given { sequence }) if self.has_applied(link.from, *sequence) => {
                    self.links.set(link, LinkState::Open);
                    true
                }
                _ => false,
            };
        }
        changed
    }

    fn give_lane(&mut self, link: LinkId) {
        let capacity = self.capacity_of(link.to);
        if let Some(end) = self.links.take_accepted(link) {
            let sequence = self.tell_link(link.from, link.to, Direction::Outgoing { capacity }, end);
            self.links.set(link, LinkState::Given { sequence });
        }
    }

    /// Whether every lane to an instance has its reader, and every lane on which it may have to send its writer.
    pub(super) fn lanes_are_laid(&self, id: InstanceId) -> bool {
        let has_reader = |link| !matches!(self.links.state(link), Some(LinkState::Offered { .. }));
        let has_writer = |link: LinkId| {
            !self.is_published(link.to)
                || matches!(self.links.state(link), Some(LinkState::Open | LinkState::Closed { .. }))
        };
        self.links.of_receiver(id).all(has_reader) && self.links.of_sender(id).all(has_writer)
    }

    /// Whether every sender has its lane to an instance.
    pub(super) fn is_reached(&self, id: InstanceId) -> bool {
        let open = |link| matches!(self.links.state(link), Some(LinkState::Open | LinkState::Closed { .. }));
        self.links.of_receiver(id).all(open)
    }

    /// Whether nothing more is to be done on any lane between members of these functions and published ones.
    pub(super) fn lanes_are_settled(&self, functions: &[FunctionId]) -> bool {
        let concerned = |link: &LinkId| {
            let ends = [self.function_of(link.from), self.function_of(link.to)];
            ends.iter().flatten().any(|function| functions.contains(function)) && self.is_published(link.to)
        };
        !self.links.unfinished().iter().any(concerned)
    }

    /// Tells every sender to choose an instance no more. It goes on sending, and they go on receiving.
    pub(super) fn close_lanes_to(&mut self, id: InstanceId) {
        let links: Vec<_> = self.links.of_receiver(id).collect();
        for link in links {
            self.close_lane(link);
        }
    }

    fn close_lane(&mut self, link: LinkId) {
        match self.links.state(link) {
            Some(LinkState::Given { .. } | LinkState::Open) => {
                // A lane without capacity and without an end: nothing is to be sent there any more.
                let nothing = Direction::Outgoing { capacity: 0 };
                let sequence = self.tell_link(link.from, link.to, nothing, LinkEnd(Vec::new()));
                self.links.set(link, LinkState::Closed { sequence });
            }
            Some(LinkState::Offered { .. } | LinkState::Accepted { .. }) => drop(self.links.remove(link)),
            Some(LinkState::Closed { .. }) | None => {}
        }
    }

    /// Whether no sender chooses the instance any more.
    pub(super) fn is_unpublished(&self, id: InstanceId) -> bool {
        self.links.of_receiver(id).all(|link| match self.links.state(link) {
            Some(LinkState::Closed { sequence }) => self.has_applied(link.from, *sequence),
            _ => true,
        })
    }

    /// Tells the peers of an instance that is gone to forget it.
    pub(super) fn forget_lanes_of(&mut self, id: InstanceId) {
        let mut is_gateway_told = false;
        for peer in self.links.remove_member(id) {
            if !self.is_worker(peer) {
                self.tell_unlink(peer, id);
            } else if !is_gateway_told {
                is_gateway_told = true;
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

    fn tell_link(&mut self, whom: InstanceId, peer: InstanceId, direction: Direction, end: LinkEnd) -> u64 {
        let Some(function) = self.function_of(peer) else { return UNSENT };
        let link = Link { peer, function, direction };
        match self.worker_index(whom) {
            Some(worker) => self.tell_gateway(ToGateway::Link { worker, link }, end.0),
            None => self.tell(whom, ToInstance::Link(link), end.0),
        }
    }

    /// Whether a member has applied the message of this number. One that is gone is forgotten with its lanes.
    fn has_applied(&self, id: InstanceId, sequence: u64) -> bool {
        if self.is_worker(id) { self.gateway_applied(sequence) } else { self.applied_or_gone(id, sequence) }
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
