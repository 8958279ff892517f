//! What a test run comes to: nothing that was skipped may look as if it had passed.

use std::collections::BTreeMap;
use std::process::ExitCode;

/// The outcome of one runner, or of all together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Tests that a runner calls passed, those that ended early and said so included.
    pub(super) passed: usize,
    pub(super) failed: usize,
    /// Which ones, in the runner's words.
    pub(super) failures: Vec<String>,
    /// Tests that the runner itself did not run.
    pub(super) ignored: usize,
    /// Tests that ended early, and why.
    pub(super) skipped: BTreeMap<String, String>,
    /// What was left out besides tests, and why.
    pub(super) left_out: Vec<String>,
    /// Steps that failed without a test to blame.
    pub(super) broken: Vec<String>,
    /// The runners' own last words, the first runner's last.
    pub(super) closing: Vec<String>,
}

impl Report {
    /// Adds a runner's report. One that failed without a failed test has broken in another way.
    pub(super) fn add(&mut self, step: &str, report: Self, succeeded: bool) {
        if !succeeded && report.failed == 0 {
            self.broken.push(step.to_owned());
        }
        self.passed += report.passed;
        self.failed += report.failed;
        self.ignored += report.ignored;
        self.skipped.extend(report.skipped);
        self.left_out.extend(report.left_out);
        self.broken.extend(report.broken);
        self.failures.extend(report.failures);
        self.closing.splice(..0, report.closing);
    }

    /// Takes a test's line, if it says that the test did not run.
    pub(super) fn hear(&mut self, test: &str, line: &str) {
        if let Some(why) = line.strip_prefix("skipped: ") {
            self.skipped.entry(test.to_owned()).or_insert_with(|| why.trim().to_owned());
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Tests were run, and nothing has failed.
    pub(super) fn is_good(&self) -> bool {
        self.failed == 0 && self.broken.is_empty() && self.passed > 0
    }

    /// What a reader must know, the runners' last words, and the counts as the last line.
    pub(crate) fn print(&self) {
        for line in self.details().iter().chain(&self.closing) {
            println!("{line}");
        }
        println!("{}", self.counts());
    }

    fn details(&self) -> Vec<String> {
        // Many tests are skipped for one and the same reason; it is given once.
        let mut tests_by_reason = BTreeMap::<&str, Vec<&str>>::new();
        for (test, why) in &self.skipped {
            tests_by_reason.entry(why).or_default().push(test);
        }
        let mut lines = Vec::new();
        for (why, tests) in tests_by_reason {
            lines.push(format!("skipped: {why}"));
            lines.extend(tests.iter().map(|test| format!("  {test}")));
        }
        if self.ignored > 0 {
            let count = self.ignored;
            lines.push(format!("skipped: tests marked #[ignore], which says why: {count}"));
        }
        lines.extend(self.left_out.iter().map(|what| format!("left out: {what}")));
        lines.extend(self.failures.iter().map(|test| format!("failed: {test}")));
        lines.extend(self.broken.iter().map(|step| format!("failed: {step}; the messages above say why")));
        if self.passed + self.failed == 0 && self.broken.is_empty() {
            lines.push("failed: no test was run; does the filter match any?".into());
        }
        lines
    }

    /// A broken step counts as a failure.
    pub(super) fn counts(&self) -> String {
        let passed = self.passed.saturating_sub(self.skipped.len());
        let failed = self.failed + self.broken.len();
        format!("{passed} passed, {failed} failed, {} skipped", self.skipped.len() + self.ignored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { passed: 3, ..Report::default() };
        report.hear("ramet-a b::c", "skipped: not root");
        report.hear("ramet-a b::c", "skipped: no BPF");
        report.hear("ramet-a b::d", "is skipped: never");
        report
    }

    #[test]
    fn a_skipped_test_has_not_passed() {
        assert_eq!(report().counts(), "2 passed, 0 failed, 1 skipped");
        assert_eq!(report().details(), ["skipped: not root", "  ramet-a b::c"]);
        assert_eq!(report().exit_code(), ExitCode::SUCCESS);
    }

    #[test]
    fn a_step_that_breaks_is_a_failure() {
        let mut all = report();
        all.add("loom", Report { ignored: 1, ..Report::default() }, false);
        assert_eq!(all.counts(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(all.exit_code(), ExitCode::FAILURE);
        all.add("more", Report { failed: 1, ..Report::default() }, false);
        assert_eq!(all.counts(), "2 passed, 2 failed, 2 skipped");
    }

    #[test]
    fn the_first_runner_has_the_last_word() {
        let mut all = Report::default();
        for runner in ["nextest", "doc", "loom"] {
            all.add(runner, Report { closing: vec![runner.into()], ..Report::default() }, true);
        }
        assert_eq!(all.closing, ["loom", "doc", "nextest"]);
    }

    #[test]
    fn a_run_without_tests_is_a_failure() {
        assert_eq!(Report::default().exit_code(), ExitCode::FAILURE);
        assert!(Report::default().details()[0].contains("no test was run"));
    }
}
