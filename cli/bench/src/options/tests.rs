//! What the command line understands, and what it refuses.

use clap::{Parser, ValueEnum};

use super::chain::{ChainOptions, System};
use super::hop::{HopOptions, HopSystem};
use super::ingress::{Front, IngressOptions};
use super::*;
use crate::fork::ForkOptions;
use crate::setting::{Placement, Protocol};

#[derive(Debug, Parser)]
struct Command<T: Args> {
    #[command(flatten)]
    options: T,
}

fn parse<T: Args>(arguments: &[&str]) -> Result<T, clap::Error> {
    Command::try_parse_from([&["bench"], arguments].concat()).map(|command: Command<T>| command.options)
}

#[test]
fn without_arguments_ramet_is_compared_with_what_it_replaces() {
    let options: ChainOptions = parse(&[]).expect("defaults");
    assert_eq!(options.systems(), System::OURS);
    assert_eq!(options.against(), [System::HttpHops, System::NginxSidecars]);
    assert_eq!((options.functions, options.rounds.rounds()), (vec![3], 5));
    assert_eq!((options.connections, options.payload), (vec![32, 1], vec![100]));
    let times = (options.rounds.duration, options.rounds.warm_up);
    assert_eq!(times, (Duration::from_secs(2), Duration::from_millis(300)));
    assert_eq!(options.rate.per_s, None);
}

#[test]
fn names_are_those_of_the_report() {
    for system in System::value_variants() {
        let options: ChainOptions = parse(&["--systems", system.name(), "--against", system.name()]).expect("known");
        assert_eq!((options.systems(), options.against()), (&[*system][..], &[*system][..]));
    }
    for system in HopSystem::value_variants() {
        let options: HopOptions = parse(&["--systems", system.name()]).expect("known");
        assert_eq!(options.systems, [*system]);
    }
    for front in Front::value_variants() {
        let options: IngressOptions = parse(&["--against", front.name()]).expect("known");
        assert_eq!(options.against, [*front]);
    }
    for placement in Placement::value_variants() {
        let options: HopOptions = parse(&["--placement", placement.name()]).expect("known");
        assert_eq!(options.placement, [*placement]);
    }
    for protocol in Protocol::value_variants() {
        let options: IngressOptions = parse(&["--protocol", protocol.name()]).expect("known");
        assert_eq!(options.protocol, [*protocol]);
    }
}

#[test]
fn a_refusal_says_what_is_expected() {
    for (arguments, expected) in [
        (["--payload", "5MB"], "expected at most 32MiB, such as 100, 64KiB or 1MiB"),
        (["--payload", "70MiB"], "expected at most 32MiB, such as 100, 64KiB or 1MiB"),
        (["--rate", "1e9"], "expected a whole number from 1 to 10000000"),
        (["--rounds", "-1"], "expected a whole number from 1 to 1000"),
        (["--connections", "0"], "expected a whole number from 1 to 4096"),
        (["--function", "/etc/passwd"], "it is no program"),
        (["--function", "/no/such/echo"], "No such file or directory"),
    ] {
        let error = parse::<ChainOptions>(&arguments).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(parse::<ChainOptions>(&["--idle", "--rate", "5"]).is_err());
    assert!(parse::<ChainOptions>(&["--idle", "--against", "unix"]).is_err());
    assert!(parse::<ChainOptions>(&["--idle", "--systems", "ramet-ring"]).is_ok());
}

#[test]
fn two_builds_need_more_rounds() {
    let options: ChainOptions = parse(&["--base", "main"]).expect("fine");
    assert_eq!(options.rounds.rounds(), 10);
    let options: ChainOptions = parse(&["--base", "main", "--rounds", "3"]).expect("fine");
    assert_eq!(options.rounds.rounds(), 3);
    let crowds = |arguments: &[&str]| parse(arguments).map(|options: ForkOptions| (options.rounds, options.crowds()));
    assert_eq!(crowds(&[]).expect("fine"), (15, 3));
    assert_eq!(crowds(&["--base", "main"]).expect("fine"), (15, 10));
    assert_eq!(crowds(&["--base", "main", "--crowds", "0"]).expect("fine"), (15, 0));
}

#[test]
fn lists_and_units_are_understood_and_nonsense_is_not() {
    let sweep = ["--payload", "0,64Ki,1MiB", "--functions", "1,2,3", "--duration", "500ms"];
    let options: ChainOptions = parse(&sweep).expect("fine");
    assert_eq!(options.payload, [0, 65_536, 1 << 20]);
    assert_eq!((options.functions, options.rounds.duration), (vec![1, 2, 3], Duration::from_millis(500)));
    for wrong in [
        ["--payload", "1MB"],
        ["--payload", "99999999999999999999Mi"],
        ["--payload", "Ki"],
        ["--payload", "ä"],
        ["--connections", "0"],
        ["--duration", "2"],
        ["--duration", "0s"],
        ["--duration", "61m"],
        ["--functions", "0"],
        ["--functions", "65"],
        ["--rounds", "0"],
        ["--rate", "0"],
        ["--systems", "envoy"],
    ] {
        assert!(parse::<ChainOptions>(&wrong).is_err(), "{wrong:?}");
    }
    for wrong in [["--batch", "0"], ["--batch", "65"], ["--placement", "numa"], ["--in-flight", "0"]] {
        assert!(parse::<HopOptions>(&wrong).is_err(), "{wrong:?}");
    }
}
