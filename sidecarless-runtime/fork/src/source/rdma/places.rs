//! Which of a seed's memory a device reads, and what is read over the connection.

use std::collections::{BTreeMap, HashMap};

use ramet_rdma::{Piece, Region};
use ramet_sys::Range;

use crate::seeds::PIN_BYTES;
use crate::wire::WireError;

/// What is registered, and what could be.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By where they begin.
    regions: BTreeMap<u64, Region>,
    /// Where pieces can be pinned, by where it begins: where it ends.
    pinnable: BTreeMap<u64, u64>,
    /// The pieces that were asked for. False: the answer has not come.
    asked: HashMap<u64, bool>,
}

/// How a read is done. Places are behind the beginning of what is gathered.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// What a device reads.
    pub(super) pieces: Vec<Piece>,
    /// What is read over the connection, and its places.
    pub(super) over_tcp: Vec<(Range, usize)>,
    /// What should be pinned first.
    pub(super) unasked: Vec<u64>,
    /// Whether something is being pinned for it.
    pub(super) is_waiting: bool,
}

/// How some bytes come.
enum Way {
    Device(Region),
    OverTcp,
    /// Once they are pinned, as the piece that begins there.
    Later(u64),
}

impl Places {
    /// What a seed's host has said.
    pub(super) fn new(regions: &[Region], pinnable: &[(u64, u64)]) -> Result<Self, WireError> {
        let mut places = Self::default();
        for region in regions {
            places.add(*region)?;
        }
        for (start, bytes) in pinnable {
            let end = start.checked_add(*bytes).ok_or(WireError::Senseless("a range"))?;
            places.pinnable.insert(*start, end);
        }
        Ok(places)
    }

    fn add(&mut self, region: Region) -> Result<(), WireError> {
        region.start.checked_add(region.bytes).ok_or(WireError::Senseless("a region"))?;
        self.regions.insert(region.start, region);
        Ok(())
    }

    /// A piece is being pinned.
    pub(super) fn note_asked(&mut self, piece: u64) {
        self.asked.insert(piece, false);
    }

    /// It was, as far as the region goes, or cannot be.
    pub(super) fn note_answer(&mut self, piece: u64, region: Option<Region>) -> Result<(), WireError> {
        match self.asked.get_mut(&piece) {
            Some(is_answered) => *is_answered = true,
            None => return Err(WireError::Senseless("an answer to what was not asked")),
        }
        region.map_or(Ok(()), |region| self.add(region))
    }

    /// How ranges are read, one after the other.
    pub(super) fn plan(&self, ranges: &[Range]) -> Plan {
        let mut plan = Plan::default();
        let mut place = 0;
        for range in ranges {
            let (mut start, end) = (range.start, range.start.saturating_add(range.bytes));
            while start < end {
                let (way, limit) = self.way(start);
                let part = Range::new(start, end.min(limit));
                match way {
                    Way::Device(region) => plan.by_device(region.key, part, place),
                    Way::OverTcp => plan.over_tcp(part, place),
                    Way::Later(piece) => {
                        plan.is_waiting = true;
                        if !self.asked.contains_key(&piece) && !plan.unasked.contains(&piece) {
                            plan.unasked.push(piece);
                        }
                    }
                }
                place += part.bytes as usize;
                start = part.end();
            }
        }
        plan
    }

    /// How the bytes from an address on come, and up to where.
    fn way(&self, start: u64) -> (Way, u64) {
        let next_region = self.regions.range(start + 1..).next().map_or(u64::MAX, |(start, _)| *start);
        if let Some((_, region)) = self.regions.range(..=start).next_back()
            && start < region.start + region.bytes
        {
            return (Way::Device(*region), next_region.min(region.start + region.bytes));
        }
        let next_pinnable = self.pinnable.range(start + 1..).next().map_or(u64::MAX, |(start, _)| *start);
        let next = next_region.min(next_pinnable);
        if let Some((first, end)) = self.pinnable.range(..=start).next_back()
            && start < *end
        {
            let piece = start - (start - first) % PIN_BYTES;
            let limit = end.min(&piece.saturating_add(PIN_BYTES)).min(&next).to_owned();
            // What was answered and is in no region was not pinned.
            let is_answered = self.asked.get(&piece).copied().unwrap_or_default();
            return (if is_answered { Way::OverTcp } else { Way::Later(piece) }, limit);
        }
        (Way::OverTcp, next)
    }
}

impl Plan {
    fn by_device(&mut self, key: u32, part: Range, place: usize) {
        if let Some(last) = self.pieces.last_mut()
            && last.key == key
            && last.from + u64::from(last.bytes) == part.start
            && last.to + last.bytes as usize == place
        {
            last.bytes += part.bytes as u32;
            return;
        }
        self.pieces.push(Piece { from: part.start, key, to: place, bytes: part.bytes as u32 });
    }

