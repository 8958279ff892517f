//! The supervisor: the crate under test, with settings from the environment.

use std::process::ExitCode;

use ramet_manifest::settings::Surroundings;
use ramet_manifest::{NodeSettings, Source};
use ramet_runtime::UpError;

pub(crate) fn run() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::new("debug");
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let uid = rustix::process::geteuid().as_raw();
    let surroundings = Surroundings { uid, runtime_dir: None, cores: 2 };
    let settings = NodeSettings::parse(None, std::env::vars(), &surroundings).expect("settings");
    let sources = std::env::args().skip(2).map(|path| Source {
        text: std::fs::read_to_string(&path).expect("a manifest"),
        name: path,
        base_dir: None,
    });
    match ramet_runtime::up(settings, sources.collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(UpError::Manifests(errors)) => {
            eprintln!("{errors}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
