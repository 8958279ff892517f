//! When a message was pushed into its lane, so that the time that it waits there is its receiver's, too.
//!
//! A message that gives work has nothing in `aux`, where 32 bits of the clock fit: in steps of 64 ns they come round
//! after 275 s. The sender writes them, so the receiver believes them only as far as it can know by itself: the message
//! came after the last look that found every lane empty, and before now.

use ramet_common::PacketDescriptor;

/// The bits of the clock below a step.
const STEP_BITS: u32 = 6;

/// The time of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u32);

impl Stamp {
    /// The stamp of a time in nanoseconds.
    pub(crate) fn at(time_ns: u64) -> Self {
        Self((time_ns >> STEP_BITS) as u32)
    }

    /// The descriptor as it travels.
    pub(crate) fn on(self, descriptor: PacketDescriptor) -> PacketDescriptor {
        if descriptor.gives_work() { descriptor.with_aux(self.0) } else { descriptor }
    }

    /// When the message with this stamp was pushed: after `empty_ns`, and not after `now_ns`.
    pub(super) fn time_ns(self, empty_ns: u64, now_ns: u64) -> u64 {
        let steps_ago = Self::at(now_ns).0.wrapping_sub(self.0);
        let time_ns = now_ns.saturating_sub(u64::from(steps_ago) << STEP_BITS);
        time_ns.max(empty_ns).min(now_ns)
    }

    /// The stamp that a descriptor which gives work came with.
    pub(super) fn of(descriptor: &PacketDescriptor) -> Self {
        Self(descriptor.aux)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_common::{FunctionId, Generation, Kind, RequestId, SlotIndex};

    #[test]
    fn a_true_stamp_is_read_back_to_a_step_also_when_the_bits_come_round() {
        for now_ns in [1_000_000, u64::from(u32::MAX) << STEP_BITS, (1 << 38) + 5, 3_600_000_000_000] {
            for waited_ns in [0, 64, 5_000, 900_000] {
                let read = Stamp::at(now_ns - waited_ns).time_ns(0, now_ns);
                assert!((now_ns - read).abs_diff(waited_ns) < 1 << STEP_BITS, "{waited_ns} before {now_ns}: {read}");
            }
        }
    }

    /// Whatever a sender writes, the receiver counts no time at which it knows that the message was not there.
    #[test]
    fn a_false_stamp_is_not_believed_beyond_what_the_receiver_knows() {
        let (empty_ns, now_ns) = (7_000_000_000, 7_000_050_000);
        for bits in (0..=u32::MAX).step_by(65_537).chain([u32::MAX, Stamp::at(now_ns + 1000).0]) {
            let read = Stamp(bits).time_ns(empty_ns, now_ns);
            assert!((empty_ns..=now_ns).contains(&read), "{bits}: {read}");
        }
    }

    #[test]
    fn only_what_gives_work_is_stamped() {
        let descriptor = |kind| PacketDescriptor::new(kind, FunctionId(1), SlotIndex(0), Generation(0), RequestId(1));
        for (kind, is_stamped) in
            [(Kind::Request, true), (Kind::Call, true), (Kind::Failed, false), (Kind::Want, false)]
        {
            let plain = descriptor(kind).with_aux(5);
            assert_eq!(Stamp(9).on(plain).aux, if is_stamped { 9 } else { 5 }, "{kind:?}");
        }
    }
}
