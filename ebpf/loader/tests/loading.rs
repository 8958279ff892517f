//! The object loads, with the loader that ramet uses and with an independent one, and the probe tells the truth.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use libbpf_rs::{MapCore, ObjectBuilder, ProgramType};
use ramet_common::map;
use ramet_loader::{LoadOptions, LoaderError, Sproxy, find_object, probe};
use rig::Rig;
use std::os::fd::AsFd;
use std::path::Path;

const MAPS: [&str; 11] = [
    map::IDENTITIES,
    map::SENDERS,
    map::RECEIVERS,
    map::NOWHERE,
    map::FUNCTIONS,
    map::INSTANCES,
    map::DOMAINS,
    map::EDGES,
    map::LEDGER,
    map::HOPS,
    map::REFUSALS,
];

#[test]
fn the_object_loads_with_aya() {
    let Some(rig) = Rig::new() else { return };
    assert_eq!(rig.sproxy.ledger_slots(), 4096);
    assert_eq!(rig.ledger.len(), 4096);
    assert_eq!(rig.instances.len(), map::INSTANCES_MAX);
}

#[test]
fn the_same_object_loads_with_libbpf() {
    if Rig::new().is_none() {
        return;
    }
    let object = ObjectBuilder::default().open_file(find_object().unwrap()).unwrap().load().unwrap();
    let names: Vec<String> = object.maps().map(|map| map.name().to_string_lossy().into_owned()).collect();
    for name in MAPS {
        assert!(names.iter().any(|found| found == name), "{name} is missing from {names:?}");
    }
    let program = object.progs().find(|program| program.name() == map::SPROXY).unwrap();
    assert_eq!(program.prog_type(), ProgramType::SkMsg);
    program.as_fd().try_clone_to_owned().unwrap();
}

#[test]
fn the_probe_says_that_all_works_where_it_does() {
    if Rig::new().is_none() {
        return;
    }
    let probe = probe();
    assert!(probe.works(), "{:?}", probe.failure());
    assert_eq!(probe.steps.len(), 7);
}

#[test]
fn a_file_that_is_no_object_is_named_in_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("garbage.o");
    std::fs::write(&path, b"no ELF").unwrap();
    let error = Sproxy::load(&path, LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoaderError::ObjectInvalid { .. }), "{error}");
    assert!(error.to_string().contains("garbage.o"), "{error}");
    let error = Sproxy::load(Path::new("/nonexistent.o"), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, LoaderError::ObjectUnreadable { .. }), "{error}");
}
