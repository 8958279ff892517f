//! Systems under measurement: each is started once, before the rounds, and answers until it is dropped.

mod http;
mod nginx;
mod ramet;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::bail;
use tokio::time::Instant;

use crate::load::{Answer, Workload, fetch};
use crate::options::{ChainOptions, System};
use crate::process::{Launcher, Processes};

pub(crate) use ramet::Transport;

/// How long a system may take until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);
const POLL_PAUSE: Duration = Duration::from_millis(20);
/// A path that no chain has.
const UNROUTED_PATH: &str = "/no-such-chain";

/// A system that answers.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) system: System,
    pub(crate) address: SocketAddr,
    pub(crate) workload: Workload,
    pub(crate) processes: Processes,
}

/// Starts `system`; what was started is ended again if it does not answer.
pub(crate) async fn start(
    system: System,
    options: &ChainOptions,
    started: &[Running],
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    match system {
        System::RametSkmsg => ramet::start_chain(system, Transport::Skmsg, options, launcher).await,
        System::RametRing => ramet::start_chain(system, Transport::Ring, options, launcher).await,
        System::RametSocket => ramet::start_chain(system, Transport::Socket, options, launcher).await,
        System::RametGateway => gateway_alone(options, launcher).await,
        System::HttpHops => http::start_hops(options.functions, launcher).await,
        System::NginxSidecars => nginx::start_sidecars(options, launcher).await,
        System::HyperBare => http::start_fixed(gateway_answer(started), launcher).await,
    }
}

/// A node whose gateway is asked for what no chain answers, so that no function has a part in it.
async fn gateway_alone(options: &ChainOptions, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let options = ChainOptions { functions: 1, ..options.clone() };
    let node = ramet::start_chain(System::RametGateway, Transport::Auto, &options, launcher).await?;
    let answer = fetch(node.address, UNROUTED_PATH).await?;
    if answer.status != 404 {
        bail!("the gateway answers {} instead of 404 where nothing is routed", answer.status);
    }
    Ok(Running { workload: Workload::Fixed { path: UNROUTED_PATH.to_owned(), answer }, ..node })
}

/// What the gateway answers, for hyper to answer the same; a body of the same size if there is no gateway.
fn gateway_answer(started: &[Running]) -> Answer {
    let mut answers = started.iter().filter_map(|running| match &running.workload {
        Workload::Fixed { answer, .. } => Some(answer.clone()),
        Workload::Echo { .. } => None,
    });
    let without_gateway = || {
        let detail = "no chain is routed at this host and path";
        let body = format!(r#"{{"type":"about:blank","title":"Not Found","status":404,"detail":"{detail}"}}"#);
        Answer { status: 404, body: body.into_bytes() }
    };
    answers.next().unwrap_or_else(without_gateway)
}

/// Waits until a GET of `path` is answered with `status`, while the processes run.
async fn answering_get(processes: &mut Processes, address: SocketAddr, path: &str, status: u16) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        processes.expect_alive()?;
        // A server that takes the connection and stays silent must not end the wait for good.
        let why = match tokio::time::timeout_at(deadline, fetch(address, path)).await {
            Ok(Ok(answer)) if answer.status == status => return Ok(()),
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
