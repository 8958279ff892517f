//! Which lanes there are between whom, and how far the making of each has come.
//!
//! A lane is useful only when both ends have it, and harmful when the sender has it first: what is sent then has no
//! reader. So the receiver is told first, and the sender once the receiver has it *and* takes requests.

use std::collections::{BTreeMap, BTreeSet};

use ramet_common::InstanceId;
use ramet_dataplane::endpoint::LinkEnd;

/// A lane, by its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) from: InstanceId,
    pub(crate) to: InstanceId,
}

/// How far a lane is.
///
/// Offered → Accepted when the receiver has applied it, → Given when the receiver is published and the sender was told,
/// → Open when the sender has applied it, → Closed when the sender was told not to use it any more. Gone with either
/// end.
#[derive(Debug)]
pub(crate) enum LinkState {
    /// The receiver was told in its message of this number.
    Offered { sequence: u64, sender_end: LinkEnd },
    /// The receiver has it.
    Accepted { sender_end: LinkEnd },
    /// The sender was told in its message of this number.
    Given { sequence: u64 },
    /// Both have it.
    Open,
    /// The sender was told to forget it in its message of this number.
    Closed { sequence: u64 },
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    links: BTreeMap<LinkId, LinkState>,
    /// The same by receiver.
    backward: BTreeSet<(InstanceId, InstanceId)>,
    /// Those on which something is still to be done.
    unfinished: BTreeSet<LinkId>,
}

impl LinkTable {
    pub(crate) fn contains(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    pub(crate) fn state(&self, link: LinkId) -> Option<&LinkState> {
        self.links.get(&link)
    }

    /// Notes the new state of a lane, which may be a new one.
    pub(crate) fn set(&mut self, link: LinkId, state: LinkState) {
        match state {
            LinkState::Open | LinkState::Closed { .. } => self.unfinished.remove(&link),
            LinkState::Offered { .. } | LinkState::Accepted { .. } | LinkState::Given { .. } => {
                self.unfinished.insert(link)
            }
        };
        self.backward.insert((link.to, link.from));
        self.links.insert(link, state);
    }

    /// Takes the end that the sender is to have, if the receiver has its own.
    pub(crate) fn take_accepted(&mut self, link: LinkId) -> Option<LinkEnd> {
        if !matches!(self.links.get(&link), Some(LinkState::Accepted { .. })) {
            return None;
        }
        match self.remove(link) {
            Some(LinkState::Accepted { sender_end }) => Some(sender_end),
            _ => None,
        }
    }

    /// A receiver has applied what it was told: the lane is accepted.
    pub(crate) fn accept(&mut self, link: LinkId) {
        if let Some(LinkState::Offered { sender_end, .. }) = self.remove(link) {
            self.set(link, LinkState::Accepted { sender_end });
        }
    }

    pub(crate) fn remove(&mut self, link: LinkId) -> Option<LinkState> {
        self.backward.remove(&(link.to, link.from));
        self.unfinished.remove(&link);
        self.links.remove(&link)
    }

    /// Forgets every lane of a member that is gone, and returns who was at the other ends, each once.
    pub(crate) fn remove_member(&mut self, member: InstanceId) -> BTreeSet<InstanceId> {
        let links: Vec<_> = self.of_sender(member).chain(self.of_receiver(member)).collect();
        let mut peers = BTreeSet::new();
        for link in links {
            self.remove(link);
            peers.extend([link.from, link.to]);
        }
        peers.remove(&member);
        peers
    }

    /// The lanes on which `from` sends.
    pub(crate) fn of_sender(&self, from: InstanceId) -> impl Iterator<Item = LinkId> {
        let range = LinkId { from, to: InstanceId(0) }..=LinkId { from, to: InstanceId(u32::MAX) };
        self.links.range(range).map(|(link, _)| *link)
    }

    /// The lanes on which `to` receives.
    pub(crate) fn of_receiver(&self, to: InstanceId) -> impl Iterator<Item = LinkId> {
        let range = (to, InstanceId(0))..=(to, InstanceId(u32::MAX));
        self.backward.range(range).map(|&(to, from)| LinkId { from, to })
    }

    /// Lanes that wait for somebody's answer or for the receiver to be published.
    pub(crate) fn unfinished(&self) -> Vec<LinkId> {
        self.unfinished.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: u32, to: u32) -> LinkId {
        LinkId { from: InstanceId(from), to: InstanceId(to) }
    }

    fn offered(sequence: u64) -> LinkState {
        LinkState::Offered { sequence, sender_end: LinkEnd(Vec::new()) }
    }

    #[test]
    fn a_lane_goes_from_receiver_to_sender() {
        let mut table = LinkTable::default();
        table.set(link(1, 2), offered(5));
        assert!(table.take_accepted(link(1, 2)).is_none(), "the receiver does not have it yet");
        table.accept(link(1, 2));
        assert_eq!(table.unfinished(), [link(1, 2)]);
        assert!(table.take_accepted(link(1, 2)).is_some());
        table.set(link(1, 2), LinkState::Open);
        assert!(table.unfinished().is_empty() && table.contains(link(1, 2)));
    }

    #[test]
    fn a_member_takes_all_its_lanes_along() {
        let mut table = LinkTable::default();
        for link in [link(1, 2), link(2, 1), link(3, 1), link(1, 1), link(2, 3)] {
            table.set(link, offered(1));
        }
        assert_eq!(table.of_sender(InstanceId(1)).count(), 2);
        assert_eq!(table.of_receiver(InstanceId(1)).count(), 3);
        let peers: Vec<_> = table.remove_member(InstanceId(1)).into_iter().collect();
        assert_eq!(peers, [InstanceId(2), InstanceId(3)]);
        assert_eq!(table.unfinished(), [link(2, 3)]);
        assert_eq!(table.of_receiver(InstanceId(1)).count(), 0);
    }
}
