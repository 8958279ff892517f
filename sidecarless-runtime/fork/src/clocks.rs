//! Clocks that count from a machine's start: for a process that goes on elsewhere they must not go back
//! (time_namespaces(7)).

use std::fs;
use std::io;

use rustix::time::{ClockId, clock_gettime};

use crate::descriptor::{Clocks, ForkDescriptor};
use crate::machine::Machine;

const NANOSECONDS: i64 = 1_000_000_000;

impl Clocks {
    /// What they show to this process.
    pub(crate) fn now() -> Self {
        let now = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec * NANOSECONDS + time.tv_nsec
        };
        Self { monotonic_ns: now(ClockId::Monotonic), boottime_ns: now(ClockId::Boottime) }
    }

    /// How far those of a process are from the machine's own. `PID` is a number or `self`.
    pub(crate) fn offsets(process: &str) -> io::Result<Self> {
        match fs::read_to_string(format!("/proc/{process}/timens_offsets")) {
            Ok(text) => parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)),
            // A kernel without time namespaces.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            monotonic_ns: self.monotonic_ns.saturating_add(other.monotonic_ns),
            boottime_ns: self.boottime_ns.saturating_add(other.boottime_ns),
        }
    }

    pub(crate) const fn minus(self, other: Self) -> Self {
        Self {
            monotonic_ns: self.monotonic_ns.saturating_sub(other.monotonic_ns),
            boottime_ns: self.boottime_ns.saturating_sub(other.boottime_ns),
        }
    }

    /// As `/proc/PID/timens_offsets` takes them.
    pub(crate) fn to_text(self) -> String {
        let clock = |name, ns: i64| format!("{name} {} {}\n", ns.div_euclid(NANOSECONDS), ns.rem_euclid(NANOSECONDS));
        clock("monotonic", self.monotonic_ns) + &clock("boottime", self.boottime_ns)
    }
}

/// How far a child's clocks have to be from this machine's own, so that they go on from what its process has seen.
/// `None`: as far as this process's are, which are `own`.
pub(crate) fn wanted(descriptor: &ForkDescriptor, machine: &Machine, own: Clocks) -> Option<Clocks> {
    let wanted = if descriptor.machine.boot == machine.boot {
        descriptor.clock_offsets
    } else {
        descriptor.clocks.minus(Clocks::now().minus(own))
    };
    (wanted != own).then_some(wanted)
}

fn parse(text: &str) -> Option<Clocks> {
    let offset = |name: &str| {
        let mut words = text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace();
        let mut number = || words.next()?.parse::<i64>().ok();
        number()?.checked_mul(NANOSECONDS)?.checked_add(number()?)
    };
    Some(Clocks { monotonic_ns: offset("monotonic")?, boottime_ns: offset("boottime")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_they_are_written() {
        let offsets = Clocks { monotonic_ns: -1_500_000_000, boottime_ns: 7_000_000_001 };
        assert_eq!(offsets.to_text(), "monotonic -2 500000000\nboottime 7 1\n");
        assert_eq!(parse(&offsets.to_text()), Some(offsets));
        assert_eq!(
            parse("monotonic           0         0\nboottime            0         0\n"),
            Some(Clocks::default())
        );
        assert_eq!(parse("monotonic 1"), None);
    }
}
