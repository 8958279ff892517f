//! What the benchmark compares with, each a process of its own: this same program under another name.

mod address;
mod fixed;
mod frames;
#[cfg(feature = "peers")]
mod grpc;
mod http_hop;
mod next;
mod pieces;
#[cfg(feature = "peers")]
mod samples;

pub(crate) mod hop;

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use address::Address;

use crate::setting::Protocol;

/// The name under which the executable must run [`peer`].
pub const PEER_COMMAND: &str = "bench-peer";

/// Why some peers cannot be started.
pub(crate) const WITHOUT_PEERS: &str =
    "this ramet was built without gRPC and iceoryx2; build it with `cargo build --release --features peers`";

/// The arguments of the hidden command [`PEER_COMMAND`].
#[derive(Clone, Debug, Args)]
pub struct PeerOptions {
    #[command(subcommand)]
    role: Role,
}

#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// A function of a chain over HTTP: answers with what the next one answers, or with what it was sent
    HttpHop {
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
        /// The next function; the last has none
        #[arg(long)]
        next: Option<Address>,
    },
    /// A function that speaks frames: the length and the bytes, one after the other on each connection
    FrameHop {
        /// Where it listens
        #[arg(long)]
        listen: Address,
        /// The next function; the last has none
        #[arg(long)]
        next: Option<Address>,
    },
    /// A function that is called by gRPC
    GrpcHop {
        /// Where it listens
        #[arg(long)]
        listen: Address,
        /// The next function; the last has none
        #[arg(long)]
        next: Option<Address>,
    },
    /// A function that passes on what iceoryx2 brings
    SampleHop {
        /// Where it listens
        #[arg(long)]
        listen: Address,
        /// The next function; the last one's is the first
        #[arg(long)]
        next: Address,
    },
    /// One process of a chain without HTTP; what it does it is told on its standard input, a control socket
    Hop,
    /// A server that always answers the same
    Fixed {
        /// Where it speaks HTTP/1.1, and HTTP/2 as well if that has no other place
        #[arg(long)]
        listen: SocketAddr,
        /// Where it speaks HTTP/2
        #[arg(long)]
        h2c: Option<SocketAddr>,
        /// With this status
        #[arg(long)]
        status: u16,
        /// With this content type
        #[arg(long)]
        content_type: String,
        /// With this body
        #[arg(long)]
        body: String,
    },
    /// What the children of the benchmark of forks are copies of
    Zygote,
    /// What keeps the seeds of that benchmark, and serves their pages
    SeedKeeper,
    /// Both sides of forks of that benchmark; what it does it is told on its standard input, a socket
    ForkSides {
        /// How many children live at the same time at the most
        #[arg(long)]
        children: u32,
    },
    /// Another program, in the place of this process, that gets SIGTERM when its parent ends
    Run {
        /// The parent
        #[arg(long)]
        parent: i32,
        /// Program and arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
}

/// Runs a peer until it is ended by a signal.
///
/// # Errors
/// The peer cannot listen, or the program cannot be executed.
pub fn peer(options: PeerOptions) -> anyhow::Result<()> {
    match options.role {
        Role::HttpHop { listen, next } => http_hop::serve(bind(listen)?, next),
        Role::FrameHop { listen, next } => frames::serve(&listen, next),
        #[cfg(feature = "peers")]
        Role::GrpcHop { listen: Address::Grpc(listen), next } => grpc::serve(bind(listen)?, next),
        Role::GrpcHop { listen, .. } => bail!("{WITHOUT_PEERS} ({listen})"),
        #[cfg(feature = "peers")]
        Role::SampleHop { listen: Address::Samples(listen), next: Address::Samples(next) } => {
            samples::serve(&listen, &next)
        }
        Role::SampleHop { listen, .. } => bail!("{WITHOUT_PEERS} ({listen})"),
        Role::Hop => hop::run(),
        Role::Fixed { listen, h2c, status, content_type, body } => {
            let listeners = match h2c {
                Some(h2c) => {
                    vec![(Some(Protocol::Http1), bind(listen)?), (Some(Protocol::H2c), bind(h2c)?)]
                }
                None => vec![(None, bind(listen)?)],
            };
            fixed::serve(&listeners, status, &content_type, body.into())
        }
        Role::Zygote => Ok(ramet_fork::zygote::run(std::io::stdin().as_fd().try_clone_to_owned()?)?),
        Role::SeedKeeper => crate::fork::keeper::serve(),
        Role::ForkSides { children } => crate::fork::remote::serve(children),
        Role::Run { parent, command } => run(parent, &command),
    }
}

fn bind(listen: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The wish to die with the parent survives `execve`, so any program can be given it.
fn run(parent: i32, command: &[OsString]) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM)).context("prctl(PR_SET_PDEATHSIG) failed")?;
    if getppid().map(|pid| pid.as_raw_pid()) != Some(parent) {
        bail!("the parent has ended");
    }
    let Some((program, arguments)) = command.split_first() else { bail!("no program") };
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot execute {}", program.display()))
}
