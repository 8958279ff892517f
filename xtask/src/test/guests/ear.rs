//! Listens to a guest that runs one test program after the other.

use super::super::libtest::{Listener, Shown};
use super::super::report::Report;
use super::rounds::{Round, Suite};
use crate::vm::{Role, Stream, Tail};
use std::mem::take;

/// What the guest says before a program, followed by its number.
pub(super) const BEGIN: &str = "ramet-guest: begins ";
/// What it says after a program, followed by its exit code.
pub(super) const END: &str = "ramet-guest: ended with ";
/// The exit codes of timeout(1): the program was told to end, or had to be killed.
const TIMED_OUT: [&str; 2] = ["124", "137"];

/// Follows a round.
#[derive(Debug)]
pub(super) struct Ear<'a> {
    round: &'a Round,
    /// The beginning of a line.
    partial: Vec<u8>,
    /// The program that runs, and what it has said.
    running: Option<(&'a Suite, Listener)>,
    /// How many have begun.
    begun: usize,
    report: Report,
    /// What is shown only when the guest ends as it should not.
    tail: Tail,
}

impl<'a> Ear<'a> {
    pub(super) fn new(round: &'a Round) -> Self {
        let (partial, report, tail) = (Vec::new(), Report::default(), Tail::default());
        Self { round, partial, running: None, begun: 0, report, tail }
    }

    /// Takes what the programs print.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.line(String::from_utf8_lossy(&line).trim_end());
        }
    }

    /// Takes what is seldom of interest: kernels, the peer, and what programs started by tests say.
    pub(super) fn keep(&mut self, role: Role, stream: Stream, bytes: &[u8]) {
        self.tail.take(role, stream, bytes);
    }

    /// What the round has come to. `trouble` is what was wrong with the guest itself.
    pub(super) fn finish(mut self, trouble: Option<String>) -> Report {
        if let Some((suite, listener)) = self.running.take() {
            // Which of its tests has brought the guest down cannot be known.
            let step = self.step(suite, "the guest was gone before its end");
            self.report.add(&step, listener.into_report(), true);
            self.report.broken.push(step);
        }
        let never: Vec<String> = self.round.suites.iter().skip(self.begun).map(Suite::to_string).collect();
        if let Some(trouble) = trouble {
            self.report.broken.push(format!("{} ({trouble})", self.round));
        }
        if !never.is_empty() {
            self.report.broken.push(format!("{} (never begun: {})", self.round, never.join(", ")));
        }
        if self.report.is_good() { self.report } else { self.shown() }
    }

    fn shown(self) -> Report {
        eprint!("{}", self.tail.text());
        self.report
    }

    fn line(&mut self, line: &str) {
        if let Some(number) = line.strip_prefix(BEGIN) {
            let suite = number.parse().ok().and_then(|number: usize| self.round.suites.get(number));
            self.running = suite.map(|suite| (suite, Listener::default()));
            self.begun += 1;
        } else if let Some(code) = line.strip_prefix(END) {
            if let Some((suite, listener)) = self.running.take() {
                self.ended(suite, listener, code);
            }
        } else if let Some((suite, listener)) = &mut self.running {
            if listener.hear(line) == Shown::Yes && !line.is_empty() {
                println!("{}: {suite}: {line}", self.round.series);
            }
        } else if !line.is_empty() {
            println!("{}: {line}", self.round.series);
        }
    }

    fn ended(&mut self, suite: &Suite, listener: Listener, code: &str) {
        let mut found = listener.into_report();
        let ran = found.passed + found.failed;
        let why = match code {
            code if TIMED_OUT.contains(&code) => format!("not at its end after {} s", suite.limit_seconds),
            // A name that was changed must not make a test vanish.
            "0" if ran == 0 => "none of its tests was run".to_owned(),
            code => format!("it ended with {code}"),
        };
        let step = self.step(suite, &why);
        let origin = format!("Linux {}: {suite}", self.round.series);
        found.failures.iter_mut().for_each(|test| *test = format!("{origin} {test}"));
        found.skipped =
            take(&mut found.skipped).into_iter().map(|(test, why)| (format!("{origin} {test}"), why)).collect();
        self.report.add(&step, found, code == "0" && ran > 0);
    }

    fn step(&self, suite: &Suite, why: &str) -> String {
        format!("{suite} in {} ({why})", self.round)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::suite;
    use super::*;
    use crate::vm::Series;

    const OUTPUT: &str = "
ramet-guest: begins 0
running 2 tests
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s
ramet-guest: ended with 101
ramet-guest: begins 1
running 1 test
test c ... ok

successes:

---- c stdout ----
skipped: no device

successes:
    c

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.12s
ramet-guest: ended with 0
";

    fn report(output: &str, trouble: Option<&str>) -> Report {
        let suites = ["one", "two"].map(|target| suite("folder", target)).to_vec();
        let round = Round { series: Series::V6_12, suites, peer: None };
        let mut ear = Ear::new(&round);
        for piece in output.as_bytes().chunks(7) {
            ear.hear(piece);
        }
        ear.finish(trouble.map(str::to_owned))
    }

    #[test]
    fn programs_are_counted_and_their_tests_named() {
        let report = report(OUTPUT, None);
        assert_eq!(report.counts(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(report.failures, ["Linux 6.12: folder one b"]);
        assert_eq!(report.skipped.keys().collect::<Vec<_>>(), ["Linux 6.12: folder two c"]);
        assert!(report.broken.is_empty(), "{:?}", report.broken);
    }

    #[test]
    fn a_guest_that_is_gone_early_has_failed() {
        let cut = OUTPUT.find("test c").expect("it is there");
        let broken = report(&OUTPUT[..cut], Some("it is gone")).broken;
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("folder two") && broken[1].contains("it is gone"), "{broken:?}");
        let cut = OUTPUT.find("ramet-guest: begins 1").expect("it is there");
        let broken = report(&OUTPUT[..cut], None).broken;
        assert!(broken[0].contains("never begun: folder two"), "{broken:?}");
    }

    #[test]
    fn a_program_that_runs_nothing_or_hangs_has_failed() {
        for (output, why) in [
            ("ramet-guest: begins 0\nrunning 0 tests\nramet-guest: ended with 0\n", "none of its tests was run"),
            (
                "ramet-guest: begins 0\nrunning 2 tests\ntest a ... ok\n\nramet-guest: ended with 124\n",
                "not at its end",
            ),
            ("ramet-guest: begins 0\n\nramet-guest: ended with 127\n", "it ended with 127"),
        ] {
            let broken = report(output, None).broken;
            assert!(broken[0].contains(why), "{broken:?}");
        }
    }
}
