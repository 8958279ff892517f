//! Functions that are HTTP servers, each of which calls the next one.

use std::net::SocketAddr;

use super::{Measured, Running, answering_get};
use crate::load::Workload;
use crate::process::{Launcher, Process, Processes, THIS_PROGRAM};
use crate::setting::Identity;

/// The functions, each calling the next one.
pub(super) async fn start_hops(identity: Identity, functions: u32, launcher: &mut Launcher) -> anyhow::Result<Running> {
    let addresses = (0..functions).map(|_| launcher.free_address()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut processes = Processes::default();
    for (index, &listen) in addresses.iter().enumerate() {
        let name = format!("http-hop-{}", index + 1);
        let next = addresses.get(index + 1).map(|next| format!("--next={next}"));
        processes.0.push(start_hop(&name, listen, next, launcher)?);
    }
    answering_get(&mut processes, addresses[0], "/", 200).await?;
    let workload = Workload::Echo { path: "/".to_owned() };
    let functions = Some(functions);
    Ok(Running { identity, address: addresses[0], h2c: None, workload, processes: Measured::Own(processes), functions })
}

/// One function that listens at `listen` and has this option for the next one.
pub(super) fn start_hop(
    name: &str,
    listen: SocketAddr,
    next: Option<String>,
    launcher: &Launcher,
) -> anyhow::Result<Process> {
    let mut arguments = vec![crate::PEER_COMMAND.to_owned(), "http-hop".to_owned(), format!("--listen={listen}")];
    arguments.extend(next);
    launcher.start(name, THIS_PROGRAM, arguments.into_iter().map(Into::into))
}
