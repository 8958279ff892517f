//! `up`: the node in the foreground; and its gateway, which is this program under another name.

use std::io::IsTerminal;
use std::path::Path;

use ramet_control::socket::ControlSocket;
use ramet_manifest::{LogFormat, LogLevel, LogSettings, NodeSettings, Source, Surroundings, Transport};
use tracing_subscriber::EnvFilter;

use crate::arguments::{NodeArguments, TransportArgument, Up};
use crate::client::read_manifests;
use crate::exit::Failure;

/// `ramet up`.
pub(crate) fn run(node: &NodeArguments, options: &Up) -> Result<(), Failure> {
    let mut settings = settings(node)?;
    settings.listen = options.listen.unwrap_or(settings.listen);
    settings.admin = options.admin.unwrap_or(settings.admin);
    settings.transport = options.transport.map_or(settings.transport, transport);
    if let Some(socket) = &node.socket {
        settings.socket.clone_from(socket);
    }
    start_log(settings.log);
    let sources = read_manifests(&options.files)?;
    ramet_runtime::up(settings, sources).map_err(|error| match error {
        ramet_runtime::UpError::Manifests(errors) => Failure::Invalid(format!("{errors:#}")),
        error => Failure::Failed(error.to_string()),
    })
}

/// The gateway process. Its whole environment comes from the supervisor, which puts the log's settings there because a
/// log has to begin before the first message.
pub(crate) fn run_gateway(node: &NodeArguments) -> Result<(), Failure> {
    keep_memory_private()?;
    start_log(settings(node)?.log);
    tracing::debug!("the gateway starts");
    let control = ControlSocket::from_stdin()
        .map_err(|error| Failure::Invalid(format!("the gateway is started by `ramet up`, not by hand: {error}")))?;
    ramet_gateway::run(control).map_err(|error| Failure::Failed(error.to_string()))
}

/// Every request passes through this process's memory, so none but root may look into it: not a core dump, not a
/// process that happens to run as the same user (`PR_SET_DUMPABLE` in prctl(2), ptrace(2)).
fn keep_memory_private() -> Result<(), Failure> {
    nix::sys::prctl::set_dumpable(false)
        .map_err(|errno| Failure::Failed(format!("prctl(PR_SET_DUMPABLE) failed: {errno}")))
}

/// The node's settings: file, then environment.
pub(crate) fn settings(node: &NodeArguments) -> Result<NodeSettings, Failure> {
    let file = node.config.as_deref().map(read_settings).transpose()?;
    let surroundings = Surroundings {
        uid: nix::unistd::geteuid().as_raw(),
        runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(Into::into),
        cores: std::thread::available_parallelism().map_or(1, Into::into),
    };
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let pair = (name.into_string().ok()?, value.into_string().ok()?);
        (pair.0 != ramet_manifest::settings::ENVIRONMENT_CONFIG).then_some(pair)
    });
    NodeSettings::parse(file.as_ref(), environment, &surroundings)
        .map_err(|errors| Failure::Invalid(format!("{errors:#}")))
}

fn read_settings(file: &Path) -> Result<Source, Failure> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::Invalid(format!("cannot read the settings file {name}: {error}")))?;
    let base_dir = std::path::absolute(file)?.parent().map(Path::to_path_buf);
    Ok(Source { name, text, base_dir })
}

/// The settings' name of a transport.
pub(crate) fn transport(argument: TransportArgument) -> Transport {
    match argument {
        TransportArgument::Auto => Transport::Auto,
        TransportArgument::Skmsg => Transport::Skmsg,
        TransportArgument::Ring => Transport::Ring,
        TransportArgument::Socket => Transport::Socket,
    }
}

pub(crate) fn start_log(settings: LogSettings) {
    let level = match settings.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::try_from_env("RUST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Colours are for who looks at a terminal and has not asked for none (https://no-color.org).
    let wants_none = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let in_colour = std::io::stderr().is_terminal() && !wants_none;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(in_colour).with_writer(std::io::stderr);
    // A second subscriber is refused; the first is as good.
    let _ = match settings.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
