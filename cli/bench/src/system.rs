//! Systems under measurement: each is started once, before its rounds, and answers until it is dropped.

mod fronts;
mod hops;
mod http;
mod nginx;
mod ramet;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{anyhow, bail};
use rustix::process::Pid;
use tokio::time::Instant;

use crate::build::Build;
use crate::load::{self, Answer, Workload, fetch};
use crate::options::chain::{ChainOptions, System, Target};
use crate::process::{Launcher, ProcessTree, Processes};
use crate::setting::{Identity, Protocol, Role, Setting, Times};
use crate::subject::{Round, Subject};

pub(crate) use fronts::start_front;
pub(crate) use ramet::{Chain, Functions, Shortcut, Transport};

/// How long a system may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Besides two for each connection, because a client that goes away leaves one: those that ask whether it answers.
const SPARE_MESSAGES: usize = 16;
const POLL_PAUSE: Duration = Duration::from_millis(20);

/// A system that answers HTTP.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) identity: Identity,
    pub(crate) address: SocketAddr,
    /// Where it speaks HTTP/2, if not there too.
    pub(crate) h2c: Option<SocketAddr>,
    pub(crate) workload: Workload,
    pub(crate) processes: Measured,
    /// How many functions a request passes, if that is known.
    pub(crate) functions: Option<u32>,
}

/// The processes of a system.
#[derive(Debug)]
pub(crate) enum Measured {
    /// Started here, and ended with it.
    Own(Processes),
    /// Somebody else's: what descends from this one is measured, if it is known.
    Others(Option<Pid>),
}

impl Measured {
    pub(crate) fn tree(&self) -> anyhow::Result<Option<ProcessTree>> {
        match self {
            Self::Own(processes) => processes.tree().map(Some),
            Self::Others(root) => root.map(|root| ProcessTree::of(&[root])).transpose(),
        }
    }

    fn expect_alive(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Own(processes) => processes.expect_alive(),
            Self::Others(_) => Ok(()),
        }
    }

    fn last_lines(&self) -> String {
        match self {
            Self::Own(processes) => processes.last_lines(),
            Self::Others(_) => String::new(),
        }
    }
}

impl Subject for Running {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn suits(&self, setting: &Setting) -> bool {
        self.functions == setting.functions
    }

    fn round(&mut self, setting: Setting, times: Times) -> Round<'_> {
        Box::pin(async move {
            self.processes.expect_alive()?;
            let tree = self.processes.tree()?;
            let address = match (setting.protocol, self.h2c) {
                (Some(Protocol::H2c), Some(h2c)) => h2c,
                _ => self.address,
            };
            let sample = load::round(address, &self.workload, &setting, times, tree.as_ref()).await;
            sample.map_err(|error| anyhow!("{error:#}{}", self.processes.last_lines()))
        })
    }
}

/// Starts `system`, of ramet in this build; what was started is ended again if it does not answer.
pub(crate) async fn start(
    system: System,
    build: &Build,
    functions: u32,
    options: &ChainOptions,
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let connections_max = options.connections.iter().max().copied().unwrap_or(1);
    let identity = Identity::new(system.name(), system.transport(), system.role()).of_build(build.revision());
    let (transport, kind) = match system {
        System::RametSkmsg => (Transport::Skmsg, Functions::Linked),
        System::RametRing => (Transport::Ring, Functions::Linked),
        System::RametSocket => (Transport::Socket, Functions::Linked),
        System::RametHttp => (Transport::Auto, Functions::Http(Shortcut::On)),
        System::RametHttpPlain => (Transport::Auto, Functions::Http(Shortcut::Off)),
        System::HttpHops => return http::start_hops(identity, functions, launcher).await,
        System::NginxSidecars => return nginx::start_sidecars(identity, functions, connections_max, launcher).await,
        System::Grpc => return hops::start(identity, hops::Protocol::Grpc, functions, launcher).await,
        System::Iceoryx2 => {
            let bytes = options.payload.iter().max().copied().unwrap_or_default();
            let protocol = hops::Protocol::Samples { messages: 2 * connections_max + SPARE_MESSAGES, bytes };
            return hops::start(identity, protocol, functions, launcher).await;
        }
        System::Unix => return hops::start(identity, hops::Protocol::Unix, functions, launcher).await,
        System::Tcp => return hops::start(identity, hops::Protocol::Tcp, functions, launcher).await,
    };
    let chain = Chain { identity, transport, functions, kind, connections_max };
    ramet::start_chain(chain, build, launcher).await
}

/// A system that runs already.
pub(crate) fn attach(target: &Target) -> anyhow::Result<Running> {
    let process = target.process.map(|pid| Pid::from_raw(pid).ok_or_else(|| anyhow!("{pid} is no process")));
    Ok(Running {
        identity: Identity::new(&target.name, &target.transport, Role::Ours),
        address: target.address,
        h2c: None,
        workload: Workload::Any { host: target.host.clone(), path: target.path.clone() },
        processes: Measured::Others(process.transpose()?),
        functions: target.functions,
    })
}

/// Waits until a GET of `path` is answered with `status`, while the processes run.
async fn answering_get(
    processes: &mut Processes,
    address: SocketAddr,
    path: &str,
    status: u16,
) -> anyhow::Result<Answer> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        processes.expect_alive()?;
        // A server that takes the connection and stays silent must not end the wait for good.
        let why = match tokio::time::timeout_at(deadline, fetch(address, path)).await {
            Ok(Ok(answer)) if answer.status == status => return Ok(answer),
            Ok(Ok(answer)) => format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        if Instant::now() >= deadline {
            bail!("{path} is not answered {status} within {START_PATIENCE:?}: {why}{}", processes.last_lines());
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
