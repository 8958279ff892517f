//! The order of rounds, and what becomes of a system that fails.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::process::Usage;
use crate::recorder::{Latencies, Percentiles};
use crate::subject::Round;

const SETTING: Setting = Setting::new(1, 1, 100);

#[derive(Debug)]
struct Scripted {
    identity: Identity,
    order: Rc<RefCell<Vec<String>>>,
    /// The round that fails.
    fails_at: Option<usize>,
    rounds: usize,
}

impl Subject for Scripted {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn suits(&self, setting: &Setting) -> bool {
        setting.functions == Some(1)
    }

    fn round(&mut self, _: Setting, _: Times) -> Round<'_> {
        Box::pin(async {
            self.order.borrow_mut().push(self.identity.to_string());
            self.rounds += 1;
            anyhow::ensure!(self.fails_at != Some(self.rounds), "no answer");
            let percentiles = Percentiles { p50_us: 1.0, p90_us: 1.0, p99_us: 1.0, p999_us: 1.0, p9999_us: 1.0 };
            let elapsed = Duration::from_secs(1);
            let latencies = Latencies { requests: 10, elapsed, raw: percentiles, corrected: percentiles };
            Ok(Sample::new(&latencies, &Usage::new(), &Usage::new()))
        })
    }
}

fn run(subjects: &[(&str, Role, Option<&str>, Option<usize>)]) -> (anyhow::Result<LoadReport>, Vec<String>) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut subjects: Vec<Box<dyn Subject>> = subjects
        .iter()
        .map(|&(name, role, build, fails_at)| {
            let identity = Identity::new(name, "none", role).of_build(build);
            Box::new(Scripted { identity, order: Rc::clone(&order), fails_at, rounds: 0 }) as _
        })
        .collect();
    let times = Duration::from_millis(1);
    let options = RoundOptions { duration: times, warm_up: times, rounds: Some(3), base: None };
    let mut engine = Engine::new(&options, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(engine.measure(&mut subjects, &[SETTING, Setting::new(2, 1, 100)]));
    let order = order.borrow().clone();
    (engine.report(|_, _| true), order)
}

#[test]
fn rounds_go_to_and_fro() {
    let (report, order) = run(&[("a", Role::Ours, None, None), ("b", Role::Peer, None, None)]);
    assert_eq!(order, ["a", "b", "b", "a", "a", "b"]);
    let report = report.unwrap();
    assert_eq!(report.rows.iter().map(|row| row.system.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((report.ratios.len(), report.left_out.len()), (1, 0));
}

#[test]
fn who_fails_once_is_not_reported_and_not_asked_again() {
    let (report, order) = run(&[("a", Role::Ours, None, Some(2)), ("b", Role::Peer, None, None)]);
    assert_eq!(order, ["a", "b", "b", "a", "b"]);
    let report = report.unwrap();
    assert_eq!(report.rows.iter().map(|row| row.system.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(report.ratios.len(), 0);
    assert_eq!(report.left_out[0].to_string(), "FAILED: a (1 function, 1 connection, 100 bytes): no answer");
}

#[test]
fn another_build_is_compared_with_the_same_system_only() {
    let subjects = [
        ("a", Role::Ours, None, None),
        ("a", Role::Ours, Some("main"), None),
        ("b", Role::Ours, Some("main"), None),
        ("c", Role::Peer, None, None),
    ];
    let report = run(&subjects).0.unwrap();
    let compared: Vec<_> = report.ratios.iter().map(|ratio| (&*ratio.system, &*ratio.against)).collect();
    assert_eq!(compared, [("a", "a@main"), ("a", "c")]);
}

#[test]
fn nothing_measured_is_an_error_that_says_why() {
    let error = run(&[("a", Role::Ours, None, Some(1))]).0.unwrap_err();
    assert!(error.to_string().contains("no answer"), "{error}");
}

#[test]
fn a_reason_is_said_once() {
    let denied = || anyhow::Error::from(std::io::Error::from_raw_os_error(1));
    let twice = denied().context("BPF is not permitted (Operation not permitted (os error 1)); run as root");
    assert_eq!(said_once(&twice), "BPF is not permitted (Operation not permitted (os error 1)); run as root");
    let once = denied().context("cannot make a map");
    assert_eq!(said_once(&once), "cannot make a map: Operation not permitted (os error 1)");
}
