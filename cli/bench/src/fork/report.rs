//! What a run found, and what was aimed at.

use std::fmt;

use serde::Serialize;

use super::options::{ForkOptions, ForkSystem};
use super::rounds::{Entrant, Of, Samples};
use crate::machine::Machine;
use crate::noise::{Verdict, verdict};
use crate::statistics::Spread;

/// The outcome: `Display` is a table for people, `Serialize` the object for programs.
#[derive(Clone, Debug, Serialize)]
pub struct ForkReport {
    /// Where.
    pub machine: Machine,
    /// How many rounds each median is of.
    pub rounds: u32,
    /// How much data the forked process has.
    pub memory_bytes: u64,
    /// How many children lived at a time.
    pub children: u32,
    /// One per measure and system.
    pub rows: Vec<ForkRow>,
    /// Where the time goes, step by step.
    pub phases: Vec<PhaseRow>,
    /// Each value is one system's divided by the other's, round by round.
    pub ratios: Vec<ForkRatio>,
    /// What was aimed at.
    pub aims: Vec<Aim>,
}

/// The values of one measure of one system.
#[derive(Clone, Debug, Serialize)]
pub struct ForkRow {
    /// What was measured.
    pub measure: &'static str,
    /// The system's name; behind an `@` the revision, where it is not this build.
    pub system: String,
    /// In what.
    pub unit: &'static str,
    /// The values of all rounds.
    pub value: Spread,
}

/// How long a step takes.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseRow {
    /// Of what.
    pub measure: &'static str,
    /// The system's name; behind an `@` the revision, where it is not this build.
    pub system: String,
    /// Which step.
    pub phase: String,
    /// The values of all rounds.
    pub us: Spread,
}

