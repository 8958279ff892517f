//! `fork`: running processes are forked by a node, or by `ramet fork serve` where there is none.

mod arguments;
mod children;
mod expiry;
mod key;
mod question;
mod seeds;

use std::io;
use std::os::fd::AsFd;

use ramet_manifest::ByteCount;
use ramet_runtime::{Keeper, KeeperSettings};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::NodeArguments;
use crate::client::block_on;
use crate::exit::Failure;
use crate::up;

pub(crate) use self::arguments::ForkCommand;
use self::arguments::Serve;

/// `ramet fork`.
pub(crate) fn run(node: &NodeArguments, what: &ForkCommand) -> Result<(), Failure> {
    match what {
        ForkCommand::Prepare(options) => seeds::prepare(node, options),
        ForkCommand::Resume(options) => children::resume(node, options),
        ForkCommand::List(options) => seeds::list(node, options.output),
        ForkCommand::Revoke(options) => seeds::revoke(node, options),
        ForkCommand::Renew(options) => seeds::renew(node, options),
        ForkCommand::Serve(options) => serve(node, options),
    }
}

/// The process whose copies become children.
pub(crate) fn run_zygote() -> Result<(), Failure> {
    let orders = io::stdin().as_fd().try_clone_to_owned()?;
    let ended = ramet_fork::zygote::run(orders);
    ended.map_err(|error| Failure::Failed(format!("this is started by who keeps seeds, not by hand: {error}")))
}

/// Keeps seeds and children until it is told to end.
fn serve(node: &NodeArguments, options: &Serve) -> Result<(), Failure> {
    let mut settings = up::settings(node)?;
    if let Some(socket) = &node.socket {
        settings.socket.clone_from(socket);
    }
    settings.fork.listen = options.listen.unwrap_or(settings.fork.listen);
    settings.fork.memory = options.memory.map_or(settings.fork.memory, ByteCount::new);
    settings.fork.seeds = options.seeds.unwrap_or(settings.fork.seeds);
    up::start_log(settings.log);
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let settings = KeeperSettings::of(&settings);
    block_on(async {
        // From here on a signal does not kill this process, which would leave its socket behind.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let keeper = Keeper::start(&settings).map_err(|error| failed(&error))?;
        // So that the first child does not wait for it, and a host that can make none says so now.
        let host = keeper.hosts().host().map_err(|error| failed(&error))?;
        if let Err(error) = host.may_fork() {
            tracing::warn!(%error, "seeds are kept for other hosts, and there can be no children here");
        }
        let socket = settings.socket.display();
        tracing::info!(address = %keeper.address(), %socket, "seeds are kept and children looked after");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("all seeds and children end");
        Ok(())
    })
}