    fn over_tcp(&mut self, part: Range, place: usize) {
        match self.over_tcp.last_mut() {
            Some((last, at)) if last.end() == part.start && *at + last.bytes as usize == place => {
                last.bytes += part.bytes;
            }
            _ => self.over_tcp.push((part, place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = 4096;

    const fn range(page: u64, pages: u64) -> Range {
        Range { start: page * PAGE, bytes: pages * PAGE }
    }

    const fn region(page: u64, pages: u64, key: u32) -> Region {
        Region { start: page * PAGE, bytes: pages * PAGE, key }
    }

    /// Every byte of a plan, in order: from where, and by which key; none over the connection.
    fn bytes(plan: &Plan) -> Vec<(u64, Option<u32>)> {
        let direct = plan.pieces.iter().map(|piece| (piece.to, piece.from, piece.bytes.into(), Some(piece.key)));
        let over_tcp = plan.over_tcp.iter().map(|(range, place)| (*place, range.start, range.bytes, None));
        let mut parts: Vec<(usize, u64, u64, Option<u32>)> = direct.chain(over_tcp).collect();
        parts.sort_by_key(|(place, ..)| *place);
        let mut bytes = Vec::new();
        for (place, from, count, key) in parts {
            assert_eq!(place as u64, bytes.len() as u64 * PAGE, "no page twice, none left out");
            bytes.extend((0..count / PAGE).map(|page| (from / PAGE + page, key)));
        }
        bytes
    }

    #[test]
    fn what_is_registered_is_read_by_the_device_and_the_rest_over_tcp() {
        let places = Places::new(&[region(10, 4, 1), region(14, 2, 2), region(20, 1, 3)], &[]).expect("places");
        let plan = places.plan(&[range(8, 14), range(20, 1), range(12, 1), range(13, 1), range(0, 2)]);
        let key = |page| match page {
            10..14 => Some(1),
            14..16 => Some(2),
            20 => Some(3),
            _ => None,
        };
        let expected: Vec<_> = (8..22).chain([20, 12, 13, 0, 1]).map(|page| (page, key(page))).collect();
        assert_eq!(bytes(&plan), expected);
        assert!(!plan.is_waiting && plan.unasked.is_empty());
        // Neighbours are read at once.
        assert_eq!(places.plan(&[range(10, 1), range(11, 1), range(12, 2)]).pieces.len(), 1);
        assert_eq!(places.plan(&[range(0, 1), range(1, 1)]).over_tcp.len(), 1);
    }

    #[test]
    fn what_can_be_pinned_is_waited_for_once_it_was_asked_for() {
        let piece_pages = PIN_BYTES / PAGE;
        let mut places = Places::new(&[], &[(PAGE * 100, PIN_BYTES * 2 + PAGE)]).expect("places");
        let ranges = [range(98, piece_pages * 2 + 8)];
        let plan = places.plan(&ranges);
        let pieces = [PAGE * 100, PAGE * 100 + PIN_BYTES, PAGE * 100 + 2 * PIN_BYTES];
        assert_eq!((plan.unasked.as_slice(), plan.is_waiting), (&pieces[..], true));
        pieces.iter().for_each(|piece| places.note_asked(*piece));
        let plan = places.plan(&ranges);
        assert_eq!((plan.unasked.len(), plan.is_waiting), (0, true));
        // All of the first, not all of the second, nothing of the third.
        places.note_answer(pieces[0], Some(region(100, piece_pages, 7))).expect("asked");
        places.note_answer(pieces[1], Some(region(100 + piece_pages + 2, 3, 8))).expect("asked");
        assert!(places.plan(&ranges).is_waiting);
        places.note_answer(pieces[2], None).expect("asked");
        let plan = places.plan(&ranges);
        assert!(!plan.is_waiting);
        let second = 100 + piece_pages;
        let key = |page| match page {
            page if (100..second).contains(&page) => Some(7),
            page if (second + 2..second + 5).contains(&page) => Some(8),
            _ => None,
        };
        let expected: Vec<_> = (98..98 + piece_pages * 2 + 8).map(|page| (page, key(page))).collect();
        assert_eq!(bytes(&plan), expected);
        assert!(places.note_answer(PAGE, None).is_err(), "nobody asked for that");
    }

    #[test]
    fn what_a_host_says_is_checked() {
        assert!(Places::new(&[Region { start: u64::MAX, bytes: 2, key: 0 }], &[]).is_err());
        assert!(Places::new(&[], &[(2, u64::MAX)]).is_err());
        let odd = Places::new(&[region(0, 1, 1), Region { start: 0, bytes: 0, key: 2 }], &[(0, 0)]).expect("places");
        assert_eq!(bytes(&odd.plan(&[range(0, 2)])), [(0, None), (1, None)]);
        let overlapping = Places::new(&[region(0, 8, 1), region(4, 2, 2)], &[]).expect("places");
        assert_eq!(bytes(&overlapping.plan(&[range(0, 8)])).len(), 8);
    }
}
