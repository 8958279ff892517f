//! The run: in each round every way to get one more process, so that what disturbs the machine disturbs all of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;

use super::data::{Stretches, Walk, words};
use super::floor;
use super::options::{ForkOptions, ForkSystem};
use super::orders::{Order, Reply, Timed, Way};
use super::python::{Python, Target};
use super::remote::{Remote, unexpected};
use super::report::{ForkReport, Measure};
use crate::build::Build;
use crate::machine::Machine;
use crate::options::NodeOptions;
use crate::process::Launcher;
use crate::statistics::Spread;

/// How often something short is measured in a round; its value is the median.
const SHORT_TIMES: usize = 5;
/// How many further children a template has in a round.
const FURTHER_CHILDREN: usize = 9;

/// A system in a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entrant {
    pub(super) system: ForkSystem,
    pub(super) of: Of,
}

/// Whose code is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    /// This build's, or nobody's.
    This,
    /// The other build's.
    Base,
}

impl Entrant {
    pub(super) const fn this(system: ForkSystem) -> Self {
        Self { system, of: Of::This }
    }
}

/// What was measured, one value per round.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) values: BTreeMap<(Measure, Entrant), Vec<f64>>,
    /// The steps of a measure, by the names that a build has for them.
    pub(super) steps: BTreeMap<(Measure, String, Entrant), Vec<f64>>,
}

struct Run<'r> {
    options: &'r ForkOptions,
    interrupted: &'r AtomicBool,
    progress: ProgressBar,
    python: Python,
    target: Target,
    this: Remote,
    base: Option<Remote>,
    stretches: Stretches,
    samples: Samples,
}

/// Runs all rounds. It is left soon after `interrupted` is set.
pub(super) fn measure(
    options: &ForkOptions,
    base: Option<&Build>,
    interrupted: &AtomicBool,
) -> anyhow::Result<ForkReport> {
    let machine = Machine::here();
    let launcher = Launcher::new()?;
    let python = Python::find(options.python.as_deref(), options.memory, launcher.folder().join("python.log"))?;
    let progress = ProgressBar::new_spinner();
    progress.set_message("starting the process that is forked");
    progress.tick();
    // A build that cannot be measured is told of before anything is.
    let base = base.map(|base| Remote::start(base, options.children, &launcher)).transpose()?;
    let this = Remote::start(&Build::this(&NodeOptions::default())?, options.children, &launcher)?;
    let mut stretches = Stretches::of(words(options.memory));
    let mut target = python.start()?;
    target.check(&stretches.next()).context("the process that is to be forked does not work")?;
    let samples = Samples::default();
    let mut run = Run { options, interrupted, progress, python, target, this, base, stretches, samples };
    for round in 0..options.rounds {
        run.round(round)?;
    }
    run.progress.finish_and_clear();
    Ok(ForkReport::new(machine, options, &run.samples))
}

/// Who is measured in turn `turn`. The builds of a system are next to each other, and change places in each turn: none
/// always comes after the same.
fn entrants(wanted: &[ForkSystem], has_base: bool, turn: u32) -> Vec<Entrant> {
    let mut entrants = Vec::new();
    for system in ForkSystem::ALL.into_iter().filter(|system| wanted.contains(system)) {
        let first = entrants.len();
        entrants.push(Entrant::this(system));
        if has_base && system.way().is_some() {
            entrants.push(Entrant { system, of: Of::Base });
        }
        if turn % 2 == 1 {
            entrants[first..].reverse();
        }
    }
    entrants
}

