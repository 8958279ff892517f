//! Runs tests with cargo-nextest, which runs each in a process of its own, and reads its summary and its JUnit file.

use super::Mode;
use super::report::Report;
use crate::commands::{Output, overhear, says_yes};
use anyhow::{Context, Result};
use std::fs;
use std::io::{ErrorKind, IsTerminal, stderr};
use std::path::Path;
use std::process::Command;

/// The file that has what tests print, passed or not. nextest keeps it here, wherever cargo's target folder is.
const JUNIT: &str = "target/nextest/default/junit.xml";

/// Whether it is installed.
pub(super) fn is_here(mut cargo: Command) -> bool {
    says_yes(cargo.args(["nextest", "--version"]))
}

/// Runs all tests of the workspace. Returns the report and whether nextest says that all went well.
///
/// `.config/nextest.toml` makes nextest write the JUnit file.
pub(super) fn run(mode: Mode, root: &Path, filter: &[String]) -> Result<(Report, bool)> {
    let junit = root.join(JUNIT);
    match fs::remove_file(&junit) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", junit.display()));
        }
        _ => {}
    }
    let color = if stderr().is_terminal() { "always" } else { "never" };
    let mut command = mode.cargo_everything(root, &["nextest", "run", "--profile", "default"]);
    command.args(["--no-fail-fast", "--color", color, "--"]).args(filter);
    let mut report = Report::default();
    let succeeded = overhear(&mut command, Output::Error, |line| {
        eprintln!("{line}");
        let plain = plain(line);
        if plain.trim_start().starts_with("Summary [") {
            read_summary(&plain, &mut report);
            report.closing = vec![plain];
        } else if !report.closing.is_empty()
            && let Some(test) = failure(&plain)
        {
            report.failures.push(test.to_owned());
        }
    })?;
    if !filter.is_empty() {
        // nextest counts what the filter leaves out as skipped.
        report.ignored = 0;
    }
    match fs::read_to_string(&junit) {
        Ok(text) => read_skips(&text, &mut report),
        // A run that did not get as far as tests writes none.
        Err(_) if report.passed + report.failed == 0 => {}
        Err(error) => {
            let path = junit.display();
            report.left_out.push(format!("which tests skipped themselves: cannot read {path}: {error}"));
        }
    }
    Ok((report, succeeded))
}

/// `Summary [   0.233s] 4 tests run: 3 passed (1 slow), 1 failed, 1 timed out, 1 skipped`
fn read_summary(line: &str, report: &mut Report) {
    let Some((_, counts)) = line.split_once("run: ") else { return };
    // What is in parentheses says more about a count beside it.
    let outside: String = counts.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
    for part in outside.split(',') {
        let Some((number, word)) = part.trim().split_once(' ') else { continue };
        let Ok(number) = number.parse::<usize>() else { continue };
        match word.trim() {
            "passed" => report.passed += number,
            "skipped" => report.ignored += number,
            // Failed, timed out, could not be executed: none is good.
            _ => report.failed += number,
        }
    }
}

/// The test in a line after the summary: `FAIL [   0.211s] (3/4) nx tests::slow_fail`
fn failure(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("] (")?;
    rest.split_once(") ").map(|(_, test)| test)
}

/// Finds the tests that said `skipped: why`. nextest writes one element's start a line, so no XML parser is needed.
fn read_skips(junit: &str, report: &mut Report) {
    let mut test = String::new();
    for line in junit.lines() {
        let line = line.trim_start();
        if line.starts_with("<testcase ") {
            test = format!("{} {}", attribute(line, "classname"), attribute(line, "name"));
        }
        let said = line.strip_prefix("<system-out>").or_else(|| line.strip_prefix("<system-err>")).unwrap_or(line);
        let said = said.split("</system-").next().unwrap_or_default();
        report.hear(&test, &unescape(said));
    }
}

fn attribute(element: &str, name: &str) -> String {
    let value = element.split_once(&format!(" {name}=\"")).map_or("", |(_, rest)| rest);
    unescape(value.split('"').next().unwrap_or_default())
}

fn unescape(text: &str) -> String {
    let named = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    named.iter().fold(text.to_owned(), |text, (name, letter)| text.replace(name, letter))
}

/// The line without colours.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    let mut in_escape = false;
    for letter in line.chars() {
        match letter {
            '\u{1b}' => in_escape = true,
            'm' if in_escape => in_escape = false,
            letter if !in_escape => plain.push(letter),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(line: &str) -> (usize, usize, usize) {
        let mut report = Report::default();
        read_summary(line, &mut report);
        (report.passed, report.failed, report.ignored)
    }

    #[test]
    fn the_summary_is_understood() {
        assert_eq!(summary("Summary [   0.005s] 1 test run: 1 passed, 0 skipped"), (1, 0, 0));
        assert_eq!(
            summary("Summary [ 1.2s] 9/12 tests run: 7 passed (1 slow, 1 leaky), 2 failed, 3 skipped"),
            (7, 2, 3)
        );
        assert_eq!(summary("Summary [ 1.2s] 3 tests run: 1 passed, 1 timed out, 1 exec failed, 0 skipped"), (1, 2, 0));
    }

    #[test]
    fn failed_tests_are_named() {
        assert_eq!(failure("        FAIL [   1.135s] (262/510) ramet-a::b c::d"), Some("ramet-a::b c::d"));
        assert_eq!(failure("     TIMEOUT [ 300.0s] ( 2/510) ramet-a e"), Some("ramet-a e"));
        assert_eq!(failure("error: test run failed"), None);
    }

    #[test]
    fn skips_are_found_in_the_junit_file() {
        let junit = "
        <testcase name=\"tests::a\" classname=\"ramet-b\" time=\"0.008\">
            <system-out>
running 1 test
</system-out>
            <system-err>skipped: &lt;no&gt; root &amp; &quot;x&quot;
more
</system-err>
        </testcase>
        <testcase name=\"tests::c\" classname=\"ramet-b\" time=\"0.007\">
            <system-err>skipped: no BPF</system-err>";
        let mut report = Report::default();
        read_skips(junit, &mut report);
        let skipped: Vec<_> = report.skipped.iter().map(|(test, why)| (test.as_str(), why.as_str())).collect();
        assert_eq!(skipped, [("ramet-b tests::a", "<no> root & \"x\""), ("ramet-b tests::c", "no BPF")]);
    }

    #[test]
    fn colours_are_taken_off() {
        assert_eq!(plain("\u{1b}[32;1m  PASS\u{1b}[0m [ 1s] metal"), "  PASS [ 1s] metal");
    }
}
