//! What is said of two builds, in all forms of the report.

use clap::Parser;

use super::*;
use crate::Report;
use crate::noise::Difference;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    options: ForkOptions,
}

/// Of six rounds in which the base's forks took twice as long, and of three with many children.
fn report(arguments: &[&str]) -> ForkReport {
    let options = Command::try_parse_from([&["fork", "--rounds=6"], arguments].concat()).unwrap().options;
    let values = [10.0, 20.0, 5.0, 10.0, 40.0, 10.0];
    let (this, base) = (ForkSystem::RametTcp, Entrant { system: ForkSystem::RametTcp, of: Of::Base });
    let mut samples = Samples::default();
    let mut note = |measure, entrant, values: Vec<f64>| drop(samples.values.insert((measure, entrant), values));
    note(Measure::Cold, Entrant::this(this), values.into());
    note(Measure::Cold, Entrant::this(ForkSystem::FreshPython), values.map(|value| 100.0 * value).into());
    note(Measure::ChildrenPerS, Entrant::this(this), vec![1500.0; 3]);
    note(Measure::DescriptorBytes, Entrant::this(this), vec![1000.0; 6]);
    if options.base.is_some() {
        note(Measure::Cold, base, values.map(|value| 2.0 * value).into());
        note(Measure::ChildrenPerS, base, vec![1000.0; 3]);
        note(Measure::DescriptorBytes, base, vec![1000.0; 6]);
        samples.steps.insert((Measure::Cold, "of old".to_owned(), base), vec![1.0; 6]);
    }
    ForkReport::new(Machine::here(), &options, &samples)
}

#[test]
fn this_build_is_divided_by_the_other_round_by_round() {
    let report = report(&["--base=main"]);
    let differences: Vec<_> = report.ratios.iter().filter(|ratio| ratio.verdict.is_some()).collect();
    let said = |ratio: &&ForkRatio| (ratio.measure, ratio.verdict.unwrap().difference);
    let expected = [
        ("descriptor", Difference::WithinNoise),
        ("cold answer", Difference::Smaller),
        ("children answered", Difference::TooFewRounds),
    ];
    assert_eq!(differences.iter().map(said).collect::<Vec<_>>(), expected);
    assert!(differences.iter().all(|ratio| ratio.system == "ramet-tcp" && ratio.against == "ramet-tcp@main"));
    assert_eq!(differences[1].value, Spread { median: 0.5, min: 0.5, max: 0.5 });
    // What is aimed at is this build's.
    assert_eq!(report.aims.iter().find(|aim| aim.aim.starts_with("children")).unwrap().reached, 1500.0);
    let others: Vec<_> = report.ratios.iter().filter(|ratio| ratio.verdict.is_none()).collect();
    assert!(matches!(others.as_slice(), [ratio] if ratio.against == "fresh-python" && ratio.value.median == 0.01));
}

#[test]
fn the_other_build_is_in_every_form() {
    let report = Report::Fork(report(&["--base=main"]));
    let text = report.to_string();
    assert!(text.contains("Differences between the builds"), "{text}");
    assert!(text.contains("smaller (0.031)") && text.contains("too few rounds"), "{text}");
    assert!(text.contains("of old"), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    let ratio = json["ratios"].as_array().unwrap().last().unwrap();
    assert_eq!(ratio["verdict"]["difference"], "too-few-rounds");
    assert!(report.csv().unwrap().contains("cold answer,ramet-tcp@main"), "{}", report.csv().unwrap());
    assert!(report.svg().unwrap().contains("ramet-tcp@main"));
}

#[test]
fn one_build_has_no_verdicts() {
    let report = Report::Fork(report(&[]));
    assert!(!report.to_string().contains("Differences"), "{report}");
    let json = serde_json::to_string(&report).unwrap();
    assert!(!json.contains("verdict") && !json.contains('@'), "{json}");
}
