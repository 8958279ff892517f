//! `ramet bench hop`: a message from process to process, without HTTP.

mod fabric;
mod running;

use std::collections::BTreeSet;

use crate::build::Build;
use crate::engine::Engine;
use crate::options::NodeOptions;
use crate::options::each_once;
use crate::options::hop::{HopOptions, HopSystem};
use crate::process::Launcher;
use crate::report::LoadReport;
use crate::setting::{Identity, Role, Setting};
use crate::subject::Subject;

use running::Running;

/// How long a message is.
const MESSAGE_BYTES: usize = ramet_common::DESCRIPTOR_BYTES;

/// Starts the systems for each number of functions in turn, and runs the rounds of each setting.
pub(crate) async fn measure(options: &HopOptions, base: Option<&Build>) -> anyhow::Result<LoadReport> {
    let this = Build::this(&NodeOptions::default())?;
    let lengths: BTreeSet<u32> = options.functions.iter().copied().collect();
    let settings_of = |functions| settings(options, functions);
    let mut engine = Engine::new(&options.rounds, lengths.iter().map(|&length| settings_of(length).len()).sum());
    for &functions in &lengths {
        let launcher = Launcher::new()?;
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        for system in each_once(options.systems.iter().chain(&options.against).copied()) {
            let builds = [Some(&this), base.filter(|_| system.role() == Role::Ours)];
            for build in builds.into_iter().flatten() {
                engine.say(format!("starting {system}"));
                let identity =
                    Identity::new(system.name(), system.transport(), system.role()).of_build(build.revision());
                match Running::start(system, identity.clone(), build, functions, &launcher).await {
                    Ok(running) => subjects.push(Box::new(running)),
                    Err(error) => engine.leave_out(&identity, &error),
                }
            }
        }
        engine.expect_any(&subjects, options.systems.iter().map(|system| system.name()))?;
        engine.measure(&mut subjects, &settings_of(functions)).await;
    }
    engine.report(compares)
}

/// What can be compared: transports with what does the same with less, or without ramet.
fn compares(ours: &Identity, other: &Identity) -> bool {
    let is = |identity: &Identity, systems: &[HopSystem]| systems.iter().any(|system| system.name() == identity.system);
    match () {
        () if is(other, &[HopSystem::CacheLine, HopSystem::Iceoryx2]) => is(ours, &[HopSystem::RametRing]),
        () if is(other, &[HopSystem::BareRing]) => ours.transport == "ring",
        () if is(other, &[HopSystem::BareSkmsg]) => ours.transport == "skmsg",
        () if is(other, &[HopSystem::Futex]) => is(ours, &[HopSystem::RametRingSleeping, HopSystem::RametSkmsg]),
        () => true,
    }
}

fn settings(options: &HopOptions, functions: u32) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &in_flight in &options.in_flight {
        for &placement in &options.placement {
            // One message cannot be sent with others.
            let batches = if in_flight == 1 { &[1][..] } else { &options.batch };
            settings.extend(batches.iter().map(|&batch| Setting {
                placement: Some(placement),
                batch: Some(batch),
                ..Setting::new(functions, in_flight, MESSAGE_BYTES)
            }));
        }
    }
    settings
}
