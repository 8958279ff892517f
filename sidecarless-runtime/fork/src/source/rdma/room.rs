//! Room in the buffer that a device reads to: it is taken and given back in about the same order.

use std::collections::VecDeque;

/// Which bytes of a buffer are whose.
#[derive(Debug)]
pub(super) struct Room {
    bytes: usize,
    /// The oldest first. Each begins behind the one before, or at the beginning.
    taken: VecDeque<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    token: u64,
    at: usize,
    bytes: usize,
    is_free: bool,
}

impl Room {
    pub(super) const fn new(bytes: usize) -> Self {
        Self { bytes, taken: VecDeque::new() }
    }

    /// So many bytes in one piece. None: there are not until something is given back.
    pub(super) fn take(&mut self, token: u64, bytes: usize) -> Option<usize> {
        let at = match (self.taken.front(), self.taken.back()) {
            (Some(first), Some(last)) => {
                let end = last.at + last.bytes;
                // What is taken goes around the end of the buffer, or does not.
                let limit = if last.at < first.at { first.at } else { self.bytes };
                if bytes <= limit - end {
                    end
                } else if last.at >= first.at && bytes <= first.at {
                    0
                } else {
                    return None;
                }
            }
            _ if bytes <= self.bytes => 0,
            _ => return None,
        };
        self.taken.push_back(Slot { token, at, bytes, is_free: false });
        Some(at)
    }

    /// Gives back what was taken under a token.
    pub(super) fn give_back(&mut self, token: u64) {
        if let Some(slot) = self.taken.iter_mut().find(|slot| slot.token == token && !slot.is_free) {
            slot.is_free = true;
        }
        while self.taken.pop_front_if(|slot| slot.is_free).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_what_somebody_has() {
        const BYTES: usize = 64;
        let mut room = Room::new(BYTES);
        let mut owners = [None; BYTES];
        let mut held: Vec<(u64, usize, usize)> = Vec::new();
        let (mut number, mut refused) = (12_345_u64, 0);
        for token in 0..20_000 {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let bytes = 1 + (number >> 33) as usize % 24;
            match room.take(token, bytes) {
                Some(at) => {
                    for owner in &mut owners[at..at + bytes] {
                        assert_eq!(owner.replace(token), None, "{bytes} bytes at {at}");
                    }
                    held.push((token, at, bytes));
                }
                None => refused += 1,
            }
            // Not always the oldest.
            if held.len() > 3 || number % 3 == 0 && !held.is_empty() {
                let (token, at, bytes) = held.remove((number >> 40) as usize % held.len());
                room.give_back(token);
                owners[at..at + bytes].fill(None);
            }
        }
        assert!(refused < 15_000, "{refused} of 20000 were refused");
        held.iter().for_each(|(token, ..)| room.give_back(*token));
        assert_eq!(room.take(0, BYTES), Some(0), "all of it is free again");
        assert_eq!(room.take(1, 1), None);
        room.give_back(0);
        assert_eq!(room.take(1, BYTES + 1), None);
    }
}
