//! The run: every system once in each round, so that what disturbs the machine disturbs all of them.

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use crate::machine::Machine;
use crate::options::RoundOptions;
use crate::report::{LeftOut, LoadReport};
use crate::sample::Sample;
use crate::setting::{Identity, Role, Setting, Times};
use crate::subject::Subject;

/// The samples of one system, one per round.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) identity: Identity,
    pub(crate) samples: Vec<Sample>,
}

/// What was found in one setting.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) setting: Setting,
    /// Of each system that got through all rounds.
    pub(crate) series: Vec<Series>,
}

/// Runs the rounds and keeps what was found.
#[derive(Debug)]
pub(crate) struct Engine {
    machine: Machine,
    times: Times,
    rounds: u32,
    progress: ProgressBar,
    measured: Vec<Measured>,
    left_out: Vec<LeftOut>,
}

impl Engine {
    /// `settings` is how many there will be, of all groups together.
    pub(crate) fn new(options: &RoundOptions, settings: usize) -> Self {
        // It draws nothing where the standard error is no terminal.
        let progress = ProgressBar::new(settings as u64 * u64::from(options.rounds()));
        progress.set_style(bar_style());
        let times = Times { warm_up: options.warm_up, duration: options.duration };
        let (measured, left_out) = (Vec::new(), Vec::new());
        Self { machine: Machine::here(), times, rounds: options.rounds(), progress, measured, left_out }
    }

    /// Says what is done now.
    pub(crate) fn say(&self, what: String) {
        self.progress.set_message(what);
        self.progress.tick();
    }

    /// A system that cannot be measured at all, and why.
    pub(crate) fn leave_out(&mut self, identity: &Identity, reason: &anyhow::Error) {
        self.left_out.push(LeftOut { system: identity.to_string(), setting: None, reason: said_once(reason) });
    }

    /// Fails, before peers are measured for nothing, if none of the systems that it is about has started.
    pub(crate) fn expect_any<'n>(
        &self,
        started: &[Box<dyn Subject>],
        mut wanted: impl Iterator<Item = &'n str>,
    ) -> anyhow::Result<()> {
        let has_started = |name| started.iter().any(|subject| subject.identity().system == name);
        if wanted.any(has_started) {
            return Ok(());
        }
        let reasons: Vec<_> = self.left_out.iter().map(ToString::to_string).collect();
        bail!("nothing of what is to be measured has started\n{}", reasons.join("\n"))
    }

    /// Measures the systems that run now.
    pub(crate) async fn measure(&mut self, subjects: &mut [Box<dyn Subject>], settings: &[Setting]) {
        for &setting in settings {
            let mut order: Vec<usize> = (0..subjects.len()).filter(|&at| subjects[at].suits(&setting)).collect();
            let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
            for _ in 0..self.rounds {
                let mut left = Vec::new();
                for at in order {
                    let subject = &mut subjects[at];
                    self.say(format!("{} ({setting})", subject.identity()));
                    match subject.round(setting, self.times).await {
                        Ok(sample) => {
                            samples[at].push(sample);
                            left.push(at);
                        }
                        Err(error) => {
                            // Numbers of a system that answers wrongly are not shown beside those of one that does not.
                            samples[at].clear();
                            let (system, reason) = (subject.identity().to_string(), said_once(&error));
                            self.left_out.push(LeftOut { system, setting: Some(setting), reason });
                        }
                    }
                }
                // To and fro, so that nobody always comes after the same.
                left.reverse();
                order = left;
                self.progress.inc(1);
            }
            let identities = subjects.iter().map(|subject| subject.identity().clone());
            let series = identities.zip(samples).filter(|(_, samples)| !samples.is_empty());
            let series = series.map(|(identity, samples)| Series { identity, samples }).collect();
            self.measured.push(Measured { setting, series });
        }
    }

    /// Reports on all of it. `compares` says which peers a system of ours is compared with.
    pub(crate) fn report(self, compares: impl Fn(&Identity, &Identity) -> bool) -> anyhow::Result<LoadReport> {
        self.progress.finish_and_clear();
        if self.measured.iter().all(|measured| measured.series.is_empty()) {
            let reasons: Vec<_> = self.left_out.iter().map(ToString::to_string).collect();
            bail!("nothing could be measured\n{}", reasons.join("\n"));
        }
        let compares = |ours: &Identity, other: &Identity| match (ours.role, other.role) {
            // Another build is compared with the same system of this one.
            (Role::Ours, Role::Ours) => ours.system == other.system && ours.build.is_none() && other.build.is_some(),
            (Role::Ours, Role::Peer) => ours.build.is_none() && compares(ours, other),
            (Role::Peer, _) => false,
        };
        Ok(LoadReport::new(self.machine, self.rounds, &self.measured, self.left_out, compares))
    }
}

/// An error with its causes, but for those whose words are there already.
fn said_once(error: &anyhow::Error) -> String {
    let mut causes = error.chain().map(ToString::to_string);
    let first = causes.next().unwrap_or_default();
    causes.fold(first, |said, cause| if said.contains(&cause) { said } else { format!("{said}: {cause}") })
}

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg} (about {eta} left)")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests;
