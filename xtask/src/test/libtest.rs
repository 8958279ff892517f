//! Runs tests with cargo alone, and reads what Rust's own test harness says.

use super::report::Report;
use crate::commands::{Output, overhear, typed};
use anyhow::Result;
use std::process::Command;

/// Runs a `cargo test`, whose arguments for the harness follow `--`. Returns its report and whether it succeeded.
pub(super) fn run(mut command: Command, filter: &[String]) -> Result<(Report, bool)> {
    let what = typed(&command);
    // Only with this does the harness print what a test that passed has to say.
    command.args(["--", "--show-output"]).args(filter);
    let mut listener = Listener::default();
    let succeeded = overhear(&mut command, Output::Standard, |line| {
        if listener.hear(line) == Shown::Yes {
            println!("{line}");
        }
    })?;
    let mut report = listener.report;
    let outcome = if succeeded { "ok" } else { "FAILED" };
    let Report { passed, failed, ignored, .. } = report;
    if passed + failed + ignored > 0 {
        // The harness says so of every program; this is their sum.
        let counts = format!("{passed} passed; {failed} failed; {ignored} ignored");
        report.closing = vec![format!("test result: {outcome}. {counts}; {what}")];
    }
    Ok((report, succeeded))
}

/// Whether a reader wants to see a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Yes,
    No,
}

/// Where in the harness's output we are.
#[derive(Debug, Default)]
pub(super) struct Listener {
    report: Report,
    /// Set between `successes:` and `failures:` or the closing line.
    in_successes: bool,
    /// Set while a program without tests says so.
    is_empty: bool,
    /// Whose output follows.
    test: String,
}

impl Listener {
    /// What was heard.
    pub(super) fn into_report(self) -> Report {
        self.report
    }

    /// Takes the harness's next line.
    pub(super) fn hear(&mut self, line: &str) -> Shown {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.count(rest);
            return if std::mem::take(&mut self.is_empty) { Shown::No } else { Shown::Yes };
        }
        self.is_empty |= line == "running 0 tests";
        if let Some(test) = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED")) {
            self.report.failures.push(test.to_owned());
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if !self.in_successes {
            return if self.is_empty { Shown::No } else { Shown::Yes };
        }
        if let Some(test) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            self.test = test.to_owned();
        }
        self.report.hear(&self.test, line);
        Shown::No
    }

    /// `ok. 3 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s`
    fn count(&mut self, result: &str) {
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(Ok(number)), Some(word)) = (words.next().map(str::parse::<usize>), words.next()) else {
                continue;
            };
            match word {
                "passed" => self.report.passed += number,
                "failed" => self.report.failed += number,
                "ignored" => self.report.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 0 tests

test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.00s

running 3 tests
test tests::ignored ... ignored, why not
test tests::skips ... ok
test tests::fails ... FAILED

successes:

---- tests::skips stdout ----
noise
skipped: no root

successes:
    tests::skips

failures:

---- tests::fails stdout ----
skipped: not what this means

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.12s
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 10.50s
";

    #[test]
    fn the_harness_is_understood() {
        let mut listener = Listener::default();
        let shown: Vec<&str> = OUTPUT.lines().filter(|line| listener.hear(line) == Shown::Yes).collect();
        let report = listener.report;
        assert_eq!((report.passed, report.failed, report.ignored), (3, 1, 1));
        assert_eq!(report.skipped.into_iter().collect::<Vec<_>>(), [("tests::skips".into(), "no root".into())]);
        assert_eq!(report.failures, ["tests::fails"]);
        assert!(shown.iter().all(|line| !line.contains(" 0 passed") && !line.contains(" 0 tests")), "{shown:?}");
        assert!(!shown.contains(&"noise") && shown.contains(&"skipped: not what this means"), "{shown:?}");
    }
}
