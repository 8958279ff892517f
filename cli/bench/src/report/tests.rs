//! The report's arithmetic and the form of its JSON, which other programs rely on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::*;

const SETTING: Setting = Setting { functions: 3, connections: 32, payload_bytes: 100 };

fn sample(requests_per_s: f64, p50_us: f64) -> Sample {
    Sample { requests_per_s, p50_us, p99_us: 2.0 * p50_us, p999_us: 3.0 * p50_us, cpu_us_per_request: 10.0 }
}

fn report() -> ChainReport {
    let machine = Machine {
        kernel: "6.1.0".to_owned(),
        cpu_model: "A processor".to_owned(),
        cores: 2,
        load_average: [0.1, 0.2, 0.3],
        mitigations: BTreeMap::from([("spectre_v2".to_owned(), "Mitigation: Retpolines".to_owned())]),
    };
    let samples = BTreeMap::from([
        (System::RametRing, vec![sample(300.0, 10.0), sample(200.0, 20.0), sample(800.0, 5.0)]),
        (System::HttpHops, vec![sample(100.0, 40.0), sample(100.0, 40.0), sample(200.0, 20.0)]),
    ]);
    let left_out = vec![
        LeftOut { system: System::NginxSidecars, setting: None, reason: "there is no nginx in PATH".to_owned() },
        LeftOut { system: System::RametSkmsg, setting: Some(SETTING), reason: "status 503".to_owned() },
    ];
    ChainReport::new(machine, 3, &[(SETTING, samples)], left_out)
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn ratios_are_ramets_value_divided_by_the_rivals_of_the_same_round() {
    let report = report();
    assert_eq!(report.ratios.len(), 1, "only against a rival that was measured");
    let ratio = &report.ratios[0];
    assert_eq!((ratio.system, ratio.against), ("ramet-ring", "http-hops"));
    assert_eq!(ratio.requests_per_s, Spread { median: 3.0, min: 2.0, max: 4.0 });
    assert_eq!(ratio.p50_us, Spread { median: 0.25, min: 0.25, max: 0.5 });
    assert_eq!(ratio.cpu_us_per_request, Spread { median: 1.0, min: 1.0, max: 1.0 });
}

#[test]
fn rows_are_medians_with_their_extremes() {
    let report = report();
    let row = report.rows.iter().find(|row| row.system == "ramet-ring").expect("it was measured");
    assert_eq!(row.requests_per_s, Spread { median: 300.0, min: 200.0, max: 800.0 });
    assert_eq!(row.p99_us, Spread { median: 20.0, min: 10.0, max: 40.0 });
}

#[test]
fn the_json_has_exactly_the_agreed_keys() {
    let json = serde_json::to_value(Report::Chain(report())).expect("plain data");
    assert_eq!(keys(&json), BTreeSet::from(["machine", "rounds", "rows", "ratios"]));
    assert_eq!(json["rounds"], 3);
    let machine = BTreeSet::from(["kernel", "cpu_model", "cores", "load_average", "mitigations"]);
    assert_eq!(keys(&json["machine"]), machine);
    let of_setting = ["system", "functions", "connections", "payload_bytes", "requests_per_s", "p50_us"];
    let row: BTreeSet<_> = of_setting.into_iter().chain(["transport", "p99_us", "cpu_us_per_request"]).collect();
    let ratio: BTreeSet<_> = of_setting.into_iter().chain(["against", "cpu_us_per_request"]).collect();
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(keys(&json["rows"][0]), row);
    assert_eq!(keys(&json["ratios"][0]), ratio);
    for value in ["requests_per_s", "p50_us", "p99_us", "cpu_us_per_request"] {
        assert_eq!(keys(&json["rows"][0][value]), BTreeSet::from(["median", "min", "max"]), "{value}");
    }
}

#[test]
fn the_table_begins_with_ratios_and_ends_with_what_is_missing() {
    let report = Report::Chain(report());
    assert!(report.has_failures());
    let text = report.to_string();
    assert!(text.starts_with("Ratios"), "{text}");
    assert!(text.contains("3.00× (2.00–4.00)"), "{text}");
    assert!(text.contains("spectre_v2"), "{text}");
    assert!(text.contains("skipped: nginx-sidecars: there is no nginx in PATH"), "{text}");
    assert!(text.trim_end().ends_with("FAILED: ramet-skmsg (3 functions, 32 connections, 100 bytes): status 503"));
}
