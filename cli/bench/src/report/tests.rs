//! The report's arithmetic and the form of its JSON, which other programs rely on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;
use crate::setting::Role;

const SETTING: Setting = Setting::new(3, 32, 100);

fn sample(requests_per_s: f64, p50_us: f64) -> Sample {
    let raw =
        Percentiles { p50_us, p90_us: p50_us, p99_us: 2.0 * p50_us, p999_us: 3.0 * p50_us, p9999_us: 4.0 * p50_us };
    let cost = Cost { cpu_us_per_request: 10.0, wakeups_per_request: 2.0, memory_kib: Some(2048.0) };
    let processes = BTreeMap::from([("echo".to_owned(), (3, cost))]);
    let corrected = Percentiles { p50_us: 2.0 * p50_us, p90_us: 3.0 * p50_us, ..raw };
    Sample { requests_per_s, raw, corrected, cost: Some(cost), processes }
}

fn series(system: &str, role: Role, build: Option<&str>, samples: [Sample; 3]) -> Series {
    Series { identity: Identity::new(system, "http", role).of_build(build), samples: samples.into() }
}

fn report() -> LoadReport {
    let machine = Machine {
        kernel: "6.1.0".to_owned(),
        cpu_model: "A processor".to_owned(),
        cores: 2,
        load_average: [0.1, 0.2, 0.3],
        mitigations: BTreeMap::from([("spectre_v2".to_owned(), "Mitigation: Retpolines".to_owned())]),
    };
    let ring = [sample(300.0, 10.0), sample(200.0, 20.0), sample(800.0, 5.0)];
    let hops = [sample(100.0, 40.0), sample(100.0, 40.0), sample(200.0, 20.0)];
    let series = vec![series("ramet-ring", Role::Ours, None, ring), series("http-hops", Role::Peer, None, hops)];
    let left_out = vec![
        LeftOut { system: "nginx-sidecars".to_owned(), setting: None, reason: "there is no nginx in PATH".to_owned() },
        LeftOut { system: "ramet-skmsg".to_owned(), setting: Some(SETTING), reason: "status 503".to_owned() },
    ];
    let compares = |ours: &Identity, other: &Identity| ours.role == Role::Ours && other.role == Role::Peer;
    LoadReport::new(machine, 3, &[Measured { setting: SETTING, series }], left_out, compares)
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn ratios_are_ramets_value_divided_by_the_rivals_of_the_same_round() {
    let report = report();
    assert_eq!(report.ratios.len(), 1, "only against a rival that was measured");
    let ratio = &report.ratios[0];
    assert_eq!((&*ratio.system, &*ratio.against), ("ramet-ring", "http-hops"));
    assert_eq!(ratio.requests_per_s, Spread { median: 3.0, min: 2.0, max: 4.0 });
    assert_eq!(ratio.p50_us, Spread { median: 0.25, min: 0.25, max: 0.5 });
    assert_eq!(ratio.cpu_us_per_request, Some(Spread { median: 1.0, min: 1.0, max: 1.0 }));
}

#[test]
fn rows_are_medians_with_their_extremes() {
    let report = report();
    let row = report.rows.iter().find(|row| row.system == "ramet-ring").expect("it was measured");
    assert_eq!(row.requests_per_s, Spread { median: 300.0, min: 200.0, max: 800.0 });
    assert_eq!(row.latency.p99_us, Spread { median: 20.0, min: 10.0, max: 40.0 });
    assert_eq!(row.corrected.p50_us, Spread { median: 20.0, min: 10.0, max: 40.0 });
    assert_eq!((row.processes[0].name.as_str(), row.processes[0].processes), ("echo", 3));
}

#[test]
fn in_an_open_loop_the_latency_is_from_when_a_request_was_due() {
    let setting = Setting { rate_per_s: Some(100), ..SETTING };
    let samples = [sample(1.0, 10.0), sample(1.0, 10.0), sample(1.0, 10.0)];
    let row = row(&series("a", Role::Ours, None, samples), &setting).unwrap();
    assert_eq!((row.latency.p50_us.median, row.raw.p50_us.median), (20.0, 10.0));
}

#[test]
fn the_tails_show_what_the_latency_is_not() {
    let closed = Report::Load(report()).to_string();
    assert!(closed.contains("corrected p99 µs") && !closed.contains("raw p99 µs"), "{closed}");
    let setting = Setting { rate_per_s: Some(100), ..SETTING };
    let samples = [sample(1.0, 10.5), sample(1.0, 10.5), sample(1.0, 10.5)];
    let series = vec![series("a", Role::Ours, None, samples)];
    let report = LoadReport::new(report().machine, 3, &[Measured { setting, series }], Vec::new(), |_, _| false);
    let open = report.to_string();
    assert!(open.contains("raw p99 µs") && !open.contains("corrected"), "{open}");
    let tails = open.split("coordinated omission").nth(1).unwrap();
    let cells = tails.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = cells.into_iter().find(|cells| cells.first() == Some(&"a")).unwrap();
    assert!(row.ends_with(&["31.5", "31.5", "42.0", "10.5", "21.0", "42.0"]), "the latency's, then raw: {row:?}");
    let row = &report.rows[0];
    assert_eq!(row.corrected, row.latency, "it is counted from when requests were due already");
}

#[test]
fn how_many_functions_there_are_is_not_said_where_it_is_not_known() {
    let setting = Setting { functions: None, connections: 1, ..SETTING };
    assert_eq!(setting.to_string(), "1 connection, 100 bytes");
    let samples = [sample(1.0, 10.0), sample(1.0, 10.0), sample(1.0, 10.0)];
    let series = vec![series("url", Role::Ours, None, samples)];
    let report = LoadReport::new(report().machine, 3, &[Measured { setting, series }], Vec::new(), |_, _| false);
    assert!(report.to_string().lines().any(|line| line.trim_start().starts_with("url") && line.contains(" – ")));
    let report = Report::Load(report);
    let json = serde_json::to_value(&report).unwrap();
    assert!(!keys(&json["rows"][0]).contains("functions"), "{json}");
    assert!(!report.csv().unwrap().lines().next().unwrap().split(',').any(|column| column == "functions"));
}

#[test]
fn the_json_has_the_agreed_keys() {
    let json = serde_json::to_value(Report::Load(report())).expect("plain data");
    assert_eq!(keys(&json), BTreeSet::from(["machine", "rounds", "rows", "ratios"]));
    assert_eq!(json["rounds"], 3);
    let machine = BTreeSet::from(["kernel", "cpu_model", "cores", "load_average", "mitigations"]);
    assert_eq!(keys(&json["machine"]), machine);
    let agreed = ["system", "transport", "functions", "connections", "payload_bytes"];
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(2));
    let row = keys(&json["rows"][0]);
    let figures =
        ["requests_per_s", "p50_us", "p90_us", "p99_us", "p999_us", "p9999_us", "cpu_us_per_request", "memory_kib"];
    for key in agreed.iter().chain(&figures) {
        assert!(row.contains(key), "{key}");
    }
    assert_eq!(
        row.len(),
        agreed.len() + figures.len() + ["wakeups_per_request", "raw", "corrected", "processes"].len()
    );
    let ratio = ["system", "against", "functions", "connections", "payload_bytes"];
    let ratio: BTreeSet<_> =
        ratio.into_iter().chain(["requests_per_s", "p50_us", "p99_us", "cpu_us_per_request"]).collect();
    assert_eq!(keys(&json["ratios"][0]), ratio);
    for figure in figures {
        assert_eq!(keys(&json["rows"][0][figure]), BTreeSet::from(["median", "min", "max"]), "{figure}");
    }
}

