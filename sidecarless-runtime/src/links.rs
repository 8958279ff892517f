//! Which lanes there are between whom, and how far the making of each has come.
//!
//! A lane is useful only when both ends have it, and harmful when the sender has it first: what is sent then has no
//! reader. So the receiver is told first, and the sender once the receiver has it. A lane is four descriptors until
//! both are told, and a large node has tens of thousands, so few are made at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ramet_common::InstanceId;
use ramet_dataplane::endpoint::LinkEnd;

/// How many lanes are made at a time.
const MAKING_MAX: usize = 256;

/// A lane, by its two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) from: InstanceId,
    pub(crate) to: InstanceId,
}

/// The message that one end of a lane was told in: who was told ([`InstanceId::NONE`] for the gateway), and its number.
pub(crate) type Told = (InstanceId, u64);

/// How far a lane is.
///
/// Wanted → Offered when the receiver is told → Given when it has applied that and the sender is told → Open when that
/// has applied it → Closing when the sender is told to use it no more → Closed when it has applied that. Gone with
/// either end.
#[derive(Debug)]
enum LinkState {
    Wanted,
    Offered { told: Told, sender_end: LinkEnd },
    Given { told: Told },
    Open,
    Closing { told: Told },
    Closed,
}

/// What an answer leads to.
#[derive(Debug)]
pub(crate) enum Step {
    /// The receiver has its end: the sender is to be given this one.
    Give(LinkId, LinkEnd),
    /// Both ends have the lane.
    Opened(LinkId),
    /// The sender does not use it any more.
    Closed(LinkId),
}

/// All lanes.
#[derive(Debug, Default)]
pub(crate) struct LinkTable {
    links: BTreeMap<LinkId, LinkState>,
    /// The same by receiver.
    backward: BTreeSet<(InstanceId, InstanceId)>,
    /// Those that nobody is told of yet, in order; some may be gone.
    wanted: VecDeque<LinkId>,
    /// Answers that are awaited.
    awaited: BTreeMap<Told, LinkId>,
    /// How many lanes hold descriptors here.
    making: usize,
    /// How many lanes of each sender, and of each receiver, are not yet open.
    unlaid: BTreeMap<InstanceId, Unlaid>,
}

/// Lanes of a member that somebody has yet to answer for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unlaid {
    from: usize,
    to: usize,
    closing_to: usize,
}

impl LinkTable {
    pub(crate) fn contains(&self, link: LinkId) -> bool {
        self.links.contains_key(&link)
    }

    /// Notes that a lane is to be made.
    pub(crate) fn want(&mut self, link: LinkId) {
        if !self.contains(link) {
            self.set(link, LinkState::Wanted);
            self.wanted.push_back(link);
        }
    }

    /// The next lane to be made, if it is time for one.
    pub(crate) fn next_wanted(&mut self) -> Option<LinkId> {
        while self.making < MAKING_MAX {
            let link = self.wanted.pop_front()?;
            if matches!(self.links.get(&link), Some(LinkState::Wanted)) {
                return Some(link);
            }
        }
        None
    }

    /// The receiver was told.
    pub(crate) fn offered(&mut self, link: LinkId, told: Told, sender_end: LinkEnd) {
        self.set(link, LinkState::Offered { told, sender_end });
    }

    /// The sender was told.
    pub(crate) fn given(&mut self, link: LinkId, told: Told) {
        self.set(link, LinkState::Given { told });
    }

    /// Whether the sender knows of a lane that is not closed.
    pub(crate) fn is_in_use(&self, link: LinkId) -> bool {
        matches!(self.links.get(&link), Some(LinkState::Given { .. } | LinkState::Open))
    }

    /// The sender was told to use a lane no more.
    pub(crate) fn closing(&mut self, link: LinkId, told: Told) {
        self.set(link, LinkState::Closing { told });
    }

    /// Somebody has applied a message: what that means for a lane, if it was about one.
    pub(crate) fn applied(&mut self, told: Told) -> Option<Step> {
        let link = self.awaited.remove(&told)?;
        match self.take(link)? {
            LinkState::Offered { sender_end, .. } => Some(Step::Give(link, sender_end)),
            LinkState::Given { .. } => {
                self.set(link, LinkState::Open);
                Some(Step::Opened(link))
            }
            LinkState::Closing { .. } => {
                self.set(link, LinkState::Closed);
                Some(Step::Closed(link))
            }
            state @ (LinkState::Wanted | LinkState::Open | LinkState::Closed) => {
                self.set(link, state);
                None
            }
        }
    }

    /// Whether every lane on which a member sends is open.
    pub(crate) fn are_laid_from(&self, member: InstanceId) -> bool {
        self.unlaid.get(&member).is_none_or(|unlaid| unlaid.from == 0)
    }

    /// Whether every lane on which a member receives is open.
    pub(crate) fn are_laid_to(&self, member: InstanceId) -> bool {
        self.unlaid.get(&member).is_none_or(|unlaid| unlaid.to == 0)
    }

    /// Whether every sender has stopped using its lane to a member.
    pub(crate) fn are_closed_to(&self, member: InstanceId) -> bool {
        self.unlaid.get(&member).is_none_or(|unlaid| unlaid.closing_to == 0)
    }

    pub(crate) fn remove(&mut self, link: LinkId) {
        self.take(link);
    }

    /// Forgets every lane of a member that is gone, and returns who was at the other ends, each once.
    pub(crate) fn remove_member(&mut self, member: InstanceId) -> BTreeSet<InstanceId> {
        let links: Vec<_> = self.of_sender(member).chain(self.of_receiver(member)).collect();
        let mut peers = BTreeSet::new();
        for link in links {
            self.take(link);
            peers.extend([link.from, link.to]);
        }
        peers.remove(&member);
        peers
    }

