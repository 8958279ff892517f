//! The run: in each round every way to get one more process, so that what disturbs the machine disturbs all of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::ProgressBar;

use super::data::{Stretches, Walk, words};
use super::floor;
use super::host::{self, Latency, Seed, Sides};
use super::options::{ForkOptions, ForkSystem};
use super::python::{Python, Target};
use super::report::{ForkReport, Measure};
use crate::machine::Machine;
use crate::process::Launcher;
use crate::statistics::Spread;

/// How often something short is measured in a round; its value is the median.
const SHORT_TIMES: usize = 5;
/// How many further children a template has in a round.
const FURTHER_CHILDREN: usize = 9;

/// What was measured of a system, one value per round.
pub(super) type Samples = BTreeMap<(Measure, ForkSystem), Vec<f64>>;

struct Run<'r> {
    options: &'r ForkOptions,
    interrupted: &'r AtomicBool,
    progress: ProgressBar,
    python: Python,
    target: Target,
    sides: Sides,
    stretches: Stretches,
    samples: Samples,
}

/// Runs all rounds. It is left soon after `interrupted` is set.
pub(super) fn measure(options: &ForkOptions, interrupted: &AtomicBool) -> anyhow::Result<ForkReport> {
    let machine = Machine::here();
    let folder = Launcher::new()?;
    let python = Python::find(options.python.as_deref(), options.memory, folder.folder().join("python.log"))?;
    let progress = ProgressBar::new_spinner();
    progress.set_message("starting the process that is forked");
    progress.tick();
    let mut stretches = Stretches::of(words(options.memory));
    let mut target = python.start()?;
    target.check(&stretches.next()).context("the process that is to be forked does not work")?;
    let sides = Sides::start(options.children)?;
    let samples = Samples::new();
    let mut run = Run { options, interrupted, progress, python, target, sides, stretches, samples };
    for round in 0..options.rounds {
        run.round(round)?;
    }
    run.progress.finish_and_clear();
    Ok(ForkReport::new(machine, options, &run.samples))
}

