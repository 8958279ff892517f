//! The gateway as the supervisor sees it: a child with workers on the data plane, replaced as a whole when it dies.

use std::path::{Path, PathBuf};

use ramet_common::InstanceId;
use ramet_control::gateway::{self, Tls, ToGateway};
use ramet_dataplane::TransportKind;
use ramet_dataplane::transport::patience::BusyPoll;
use ramet_fork::Habitat;
use ramet_manifest::{NodeSettings, settings};
use ramet_sys::{Limits, Network, Output, Program, Sandbox, User};

use crate::event::{Event, Events};
use crate::process::{Process, StartError, Started, Stdin};

/// Descriptors that the gateway needs beside one per connection: lanes, pools, epolls.
const OPEN_FILES_BESIDE: u64 = 65_536;

/// How far the gateway is.
///
/// Starting → Greeted (`Hello`) → Serving (`Ready`) → Drained (`Drained`, after it was told to drain).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum GatewayStage {
    /// The process runs; its first word is awaited.
    Starting,
    /// It may be told things.
    Greeted,
    /// It accepts connections.
    Serving,
    /// It has answered everything that it accepted.
    Drained,
}

/// The gateway's process.
#[derive(Debug)]
pub(crate) struct Gateway {
    /// Counts gateways, so that a late event of one is not taken for the next one's.
    pub(crate) epoch: u32,
    pub(crate) process: Process<ToGateway>,
    pub(crate) stage: GatewayStage,
    /// Its places on the data plane, by worker.
    pub(crate) workers: Vec<InstanceId>,
    /// Whether a timer watches over its answers.
    pub(crate) is_watched: bool,
}

impl Gateway {
    /// Starts the gateway: this same program, told to be the gateway.
    pub(crate) fn start(epoch: u32, settings: &NodeSettings, events: Events) -> Result<Self, StartError> {
        let path = own_program();
        let environment = environment(settings);
        let program = |stdin| Program {
            path: path.clone(),
            arguments: vec![path.into(), "gateway".into()],
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            folder: PathBuf::from("/"),
            stdin,
            output: Output::Inherited,
        };
        let event = move |word| Event::Gateway(epoch, word);
        let Started { process, .. } =
            Process::start(program, Stdin::Conversation, &sandbox(settings), Habitat::default(), events, event)?;
        Ok(Self { epoch, process, stage: GatewayStage::Starting, workers: Vec::new(), is_watched: false })
    }
}

/// All that the gateway's environment holds: how to log. Everything else it is told ([`settings`]), but it logs before.
fn environment(settings: &NodeSettings) -> Vec<(&'static str, String)> {
    let level = format!("{:?}", settings.log.level).to_lowercase();
    let format = format!("{:?}", settings.log.format).to_lowercase();
    let mut environment = vec![("RAMET_LOG__LEVEL", level), ("RAMET_LOG__FORMAT", format)];
    environment.extend(std::env::var("RUST_LOG").ok().map(|filter| ("RUST_LOG", filter)));
    environment
}

/// As a function's, but with the host's network, and as the first of the node's users, which no function gets.
fn sandbox(settings: &NodeSettings) -> Sandbox {
    let is_root = rustix::process::geteuid().is_root();
    Sandbox {
        user: is_root.then_some(User { uid: settings.uid_base, gid: settings.uid_base }),
        network: Network::Host,
        limits: Limits {
            memory_bytes: None,
            open_files: Some(u64::from(settings.gateway.max_connections) + OPEN_FILES_BESIDE),
            processes: None,
        },
    }
}

/// The file of this program. Its path may name another one by now, or none.
pub(crate) fn own_program() -> PathBuf {
    const SELF: &str = "/proc/self/exe";
    std::env::current_exe().ok().filter(|path| path.is_file()).unwrap_or_else(|| Path::new(SELF).to_owned())
}

/// What the gateway is told first.
pub(crate) fn told(settings: &NodeSettings, transport: TransportKind, tls: Option<Tls>) -> Box<gateway::Settings> {
    let limits = &settings.gateway;
    Box::new(gateway::Settings {
        transport,
        busy_poll: busy_poll(settings.busy_poll),
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
        body_timeout: limits.body_timeout,
        header_bytes_max: usize::try_from(limits.max_header_bytes.bytes()).unwrap_or(usize::MAX),
        connections_max: limits.max_connections as usize,
        tls,
    })
}

/// The data plane's word for a setting.
pub(crate) fn busy_poll(setting: settings::BusyPoll) -> BusyPoll {
    match setting {
        settings::BusyPoll::Never => BusyPoll::Never,
        settings::BusyPoll::Adaptive => BusyPoll::Adaptive,
        settings::BusyPoll::Always => BusyPoll::Always,
    }
}

/// The certificate or its key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}, which `tls` in the node's settings names: {source}", path.display())]
pub struct TlsError {
    path: PathBuf,
    source: std::io::Error,
}

/// Reads the certificate, which the gateway could not.
pub(crate) fn read_tls(settings: &NodeSettings) -> Result<Option<Tls>, TlsError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| TlsError { path: path.clone(), source });
    let Some(tls) = &settings.tls else { return Ok(None) };
    Ok(Some(Tls { certificate_pem: read(&tls.certificate)?, key_pem: read(&tls.key)? }))
}