    /// The lanes on which `from` sends.
    fn of_sender(&self, from: InstanceId) -> impl Iterator<Item = LinkId> {
        let range = LinkId { from, to: InstanceId(0) }..=LinkId { from, to: InstanceId(u32::MAX) };
        self.links.range(range).map(|(link, _)| *link)
    }

    /// The lanes on which `to` receives.
    pub(crate) fn of_receiver(&self, to: InstanceId) -> impl Iterator<Item = LinkId> {
        let range = (to, InstanceId(0))..=(to, InstanceId(u32::MAX));
        self.backward.range(range).map(|&(to, from)| LinkId { from, to })
    }

    fn set(&mut self, link: LinkId, state: LinkState) {
        self.take(link);
        self.count(link, &state, usize::wrapping_add);
        if let LinkState::Offered { told, .. } | LinkState::Given { told } | LinkState::Closing { told } = &state {
            self.awaited.insert(*told, link);
        }
        self.backward.insert((link.to, link.from));
        self.links.insert(link, state);
    }

    fn take(&mut self, link: LinkId) -> Option<LinkState> {
        let state = self.links.remove(&link)?;
        self.backward.remove(&(link.to, link.from));
        self.count(link, &state, usize::wrapping_sub);
        if let LinkState::Offered { told, .. } | LinkState::Given { told } | LinkState::Closing { told } = &state {
            self.awaited.remove(told);
        }
        Some(state)
    }

    /// Adds a lane to the counts, or takes it from them; what is taken was added before.
    fn count(&mut self, link: LinkId, state: &LinkState, change: fn(usize, usize) -> usize) {
        match state {
            LinkState::Wanted | LinkState::Offered { .. } | LinkState::Given { .. } => {
                let from = &mut self.unlaid.entry(link.from).or_default().from;
                *from = change(*from, 1);
                let to = &mut self.unlaid.entry(link.to).or_default().to;
                *to = change(*to, 1);
            }
            LinkState::Closing { .. } => {
                let closing = &mut self.unlaid.entry(link.to).or_default().closing_to;
                *closing = change(*closing, 1);
            }
            LinkState::Open | LinkState::Closed => {}
        }
        if matches!(state, LinkState::Offered { .. } | LinkState::Given { .. }) {
            self.making = change(self.making, 1);
        }
        for member in [link.from, link.to] {
            if self.unlaid.get(&member).is_some_and(|unlaid| *unlaid == Unlaid::default()) {
                self.unlaid.remove(&member);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(from: u32, to: u32) -> LinkId {
        LinkId { from: InstanceId(from), to: InstanceId(to) }
    }

    fn told(whom: u32, sequence: u64) -> Told {
        (InstanceId(whom), sequence)
    }

    #[test]
    fn a_lane_goes_from_receiver_to_sender() {
        let mut table = LinkTable::default();
        table.want(link(1, 2));
        assert_eq!(table.next_wanted(), Some(link(1, 2)));
        table.offered(link(1, 2), told(2, 5), LinkEnd(Vec::new()));
        assert!(table.applied(told(2, 4)).is_none(), "another message");
        assert!(matches!(table.applied(told(2, 5)), Some(Step::Give(..))));
        table.given(link(1, 2), told(1, 9));
        assert!(!table.are_laid_from(InstanceId(1)) && !table.are_laid_to(InstanceId(2)));
        assert!(table.are_laid_from(InstanceId(2)), "nothing is sent the other way");
        assert!(matches!(table.applied(told(1, 9)), Some(Step::Opened(_))));
        assert!(table.are_laid_from(InstanceId(1)) && table.is_in_use(link(1, 2)));
        table.closing(link(1, 2), told(1, 10));
        assert!(!table.are_closed_to(InstanceId(2)));
        assert!(matches!(table.applied(told(1, 10)), Some(Step::Closed(_))));
        assert!(table.are_closed_to(InstanceId(2)) && !table.is_in_use(link(1, 2)));
        assert!(table.awaited.is_empty() && table.unlaid.is_empty() && table.making == 0);
    }

    #[test]
    fn a_member_takes_all_its_lanes_along() {
        let mut table = LinkTable::default();
        for link in [link(1, 2), link(2, 1), link(3, 1), link(1, 1), link(2, 3)] {
            table.want(link);
        }
        table.offered(link(1, 2), told(2, 1), LinkEnd(Vec::new()));
        let peers: Vec<_> = table.remove_member(InstanceId(1)).into_iter().collect();
        assert_eq!(peers, [InstanceId(2), InstanceId(3)]);
        assert_eq!(table.next_wanted(), Some(link(2, 3)));
        assert_eq!(table.next_wanted(), None);
        assert_eq!((table.making, table.of_receiver(InstanceId(1)).count()), (0, 0));
        assert!(table.applied(told(2, 1)).is_none(), "a late answer is about nothing");
    }

    #[test]
    fn few_lanes_are_made_at_a_time() {
        let mut table = LinkTable::default();
        (1..2 * MAKING_MAX as u32).for_each(|to| table.want(link(0, to)));
        let mut begun = Vec::new();
        while let Some(next) = table.next_wanted() {
            table.offered(next, told(next.to.0, 1), LinkEnd(Vec::new()));
            begun.push(next);
        }
        assert_eq!(begun.len(), MAKING_MAX);
        table.remove(begun[0]);
        assert!(table.next_wanted().is_some());
    }
}
