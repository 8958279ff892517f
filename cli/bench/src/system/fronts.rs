//! Servers that answer by themselves: the gateway where nothing is routed, and others that give the same answer.

use super::{Chain, Functions, Measured, Running, Transport, answering_get, nginx, ramet};
use crate::build::Build;
use crate::load::{Answer, Workload};
use crate::options::ingress::Front;
use crate::process::{Launcher, Processes, THIS_PROGRAM};
use crate::setting::Identity;

/// A path that no chain has.
pub(super) const UNROUTED_PATH: &str = "/no-such-chain";
/// What the gateway says there.
pub(super) const UNROUTED_STATUS: u16 = 404;

/// Starts `front`; `started` are those that run already, of which one may say what is to be answered.
pub(crate) async fn start_front(
    front: Front,
    build: &Build,
    connections_max: usize,
    started: &[Running],
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let identity = Identity::new(front.name(), "none", front.role()).of_build(build.revision());
    match front {
        Front::RametGateway => gateway_alone(identity, build, connections_max, launcher).await,
        Front::HyperBare => start_hyper(identity, gateway_answer(started), launcher).await,
        Front::NginxBare => nginx::start_bare(identity, gateway_answer(started), launcher).await,
    }
}

/// A node whose gateway is asked for what no chain answers, so that no function has a part in it.
async fn gateway_alone(
    identity: Identity,
    build: &Build,
    connections_max: usize,
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let (transport, kind) = (Transport::Auto, Functions::Linked);
    let chain = Chain { identity, transport, functions: 1, kind, connections_max };
    let mut node = ramet::start_chain(chain, build, launcher).await?;
    let Measured::Own(processes) = &mut node.processes else { return Ok(node) };
    let answer = answering_get(processes, node.address, UNROUTED_PATH, UNROUTED_STATUS).await?;
    let workload = Workload::Fixed { path: UNROUTED_PATH.to_owned(), answer };
    Ok(Running { workload, functions: Some(0), ..node })
}

/// What the gateway answers, for the others to answer the same; a body of the same size if there is no gateway.
fn gateway_answer(started: &[Running]) -> Answer {
    let mut answers = started.iter().filter_map(|running| match &running.workload {
        Workload::Fixed { answer, .. } => Some(answer.clone()),
        Workload::Echo { .. } | Workload::Any { .. } => None,
    });
    let without_gateway = || {
        let detail = "no chain is routed at this host and path";
        let body = format!(r#"{{"type":"about:blank","title":"Not Found","status":404,"detail":"{detail}"}}"#);
        Answer { status: UNROUTED_STATUS, body: body.into_bytes() }
    };
    answers.next().unwrap_or_else(without_gateway)
}

/// hyper answering `answer` to everything.
async fn start_hyper(identity: Identity, answer: Answer, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let (address, h2c) = (launcher.free_address()?, launcher.free_address()?);
    let body = String::from_utf8_lossy(&answer.body);
    let arguments = [
        crate::PEER_COMMAND.to_owned(),
        "fixed".to_owned(),
        format!("--listen={address}"),
        format!("--h2c={h2c}"),
        format!("--status={}", answer.status),
        "--content-type=application/problem+json".to_owned(),
        format!("--body={body}"),
    ];
    let process = launcher.start("hyper-bare", THIS_PROGRAM, arguments.into_iter().map(Into::into))?;
    let mut processes = Processes(vec![process]);
    answering_get(&mut processes, address, "/", answer.status).await?;
    let workload = Workload::Fixed { path: UNROUTED_PATH.to_owned(), answer };
    let functions = Some(0);
    Ok(Running { identity, address, h2c: Some(h2c), workload, processes: Measured::Own(processes), functions })
}