#[test]
fn two_builds_are_judged() {
    let samples = |requests| [sample(requests, 10.0), sample(requests, 10.0), sample(requests, 10.0)];
    let (this, base) =
        (series("a", Role::Ours, None, samples(110.0)), series("a", Role::Ours, Some("main"), samples(100.0)));
    let verdicts = ratio(&this, &base, &SETTING).unwrap().verdicts.expect("two builds");
    assert_eq!(verdicts.requests_per_s.difference, crate::noise::Difference::TooFewRounds);
    let json = serde_json::to_value(&verdicts).unwrap();
    assert_eq!(json["p50_us"]["difference"], "too-few-rounds");
}

#[test]
fn the_table_begins_with_ratios_and_ends_with_what_is_missing() {
    let report = Report::Load(report());
    assert!(report.has_failures());
    let text = report.to_string();
    assert!(text.starts_with("Ratios"), "{text}");
    assert!(text.contains("3.00× (2.00–4.00)"), "{text}");
    assert!(text.contains("spectre_v2"), "{text}");
    assert!(text.contains("skipped: nginx-sidecars: there is no nginx in PATH"), "{text}");
    assert!(text.trim_end().ends_with("FAILED: ramet-skmsg (3 functions, 32 connections, 100 bytes): status 503"));
}

#[test]
fn every_row_is_in_the_csv_and_in_the_picture() {
    let report = Report::Load(report());
    let csv = report.csv().unwrap();
    let mut lines = csv.lines();
    let columns: Vec<_> = lines.next().unwrap().split(',').collect();
    for column in ["system", "requests_per_s.median", "processes.echo.cpu_us_per_request.min", "machine.kernel"] {
        assert!(columns.contains(&column), "{column} in {columns:?}");
    }
    assert_eq!(lines.count(), 2);
    let svg = report.svg().unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for text in
        ["ramet-ring, 3 functions, 32 connections, 100 bytes", "http-hops", "99.99 %", "6.1.0", "spectre_v2", "µs"]
    {
        assert!(svg.contains(text), "{text} in {svg}");
    }
}
