//! The lane transports: the supervisor makes the lanes, and reads what each member counts in a meter of its own.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};

use ramet_common::map::{Edge, EdgeCount, FunctionFlow};
use ramet_common::{FunctionId, InstanceId};
use ramet_dataplane::endpoint::LinkEnd;
use ramet_dataplane::transport::{ring, socket};
use ramet_dataplane::{Meter, MeterReader, TransportKind, clock};

use super::{DataPlaneError, Member};

/// Which lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneKind {
    Ring,
    Socket,
}

impl LaneKind {
    /// Makes a lane: the sender's end and the receiver's.
    pub(crate) fn link(self) -> Result<(LinkEnd, LinkEnd), DataPlaneError> {
        Ok(match self {
            Self::Ring => ring::link()?,
            Self::Socket => socket::link()?,
        })
    }

    pub(super) fn transport(self) -> TransportKind {
        match self {
            Self::Ring => TransportKind::Ring,
            Self::Socket => TransportKind::Socket,
        }
    }
}

/// What is counted of the members of a node without SPROXY.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(super) kind: LaneKind,
    meters: BTreeMap<InstanceId, (FunctionId, MeterReader)>,
    /// What was counted of members that have left.
    left: HashMap<FunctionId, FunctionFlow>,
    edges: HashMap<Edge, Counts>,
}

/// What is known of a permitted edge beside the meters of its living senders.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// What the living had counted when the edge was permitted: another one's, whose ids it has.
    before: EdgeCount,
    /// What those counted that have left since.
    left: EdgeCount,
}

impl Lanes {
    pub(crate) fn new(kind: LaneKind) -> Self {
        Self { kind, meters: BTreeMap::new(), left: HashMap::new(), edges: HashMap::new() }
    }

    /// Makes the meter of a member.
    pub(super) fn join(&mut self, member: Member) -> Result<Vec<OwnedFd>, DataPlaneError> {
        let failed = |error| DataPlaneError::Descriptor(std::io::Error::other(error));
        let meter = Meter::create().map_err(failed)?;
        let reader = MeterReader::map(meter.as_fd()).map_err(failed)?;
        self.meters.insert(member.instance, (member.function, reader));
        Ok(vec![meter])
    }

    /// Keeps what a member counted. What it held will never be counted as done with, so it is now.
    pub(super) fn leave(&mut self, instance: InstanceId) {
        let Some((function, meter)) = self.meters.remove(&instance) else { return };
        let flow = meter.flow();
        let held = flow.held();
        let lost = FunctionFlow { left: held, left_ns: held.wrapping_mul(clock::now_ns()), ..FunctionFlow::default() };
        let sum = self.left.entry(function).or_default();
        *sum = sum.plus(flow).plus(lost);
        for (edge, counts) in self.edges.iter_mut().filter(|(edge, _)| edge.from == function) {
            counts.left = plus(counts.left, meter.sent(edge.to));
        }
    }

    pub(super) fn allow(&mut self, edge: Edge) {
        let before = self.sent(edge);
        self.edges.entry(edge).or_insert(Counts { before, left: EdgeCount::default() });
    }

    pub(super) fn deny(&mut self, edge: Edge) {
        self.edges.remove(&edge);
    }

    pub(super) fn flow(&self, function: FunctionId) -> FunctionFlow {
        let living = self.meters.values().filter(|(of, _)| *of == function).map(|(_, meter)| meter.flow());
        living.fold(self.left.get(&function).copied().unwrap_or_default(), FunctionFlow::plus)
    }

    pub(super) fn forget_flow(&mut self, function: FunctionId) {
        self.left.remove(&function);
    }

    pub(super) fn edge_counts(&self) -> Vec<(Edge, EdgeCount)> {
        let total = |(edge, counts): (&Edge, &Counts)| {
            let all = plus(self.sent(*edge), counts.left);
            let since = EdgeCount {
                descriptors: all.descriptors.wrapping_sub(counts.before.descriptors),
                batches: all.batches.wrapping_sub(counts.before.batches),
            };
            (*edge, since)
        };
        self.edges.iter().map(total).collect()
    }

    /// What living members have counted of an edge.
    fn sent(&self, edge: Edge) -> EdgeCount {
        let senders = self.meters.values().filter(|(function, _)| *function == edge.from);
        senders.map(|(_, meter)| meter.sent(edge.to)).fold(EdgeCount::default(), plus)
    }
}

fn plus(one: EdgeCount, other: EdgeCount) -> EdgeCount {
    EdgeCount {
        descriptors: one.descriptors.wrapping_add(other.descriptors),
        batches: one.batches.wrapping_add(other.batches),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_common::DomainId;

    const EDGE: Edge = Edge { from: FunctionId(1), to: FunctionId(2) };

    fn join(lanes: &mut Lanes, index: u16, function: u32) -> (InstanceId, Meter) {
        let instance = InstanceId::new(index, 1);
        let member = Member { instance, function: FunctionId(function), domain: DomainId(1), capacity: 1 };
        let fds = lanes.join(member).expect("a meter");
        (instance, Meter::map(fds[0].as_fd()).expect("mapped"))
    }

    #[test]
    fn what_those_counted_that_have_left_is_kept_and_what_they_held_is_done_with() {
        let mut lanes = Lanes::new(LaneKind::Ring);
        lanes.allow(EDGE);
        let (one, of_one) = join(&mut lanes, 1, 1);
        let (_, of_other) = join(&mut lanes, 2, 1);
        let ((mut came_to_one, mut sent_by_one), (_, mut sent_by_other)) = (of_one.split(), of_other.split());
        came_to_one.count_arrivals(3, 300);
        sent_by_one.count_departures(1, 150);
        sent_by_one.count_sent(FunctionId(2), 5);
        sent_by_other.count_sent(FunctionId(2), 7);
        assert_eq!(lanes.flow(FunctionId(1)).held(), 2);
        lanes.leave(one);
        lanes.leave(one);
        let flow = lanes.flow(FunctionId(1));
        assert_eq!((flow.arrived, flow.left, flow.held()), (3, 3, 0));
        assert_eq!(lanes.edge_counts(), [(EDGE, EdgeCount { descriptors: 12, batches: 2 })]);
        lanes.forget_flow(FunctionId(1));
        assert_eq!(lanes.flow(FunctionId(1)), FunctionFlow::default());
    }

    #[test]
    fn a_new_edge_has_nothing_of_an_old_one_with_its_ids_and_only_permitted_ones_are_known() {
        let mut lanes = Lanes::new(LaneKind::Ring);
        let (one, meter) = join(&mut lanes, 1, 1);
        let (_, mut meter) = meter.split();
        lanes.allow(EDGE);
        meter.count_sent(FunctionId(2), 5);
        meter.count_sent(FunctionId(3), 5);
        lanes.deny(EDGE);
        assert_eq!(lanes.edge_counts(), []);
        lanes.allow(EDGE);
        assert_eq!(lanes.edge_counts(), [(EDGE, EdgeCount::default())]);
        meter.count_sent(FunctionId(2), 2);
        lanes.leave(one);
        assert_eq!(lanes.edge_counts(), [(EDGE, EdgeCount { descriptors: 2, batches: 1 })]);
    }
}