impl Run<'_> {
    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        self.pauses()?;
        for system in self.systems() {
            self.progress.set_message(format!("round {} of {}: {system}", round + 1, self.options.rounds));
            self.progress.tick();
            let outcome = match system {
                ForkSystem::RametLocal | ForkSystem::RametTcp => self.ramet(system, round),
                ForkSystem::OsFork => self.os_fork(),
                ForkSystem::FreshPython => self.fresh(),
                ForkSystem::SpinningHandler => self.floor(),
            };
            outcome.with_context(|| format!("{system} failed"))?;
        }
        Ok(())
    }

    fn expect_wanted(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn note(&mut self, measure: Measure, system: ForkSystem, value: f64) {
        self.samples.entry((measure, system)).or_default().push(value);
    }

    fn systems(&self) -> Vec<ForkSystem> {
        ForkSystem::ALL.into_iter().filter(|system| self.options.systems.contains(system)).collect()
    }

    /// For how long the process stands still, by each system in turns: what it did before and what is in the caches
    /// counts for as much as the fork.
    fn pauses(&mut self) -> anyhow::Result<()> {
        let mut pauses: BTreeMap<ForkSystem, Vec<Duration>> = BTreeMap::new();
        let mut prepared: BTreeMap<ForkSystem, Vec<Duration>> = BTreeMap::new();
        for _ in 0..SHORT_TIMES {
            for system in self.systems() {
                self.expect_wanted()?;
                let pause = match system {
                    ForkSystem::RametLocal | ForkSystem::RametTcp => {
                        let seed = self.sides.prepare(system, &self.target)?;
                        self.sides.revoke(&seed)?;
                        prepared.entry(system).or_default().push(seed.prepare());
                        seed.pause()
                    }
                    ForkSystem::OsFork => self.target.fork()?,
                    ForkSystem::FreshPython | ForkSystem::SpinningHandler => continue,
                };
                pauses.entry(system).or_default().push(pause);
            }
        }
        for (measure, durations) in [(Measure::Pause, pauses), (Measure::Prepare, prepared)] {
            for (system, durations) in durations {
                self.note(measure, system, median_us(durations));
            }
        }
        Ok(())
    }

    fn ramet(&mut self, system: ForkSystem, round: u32) -> anyhow::Result<()> {
        let seed = self.sides.prepare(system, &self.target)?;
        self.note(Measure::DescriptorBytes, system, seed.descriptor_bytes() as f64);
        self.children(system, &seed, round)?;
        self.sides.revoke(&seed)
    }

    fn children(&mut self, system: ForkSystem, seed: &Seed, round: u32) -> anyhow::Result<()> {
        let all = 0..words(self.options.memory);
        let unlearned = seed.learned_bytes()?;
        let (family, first, latency) = self.sides.cold(seed, &self.stretches.next())?;
        self.note(Measure::First, system, micros(latency.total));
        self.note(Measure::LearnedKib, system, seed.wait_until_learned(unlearned)? as f64 / 1024.0);
        drop(first);

        let mut latencies = Vec::new();
        for _ in 0..FURTHER_CHILDREN {
            self.expect_wanted()?;
            let (mut child, latency) = host::warm(&family, &self.stretches.next())?;
            latencies.push(latency);
            if latencies.len() == FURTHER_CHILDREN {
                child.check(&all)?;
            }
        }
        self.note_latencies(Measure::Template, system, &latencies);

        self.expect_wanted()?;
        let (mut child, _) = host::warm(&family, &self.stretches.next())?;
        let start = self.stretches.next().start;
        child.fault(&Walk::begin(words(self.options.memory), start + 4000))?;
        let took = child.fault(&Walk::of(words(self.options.memory), start))?;
        self.note(Measure::Fault, system, micros(took));
        drop(child);

        latencies.clear();
        for _ in 0..SHORT_TIMES {
            self.expect_wanted()?;
            let (family, mut child, latency) = self.sides.cold(seed, &self.stretches.next())?;
            latencies.push(latency);
            if latencies.len() == SHORT_TIMES {
                child.check(&all)?;
            }
            // It needs its pages until it has ended.
            drop(child);
            drop(family);
        }
        self.note_latencies(Measure::Cold, system, &latencies);

        if round < self.options.crowds {
            self.expect_wanted()?;
            let stretches: Vec<Range<u64>> = (0..self.options.children).map(|_| self.stretches.next()).collect();
            let (children, took) = host::crowd(&family, &stretches)?;
            let mut kib = 0;
            for child in &children {
                kib += child.proportional_kib()?;
            }
            self.note(Measure::ChildrenPerS, system, children.len() as f64 / took.as_secs_f64());
            self.note(Measure::ChildKib, system, kib as f64 / children.len() as f64);
        }
        Ok(())
    }

    fn note_latencies(&mut self, measure: Measure, system: ForkSystem, latencies: &[Latency]) {
        self.note(measure, system, median_us(latencies.iter().map(|latency| latency.total)));
        let mut phases: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
        for latency in latencies {
            for (phase, took) in latency.phases() {
                phases.entry(phase).or_default().push(took);
            }
        }
        for (phase, took) in phases {
            self.note(Measure::Phase { of: measure.name(), phase }, system, median_us(took));
        }
    }

    fn os_fork(&mut self) -> anyhow::Result<()> {
        let mut answers = Vec::new();
        for _ in 0..SHORT_TIMES {
            self.expect_wanted()?;
            answers.push(self.target.fork_and_answer(&self.stretches.next())?);
        }
        self.note(Measure::Cold, ForkSystem::OsFork, median_us(answers));
        Ok(())
    }

    fn floor(&mut self) -> anyhow::Result<()> {
        self.expect_wanted()?;
        let took = floor::fault(&Walk::of(words(self.options.memory), self.stretches.next().start))?;
        self.note(Measure::Fault, ForkSystem::SpinningHandler, micros(took));
        Ok(())
    }

    fn fresh(&mut self) -> anyhow::Result<()> {
        self.expect_wanted()?;
        let took = self.python.fresh(&self.stretches.next())?;
        self.note(Measure::Cold, ForkSystem::FreshPython, micros(took));
        Ok(())
    }
}

impl Latency {
    fn phases(&self) -> Vec<(&'static str, Duration)> {
        let mut phases = Vec::new();
        phases.extend(self.reach.map(|reach| ("1 reach the seed", reach)));
        if let Some(template) = self.phases.template {
            phases.push(("2 plan", template.plan));
            phases.push(("3 copy the zygote", template.copy));
            phases.push(("4 map memory", template.map));
            phases.push(("5 register", template.register));
            phases.push(("6 push what is learned", template.push));
        }
        phases.push(("7 open files", self.phases.open));
        phases.push(("8 fork the template", self.phases.fork));
        phases.push(("9 start", self.phases.start));
        phases.push(("answer", self.answer));
        phases
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn median_us(durations: impl IntoIterator<Item = Duration>) -> f64 {
    Spread::of(durations.into_iter().map(micros)).map_or(f64::NAN, |spread| spread.median)
}
