//! `ramet bench ingress`: fronts that answer by themselves, under load.

use crate::build::Build;
use crate::engine::Engine;
use crate::options::each_once;
use crate::options::ingress::IngressOptions;
use crate::process::Launcher;
use crate::report::LoadReport;
use crate::setting::{Identity, Setting};
use crate::subject::Subject;
use crate::system::{self, Running};

/// Starts the fronts, the gateway first because the others repeat what it answers, and runs the rounds.
pub(crate) async fn measure(options: &IngressOptions, base: Option<&Build>) -> anyhow::Result<LoadReport> {
    let this = Build::this(&options.nodes)?;
    let base = base.map(|base| base.with_settings_of(&this));
    let settings = settings(options);
    let connections_max = options.connections.iter().max().copied().unwrap_or(1);
    let mut engine = Engine::new(&options.rounds, settings.len());
    let mut launcher = Launcher::new()?;
    let mut running: Vec<Running> = Vec::new();
    for front in each_once(options.systems.iter().chain(&options.against).copied()) {
        let builds = [Some(&this), base.as_ref().filter(|_| front.is_ours())];
        for build in builds.into_iter().flatten() {
            engine.say(format!("starting {front}"));
            match system::start_front(front, build, connections_max, &running, &mut launcher).await {
                Ok(started) => running.push(started),
                Err(error) => {
                    let identity = Identity::new(front.name(), "none", front.role()).of_build(build.revision());
                    engine.leave_out(&identity, &error);
                }
            }
        }
    }
    let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
    for running in running {
        subjects.push(Box::new(running));
    }
    engine.expect_any(&subjects, options.systems.iter().map(|front| front.name()))?;
    engine.measure(&mut subjects, &settings).await;
    engine.report(|_, _| true)
}

fn settings(options: &IngressOptions) -> Vec<Setting> {
    let of_connections = |&connections: &usize| {
        let setting = move |&protocol| Setting {
            protocol: Some(protocol),
            rate_per_s: options.rate.per_s,
            ..Setting::new(0, connections, 0)
        };
        options.protocol.iter().map(setting)
    };
    options.connections.iter().flat_map(of_connections).collect()
}
