//! Which programs run in which guests. Emulation is slow, so it is those whose outcome depends on the kernel or on a
//! device, and of them what a guest can do in its time.

use crate::vm::Series;
use clap::ValueEnum;
use std::fmt;
use std::time::Duration;

/// What a guest may need to come up, beside its programs, with a host that has other things to do.
const BOOT: Duration = Duration::from_secs(120);

/// One boot.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) series: Series,
    /// What runs in the guest, one after the other.
    pub(super) suites: Vec<Suite>,
    /// What a second guest runs meanwhile.
    pub(super) peer: Option<Suite>,
}

/// Tests of one program.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    /// The package.
    pub(super) package: &'static str,
    /// Cargo's name for the program.
    pub(super) target: &'static str,
    /// Parts of the names of the tests that are run; none means all.
    names: &'static [&'static str],
    /// Parts of the names of those that are not.
    without: &'static [&'static str],
    pub(super) limit_seconds: u64,
}

impl Round {
    /// The round with the programs whose name, or whose own, contains one of `filter`, if there are any.
    pub(super) fn narrowed(mut self, filter: &[String]) -> Option<Self> {
        // The name of one series is the beginning of another's.
        let is_round = |part: &String| match Series::from_str(part, false) {
            Ok(series) => series == self.series,
            Err(_) => self.to_string().contains(part.as_str()),
        };
        if !filter.is_empty() && !filter.iter().any(is_round) {
            let is_wanted = |suite: &Suite| filter.iter().any(|part| suite.to_string().contains(part.as_str()));
            self.suites.retain(is_wanted);
        }
        (!self.suites.is_empty()).then_some(self)
    }

    /// The packages that have to be built for it.
    pub(super) fn packages(&self) -> impl Iterator<Item = &'static str> {
        let own = self.suites.iter().chain(&self.peer).map(|suite| suite.package);
        own.flat_map(|package| [Some(package), (package == WHOLE).then_some(BINARY)]).flatten()
    }

    /// When the round is over, whatever its guests do.
    pub(super) fn limit(&self) -> Duration {
        BOOT + Duration::from_secs(self.suites.iter().map(|suite| suite.limit_seconds).sum())
    }
}

impl Suite {
    /// What the harness is told.
    pub(super) fn arguments(&self) -> Vec<String> {
        let without = self.without.iter().flat_map(|name| ["--skip", name]);
        self.names.iter().copied().chain(without).map(str::to_owned).collect()
    }

    const fn only(mut self, names: &'static [&'static str]) -> Self {
        self.names = names;
        self
    }

    const fn within(mut self, seconds: u64) -> Self {
        self.limit_seconds = seconds;
        self
    }

    const fn without(mut self, names: &'static [&'static str]) -> Self {
        self.without = names;
        self
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guests = if self.peer.is_some() { "two guests" } else { "a guest" };
        write!(f, "{guests} of Linux {}", self.series)
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.package, self.target)
    }
}

/// All tests of a program.
pub(super) const fn suite(package: &'static str, target: &'static str) -> Suite {
    Suite { package, target, names: &[], without: &[], limit_seconds: LIMIT_SECONDS }
}

/// How long a program takes when the host has other things to do, and more.
const LIMIT_SECONDS: u64 = 180;
/// The same of a program that has two guests.
const PAIR_SECONDS: u64 = 2 * LIMIT_SECONDS;
const FORK: &str = "ramet-fork";
/// Whose programs are started by tests of the whole.
const BINARY: &str = "ramet";
const WHOLE: &str = "ramet-tests";
/// Each side of a pair of guests runs one of these.
const KEEPER: &str = "seeds_are_kept_for_another_guest";
const FORKER: &str = "goes_on_in_another_guest_or_ends";

/// Every round, in the order of their running.
pub(super) fn all() -> Vec<Round> {
    let alone = |series, suites: &[Suite]| Round { series, suites: suites.to_vec(), peer: None };
    // Twenty times the same is for a machine that is fast.
    let resume = suite(FORK, "resume").without(&["threads_go_on"]);
    // Before Linux 6.6 a page cannot be refused: whoever outlives a killed host waits for it for ever.
    let resume_waiting = suite(FORK, "resume").without(&["threads_go_on", "a_killed_host"]);
    let memory =
        |resume| [suite(FORK, "prepare"), resume, suite(FORK, "pages"), suite(FORK, "carried"), suite(FORK, "timers")];
    let tables = suite("ramet-sys", "ramet_sys").only(&["pagemap", "userfault", "ptrace"]);
    let kernel = ["loading", "routing", "ownership", "policy"].map(|target| suite("ramet-loader", target));
    let device = [
        suite("ramet-rdma", "reads"),
        suite(FORK, "sources").only(&["rdma::"]),
        suite(FORK, "rdma"),
        suite(WHOLE, "start").only(&["comes_by_rdma"]),
    ];
    let pair = |series| Round {
        series,
        suites: vec![suite(WHOLE, "fork").only(&[FORKER]).within(PAIR_SECONDS)],
        peer: Some(suite(WHOLE, "fork").only(&[KEEPER])),
    };
    let oldest = [&[tables][..], &memory(resume_waiting), &kernel].concat();
    let usual = [&[tables][..], &device, &memory(resume), &kernel].concat();
    let newest = [&device[..], &memory(resume), &kernel].concat();
    vec![
        alone(Series::V6_12, &usual),
        pair(Series::V6_12),
        alone(Series::V6_18, &newest),
        pair(Series::V6_18),
        alone(Series::V6_1, &oldest),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_booted() {
        let rounds = all();
        for series in [Series::V6_1, Series::V6_12, Series::V6_18] {
            assert!(rounds.iter().any(|round| round.series == series), "{series}");
        }
    }

    #[test]
    fn a_filter_names_rounds_or_programs() {
        let narrowed = |filter: &str| -> Vec<String> {
            let rounds = all().into_iter().filter_map(|round| round.narrowed(&[filter.to_owned()]));
            rounds.map(|round| format!("{round}: {}", round.suites.len())).collect()
        };
        assert_eq!(narrowed("ramet-rdma reads"), ["a guest of Linux 6.12: 1", "a guest of Linux 6.18: 1"]);
        assert_eq!(narrowed("two guests"), ["two guests of Linux 6.12: 1", "two guests of Linux 6.18: 1"]);
        assert_eq!(narrowed("6.1").len(), 1);
        assert!(narrowed("no such program").is_empty());
        assert_eq!(all().len(), all().into_iter().filter_map(|round| round.narrowed(&[])).count());
    }
}
