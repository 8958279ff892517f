//! The HTTP systems that consist of nothing but this executable.

use std::net::SocketAddr;

use super::{Running, answering_get};
use crate::load::{Answer, Workload};
use crate::options::System;
use crate::process::{Launcher, Process, Processes, THIS_PROGRAM};

/// The functions, each calling the next one.
pub(super) async fn start_hops(functions: u32, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let addresses = (0..functions).map(|_| launcher.free_address()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut processes = Processes::default();
    for (index, &listen) in addresses.iter().enumerate() {
        let name = format!("http-hop-{}", index + 1);
        processes.0.push(start_hop(&name, listen, addresses.get(index + 1).copied(), launcher)?);
    }
    answering_get(&mut processes, addresses[0], "/", 200).await?;
    let workload = Workload::Echo { path: "/".to_owned() };
    Ok(Running { system: System::HttpHops, address: addresses[0], workload, processes })
}

/// One function that listens at `listen` and calls `next`.
pub(super) fn start_hop(
    name: &str,
    listen: SocketAddr,
    next: Option<SocketAddr>,
    launcher: &Launcher,
) -> anyhow::Result<Process> {
    let mut arguments = vec![crate::PEER_COMMAND.to_owned(), "http-hop".to_owned(), format!("--listen={listen}")];
    arguments.extend(next.map(|next| format!("--next={next}")));
    launcher.start(name, THIS_PROGRAM, arguments.into_iter().map(Into::into))
}

/// hyper answering `answer` to everything.
pub(super) async fn start_fixed(answer: Answer, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let address = launcher.free_address()?;
    let body = String::from_utf8_lossy(&answer.body);
    let arguments = [
        crate::PEER_COMMAND.to_owned(),
        "fixed".to_owned(),
        format!("--listen={address}"),
        format!("--status={}", answer.status),
        "--content-type=application/problem+json".to_owned(),
        format!("--body={body}"),
    ];
    let process = launcher.start("hyper-bare", THIS_PROGRAM, arguments.into_iter().map(Into::into))?;
    let mut processes = Processes(vec![process]);
    answering_get(&mut processes, address, "/", answer.status).await?;
    let workload = Workload::Fixed { path: super::UNROUTED_PATH.to_owned(), answer };
    Ok(Running { system: System::HyperBare, address, workload, processes })
}
