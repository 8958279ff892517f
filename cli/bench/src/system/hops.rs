//! Functions of which the first is an HTTP server and the others speak something plainer.

use super::{Measured, Running, answering_get, http};
use crate::load::Workload;
use crate::process::{Launcher, Processes, THIS_PROGRAM};
use crate::setting::Identity;

/// What functions speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Frames over unix sockets.
    Unix,
    /// Frames over TCP.
    Tcp,
    /// Unary calls.
    Grpc,
    /// Samples of iceoryx2, for so many requests at a time with bodies of so many bytes.
    Samples { messages: usize, bytes: usize },
}

/// Starts the last function first, so that each finds the one after it.
pub(super) async fn start(
    identity: Identity,
    protocol: Protocol,
    functions: u32,
    launcher: &mut Launcher,
) -> anyhow::Result<Running> {
    let front = launcher.free_address()?;
    let mut processes = Processes::default();
    // Over iceoryx2 the last function answers the first one itself.
    let place = |number: u32, messages, bytes| {
        format!("iceoryx2:{}-{functions}-{}/{number}/{messages}/{bytes}", identity.system, std::process::id())
    };
    let mut next = match protocol {
        Protocol::Samples { messages, bytes } if functions > 1 => Some(place(1, messages, bytes)),
        _ => None,
    };
    for number in (2..=functions).rev() {
        let name = format!("{}-hop-{number}", identity.system);
        let (role, address) = match protocol {
            Protocol::Unix => ("frame-hop", format!("unix:{}", launcher.folder().join(&name).display())),
            Protocol::Tcp => ("frame-hop", format!("tcp:{}", launcher.free_address()?)),
            Protocol::Grpc => ("grpc-hop", format!("grpc:{}", launcher.free_address()?)),
            Protocol::Samples { messages, bytes } => ("sample-hop", place(number, messages, bytes)),
        };
        let mut arguments = vec![crate::PEER_COMMAND.to_owned(), role.to_owned(), format!("--listen={address}")];
        arguments.extend(next.map(|next| format!("--next={next}")));
        processes.0.push(launcher.start(&name, THIS_PROGRAM, arguments.into_iter().map(Into::into))?);
        next = Some(address);
    }
    let name = format!("{}-hop-1", identity.system);
    processes.0.push(http::start_hop(&name, front, next.map(|next| format!("--next={next}")), launcher)?);
    answering_get(&mut processes, front, "/", 200).await?;
    let workload = Workload::Echo { path: "/".to_owned() };
    let functions = Some(functions);
    Ok(Running { identity, address: front, h2c: None, workload, processes: Measured::Own(processes), functions })
}