/// One system against another.
#[derive(Clone, Debug, Serialize)]
pub struct ForkRatio {
    /// What was measured.
    pub measure: &'static str,
    /// The system.
    pub system: String,
    /// The other, which may be the same in another build.
    pub against: String,
    /// Below 1 the system is better, except in *children answered*.
    pub value: Spread,
    /// Whether two builds differ by more than the noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// What was aimed at, and what was reached.
#[derive(Clone, Debug, Serialize)]
pub struct Aim {
    /// What.
    pub aim: &'static str,
    /// The bound.
    pub bound: f64,
    /// Whether what is reached must be below it or above.
    pub is_at_most: bool,
    /// The median that was reached.
    pub reached: f64,
    /// Whether that is enough.
    pub holds: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Measure {
    /// For how long the forked process stands still.
    Pause,
    /// How long a prepare takes in all.
    Prepare,
    /// How long a descriptor is.
    DescriptorBytes,
    /// How much is given with a descriptor, because the first child touched it first.
    LearnedKib,
    /// From the request to the answer of the first child ever.
    First,
    /// The same where nothing of the seed is on the host, and others had children of it.
    Cold,
    /// The same for a further child on the host.
    Template,
    /// How long a page takes that is touched.
    Fault,
    /// How many children are made and have answered in a second.
    ChildrenPerS,
    /// Proportional memory of each.
    ChildKib,
}

impl Measure {
    /// All, in the order of the report.
    const ALL: [Self; 10] = [
        Self::Pause,
        Self::Prepare,
        Self::DescriptorBytes,
        Self::LearnedKib,
        Self::First,
        Self::Cold,
        Self::Template,
        Self::Fault,
        Self::ChildrenPerS,
        Self::ChildKib,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Prepare => "prepare",
            Self::DescriptorBytes => "descriptor",
            Self::LearnedKib => "learned memory",
            Self::First => "first answer ever",
            Self::Cold => "cold answer",
            Self::Template => "template answer",
            Self::Fault => "fault",
            Self::ChildrenPerS => "children answered",
            Self::ChildKib => "memory of a child",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::DescriptorBytes => "bytes",
            Self::ChildrenPerS => "per second",
            Self::LearnedKib => "KiB",
            Self::ChildKib => "KiB (PSS)",
            _ => "µs",
        }
    }
}

impl ForkReport {
    pub(super) fn new(machine: Machine, options: &ForkOptions, samples: &Samples) -> Self {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let row = |(&(measure, entrant), values): (&(Measure, Entrant), &Vec<f64>)| {
            let (measure, system, unit) = (measure.name(), options.name(entrant), measure.unit());
            Some(ForkRow { measure, system, unit, value: spread(values)? })
        };
        let phase = |((measure, step, entrant), values): (&(Measure, String, Entrant), &Vec<f64>)| {
            let (measure, system, phase) = (measure.name(), options.name(*entrant), step.clone());
            Some(PhaseRow { measure, system, phase, us: spread(values)? })
        };
        let rows = samples.values.iter().filter_map(row).collect();
        let phases = samples.steps.iter().filter_map(phase).collect();
        Self {
            machine,
            rounds: options.rounds,
            memory_bytes: options.memory,
            children: options.children,
            rows,
            phases,
            ratios: ratios(samples).into_iter().chain(differences(options, samples)).collect(),
            aims: aims(samples),
        }
    }
}

/// What is compared with what.
const COMPARED: [(Measure, ForkSystem, Measure, ForkSystem); 10] = {
    use ForkSystem::{FreshPython, OsFork, RametLocal, RametTcp, SpinningHandler};
    use Measure::{Cold, Fault, Pause, Template};
    [
        (Pause, RametLocal, Pause, OsFork),
        (Pause, RametTcp, Pause, OsFork),
        (Cold, RametLocal, Cold, FreshPython),
        (Cold, RametTcp, Cold, FreshPython),
        (Template, RametLocal, Cold, OsFork),
        (Template, RametTcp, Cold, OsFork),
        (Template, RametLocal, Cold, FreshPython),
        (Template, RametTcp, Cold, FreshPython),
        (Fault, RametLocal, Fault, SpinningHandler),
        (Fault, RametTcp, Fault, SpinningHandler),
    ]
};

fn quotients(
    samples: &Samples,
    (measure, system): (Measure, ForkSystem),
    (other, rival): (Measure, ForkSystem),
) -> Option<Spread> {
    let values = |measure, system| samples.values.get(&(measure, Entrant::this(system)));
    let (ours, theirs) = (values(measure, system)?, values(other, rival)?);
    Spread::of_quotients(ours.iter().copied(), theirs.iter().copied())
}

fn ratios(samples: &Samples) -> Vec<ForkRatio> {
    let ratio = |&(measure, system, other, rival): &(Measure, ForkSystem, Measure, ForkSystem)| {
        let value = quotients(samples, (measure, system), (other, rival))?;
        let (system, against) = (system.to_string(), rival.to_string());
        Some(ForkRatio { measure: measure.name(), system, against, value, verdict: None })
    };
    COMPARED.iter().filter_map(ratio).collect()
}

/// This build's values divided by those of the other one.
fn differences(options: &ForkOptions, samples: &Samples) -> Vec<ForkRatio> {
    let ratio = |measure: Measure, system: ForkSystem| {
        let (this, base) = (Entrant::this(system), Entrant { system, of: Of::Base });
        let (ours, theirs) = (samples.values.get(&(measure, this))?, samples.values.get(&(measure, base))?);
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let (system, against, verdict) = (options.name(this), options.name(base), Some(verdict(&ratios)));
        Some(ForkRatio { measure: measure.name(), system, against, value: Spread::of(ratios)?, verdict })
    };
    let of_measure = |measure| ForkSystem::ALL.into_iter().filter_map(move |system| ratio(measure, system));
    Measure::ALL.into_iter().flat_map(of_measure).collect()
}

fn aims(samples: &Samples) -> Vec<Aim> {
    use ForkSystem::{FreshPython, RametLocal, RametTcp, SpinningHandler};
    let median =
        |measure| Some(Spread::of(samples.values.get(&(measure, Entrant::this(RametTcp)))?.iter().copied())?.median);
    let at_most = |aim, bound, reached: Option<f64>| {
        reached.map(|reached| Aim { aim, bound, is_at_most: true, reached, holds: reached <= bound })
    };
    let at_least = |aim, bound, reached: Option<f64>| {
        reached.map(|reached| Aim { aim, bound, is_at_most: false, reached, holds: reached >= bound })
    };
    let quotient = |ours, theirs| quotients(samples, ours, theirs).map(|spread| spread.median);
    let aims = [
        at_most(
            "pause, times that of os.fork",
            1.2,
            quotient((Measure::Pause, RametTcp), (Measure::Pause, ForkSystem::OsFork)),
        ),
        at_most("cold answer over tcp, µs", 2000.0, median(Measure::Cold)),
        at_most("answer from a template over tcp, µs", 600.0, median(Measure::Template)),
        at_least(
            "a fresh Python's answer, times the cold one",
            50.0,
            quotient((Measure::Cold, FreshPython), (Measure::Cold, RametTcp)),
        ),
        at_most(
            "fault with the data on the host, times the least",
            1.5,
            quotient((Measure::Fault, RametLocal), (Measure::Fault, SpinningHandler)),
        ),
        at_least("children that have answered, per second", 1500.0, median(Measure::ChildrenPerS)),
        at_most("memory of each of many children, KiB", 300.0, median(Measure::ChildKib)),
    ];
    aims.into_iter().flatten().collect()
}

impl fmt::Display for ForkReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        super::table::write(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
