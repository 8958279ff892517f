//! `ramet bench chain`: chains of functions under load.

use std::collections::BTreeSet;

use crate::build::Build;
use crate::engine::Engine;
use crate::options::chain::{ChainOptions, System, Target};
use crate::options::each_once;
use crate::process::Launcher;
use crate::report::LoadReport;
use crate::setting::{Identity, Protocol, Setting};
use crate::subject::Subject;
use crate::system;

/// Starts the systems for each length of the chain in turn, and runs the rounds of each setting.
pub(crate) async fn measure(options: &ChainOptions, base: Option<&Build>) -> anyhow::Result<LoadReport> {
    let this = Build::this(&options.nodes)?;
    let base = base.map(|base| base.with_settings_of(&this));
    let lengths: BTreeSet<u32> = options.functions.iter().copied().collect();
    let settings_of = |functions| settings(options, Some(functions));
    let mut engine = Engine::new(&options.rounds, lengths.iter().map(|&length| settings_of(length).len()).sum());
    for &functions in &lengths {
        let mut launcher = Launcher::new()?;
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        for (system, build) in wanted(options, &this, base.as_ref()) {
            engine.say(format!("starting {system}"));
            match system::start(system, build, functions, options, &mut launcher).await {
                Ok(running) => subjects.push(Box::new(running)),
                Err(error) => engine.leave_out(&identity(system, build), &error),
            }
        }
        engine.expect_any(&subjects, options.systems().iter().map(|system| system.name()))?;
        engine.measure(&mut subjects, &settings_of(functions)).await;
    }
    engine.report(|_, _| true)
}

/// Measures chains of a node that runs already.
pub(crate) async fn measure_targets(options: &ChainOptions, targets: &[Target]) -> anyhow::Result<LoadReport> {
    let lengths: BTreeSet<Option<u32>> = targets.iter().map(|target| target.functions).collect();
    let settings: Vec<_> = lengths.iter().flat_map(|&length| settings(options, length)).collect();
    let mut engine = Engine::new(&options.rounds, settings.len());
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for target in targets {
        subjects.push(Box::new(system::attach(target)?));
    }
    engine.measure(&mut subjects, &settings).await;
    engine.report(|_, _| false)
}

/// What is asked for, ours in every build.
fn wanted<'b>(options: &ChainOptions, this: &'b Build, base: Option<&'b Build>) -> Vec<(System, &'b Build)> {
    let systems = each_once(options.systems().iter().chain(options.against()).copied());
    let builds = |system: System| [Some(this), base.filter(|_| system.is_ours())].into_iter().flatten();
    systems.into_iter().flat_map(|system| builds(system).map(move |build| (system, build))).collect()
}

pub(crate) fn identity(system: System, build: &Build) -> Identity {
    Identity::new(system.name(), system.transport(), system.role()).of_build(build.revision())
}

/// Each number of connections with each payload.
fn settings(options: &ChainOptions, functions: Option<u32>) -> Vec<Setting> {
    let of_connections = |&connections: &usize| {
        let setting = move |&payload_bytes: &usize| Setting {
            functions,
            rate_per_s: options.rate.per_s,
            protocol: options.reconnect.then_some(Protocol::Http1Close),
            ..Setting::new(0, connections, payload_bytes)
        };
        options.payload.iter().map(setting)
    };
    options.connections.iter().flat_map(of_connections).collect()
}