impl Run<'_> {
    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        self.pauses(round)?;
        for entrant in self.entrants(round) {
            let name = self.options.name(entrant);
            self.progress.set_message(format!("round {} of {}: {name}", round + 1, self.options.rounds));
            self.progress.tick();
            let outcome = match entrant.system {
                ForkSystem::RametLocal => self.ramet(entrant, Way::Local, round),
                ForkSystem::RametTcp => self.ramet(entrant, Way::Tcp, round),
                ForkSystem::OsFork => self.os_fork(),
                ForkSystem::FreshPython => self.fresh(),
                ForkSystem::SpinningHandler => self.floor(),
            };
            outcome.with_context(|| format!("{name} failed"))?;
        }
        Ok(())
    }

    fn expect_wanted(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn note(&mut self, measure: Measure, entrant: Entrant, value: f64) {
        self.samples.values.entry((measure, entrant)).or_default().push(value);
    }

    fn entrants(&self, turn: u32) -> Vec<Entrant> {
        entrants(&self.options.systems, self.base.is_some(), turn)
    }

    /// Has the entrant's build do something.
    fn tell(&mut self, entrant: Entrant, order: &Order) -> anyhow::Result<Reply> {
        self.expect_wanted()?;
        self.remote(entrant)?.tell(order)
    }

    fn remote(&mut self, entrant: Entrant) -> anyhow::Result<&mut Remote> {
        match entrant.of {
            Of::This => Ok(&mut self.this),
            Of::Base => self.base.as_mut().context("there is no other build"),
        }
    }

    /// For how long the process stands still, by each system in turns: what it did before and what is in the caches
    /// counts for as much as the fork.
    fn pauses(&mut self, round: u32) -> anyhow::Result<()> {
        let mut pauses: BTreeMap<Entrant, Vec<Duration>> = BTreeMap::new();
        let mut prepared: BTreeMap<Entrant, Vec<Duration>> = BTreeMap::new();
        // Each of two builds comes first as often as the other.
        let times = if self.base.is_some() { SHORT_TIMES + 1 } else { SHORT_TIMES };
        for time in 0..times as u32 {
            for entrant in self.entrants(round + time) {
                self.expect_wanted()?;
                let pause = match (entrant.system, entrant.system.way()) {
                    (_, Some(way)) => {
                        let order = Order::Pause { way, pid: self.target.pid() };
                        let seed = self.remote(entrant)?.prepared(&order)?;
                        prepared.entry(entrant).or_default().push(seed.prepare);
                        seed.pause
                    }
                    (ForkSystem::OsFork, _) => self.target.fork()?,
                    _ => continue,
                };
                pauses.entry(entrant).or_default().push(pause);
            }
        }
        for (measure, durations) in [(Measure::Pause, pauses), (Measure::Prepare, prepared)] {
            for (entrant, durations) in durations {
                self.note(measure, entrant, median_us(durations));
            }
        }
        Ok(())
    }

    fn ramet(&mut self, entrant: Entrant, way: Way, round: u32) -> anyhow::Result<()> {
        let order = Order::Prepare { way, pid: self.target.pid() };
        let prepared = self.remote(entrant)?.prepared(&order)?;
        self.note(Measure::DescriptorBytes, entrant, prepared.descriptor_bytes as f64);
        self.children(entrant, prepared.seed, round)?;
        match self.remote(entrant)?.tell(&Order::Revoke { seed: prepared.seed })? {
            Reply::Revoked => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn children(&mut self, entrant: Entrant, seed: u64, round: u32) -> anyhow::Result<()> {
        let words = words(self.options.memory);
        let first = Order::First { seed, stretch: self.stretches.next() };
        match self.tell(entrant, &first)? {
            Reply::First { child, learned_bytes } => {
                self.note(Measure::First, entrant, micros(child.total));
                self.note(Measure::LearnedKib, entrant, learned_bytes as f64 / 1024.0);
            }
            other => return Err(unexpected(&other)),
        }

        let further = Order::Further { seed, stretches: self.stretches(FURTHER_CHILDREN), whole: 0..words };
        self.note_children(Measure::Template, entrant, &further)?;

        let (stretch, start) = (self.stretches.next(), self.stretches.next().start);
        let walks = [Walk::begin(words, start + 4000), Walk::of(words, start)];
        match self.tell(entrant, &Order::Fault { seed, stretch, walks })? {
            Reply::Fault(took) => self.note(Measure::Fault, entrant, micros(took)),
            other => return Err(unexpected(&other)),
        }

        let cold = Order::Cold { seed, stretches: self.stretches(SHORT_TIMES), whole: 0..words };
        self.note_children(Measure::Cold, entrant, &cold)?;

        if round < self.options.crowds() {
            let stretches = self.stretches(self.options.children as usize);
            match self.tell(entrant, &Order::Crowd { seed, stretches })? {
                Reply::Crowd { took, kib } => {
                    let children = f64::from(self.options.children);
                    self.note(Measure::ChildrenPerS, entrant, children / took.as_secs_f64());
                    self.note(Measure::ChildKib, entrant, kib as f64 / children);
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    fn stretches(&mut self, count: usize) -> Vec<std::ops::Range<u64>> {
        (0..count).map(|_| self.stretches.next()).collect()
    }

    fn note_children(&mut self, measure: Measure, entrant: Entrant, order: &Order) -> anyhow::Result<()> {
        let children: Vec<Timed> = match self.tell(entrant, order)? {
            Reply::Children(children) => children,
            other => return Err(unexpected(&other)),
        };
        self.note(measure, entrant, median_us(children.iter().map(|child| child.total)));
        let mut steps: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        for (step, took) in children.into_iter().flat_map(|child| child.steps) {
            steps.entry(step).or_default().push(took);
        }
        for (step, took) in steps {
            self.samples.steps.entry((measure, step, entrant)).or_default().push(median_us(took));
        }
        Ok(())
    }

    fn os_fork(&mut self) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        for _ in 0..SHORT_TIMES {
            self.expect_wanted()?;
            answers.push(self.target.fork_and_answer(&self.stretches.next())?);
        }
        self.note(Measure::Cold, Entrant::this(ForkSystem::OsFork), median_us(answers));
        Ok(())
    }

    fn floor(&mut self) -> anyhow::Result<()> {
        self.expect_wanted()?;
        let took = floor::fault(&Walk::of(words(self.options.memory), self.stretches.next().start))?;
        self.note(Measure::Fault, Entrant::this(ForkSystem::SpinningHandler), micros(took));
        Ok(())
    }

    fn fresh(&mut self) -> anyhow::Result<()> {
        self.expect_wanted()?;
        let took = self.python.fresh(&self.stretches.next())?;
        self.note(Measure::Cold, Entrant::this(ForkSystem::FreshPython), micros(took));
        Ok(())
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn median_us(durations: impl IntoIterator<Item = Duration>) -> f64 {
    Spread::of(durations.into_iter().map(micros)).map_or(f64::NAN, |spread| spread.median)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_change_places_in_each_turn() {
        let names = |turn| {
            let entrants = entrants(&ForkSystem::ALL, true, turn);
            entrants.iter().map(|entrant| (entrant.system, entrant.of)).collect::<Vec<_>>()
        };
        use ForkSystem::{FreshPython, OsFork, RametLocal, RametTcp, SpinningHandler};
        let others = [(OsFork, Of::This), (FreshPython, Of::This), (SpinningHandler, Of::This)];
        let even = [(RametLocal, Of::This), (RametLocal, Of::Base), (RametTcp, Of::This), (RametTcp, Of::Base)];
        let odd = [(RametLocal, Of::Base), (RametLocal, Of::This), (RametTcp, Of::Base), (RametTcp, Of::This)];
        assert_eq!(names(0), [&even[..], &others].concat());
        assert_eq!(names(1), [&odd[..], &others].concat());
        assert_eq!(names(2), names(0));
    }

    #[test]
    fn one_build_is_measured_in_the_same_order_always() {
        let wanted = [ForkSystem::OsFork, ForkSystem::RametTcp];
        let order = [Entrant::this(ForkSystem::RametTcp), Entrant::this(ForkSystem::OsFork)];
        assert!((0..3).all(|turn| entrants(&wanted, false, turn) == order));
    }
}
