//! The keeper: holds the seeds of a host and looks after the children of seeds, its own and other hosts', for whoever
//! asks on its socket ([`ramet_control::fork`]).
//!
//! A node has one beside its admin socket, and `ramet fork serve` is one without a node. Each asker has a thread, since
//! a process is prepared and resumed by waiting for it. Everything that is kept ends with the keeper, and when its
//! process is killed the kernel sees to it.

mod asker;
mod births;
mod conversation;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use ramet_control::fork::{SourceKind, socket_beside};
use ramet_control::socket::ControlSocket;
use ramet_fork::nursery::Bounds;
use ramet_fork::seeds::Limits;
use ramet_fork::{Agent, Handle, Hosts, Nursery, PageServer, Seeds};
use ramet_manifest::{ForkSettings, NodeSettings};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType, accept_with};

use crate::brood::Means;
use crate::event::Events;
use crate::gateway_process::own_program;
use crate::reach::Reach;
use crate::socket_file::{SocketError, SocketFile};
use crate::up::raise_open_files;

use self::asker::Asker;
use self::conversation::Conversation;

/// How many may ask at a time.
const ASKERS_MAX: usize = 64;

/// What the zygote is started with: this program, told to be one.
pub const ZYGOTE_COMMAND: &str = "zygote";

/// Where a keeper answers, and what it keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperSettings {
    /// The unix socket for those who ask.
    pub socket: PathBuf,
    /// Where other hosts read seeds.
    pub listen: SocketAddr,
    /// How much is kept.
    pub limits: Limits,
}

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Its socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// It cannot be reached by other hosts.
    #[error("cannot listen for readers of seeds on {address}: {source}; `fork.listen` sets another address")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The operating system gives it no means.
    #[error("cannot keep seeds: {0}")]
    Host(#[from] io::Error),
}

/// Keeps seeds and children. All of them end when it is dropped.
#[derive(Debug)]
pub struct Keeper {
    kept: Arc<Kept>,
    ending: Arc<OwnedFd>,
    doorkeeper: Option<JoinHandle<()>>,
    _file: SocketFile,
}

/// What all askers' threads share.
#[derive(Debug)]
struct Kept {
    // Children end first: they need their pages until then.
    nursery: Nursery<SeedName>,
    hosts: Arc<Hosts>,
    /// Gives other hosts the seeds' pages.
    _server: PageServer,
    reach: Reach,
    /// Where the node hears of those who want to prepare its instances. None: there is no node.
    node: OnceLock<Events>,
    /// Who had them prepared.
    owners: Mutex<HashMap<Handle, u32>>,
}

/// What tells families of children apart. Who has another key has no part in a family that somebody else reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeedName {
    address: SocketAddr,
    handle: Handle,
    key: [u8; 32],
    /// None: the best way to another host.
    source: Option<SourceKind>,
}

impl KeeperSettings {
    /// Those of a node.
    #[must_use]
    pub fn of(node: &NodeSettings) -> Self {
        let ForkSettings { listen, memory, seeds, lease_max } = node.fork;
        let limits = Limits { seeds_max: seeds as usize, bytes_max: memory.bytes(), lease_max, ..Limits::default() };
        Self { socket: socket_beside(&node.socket), listen, limits }
    }
}

impl Keeper {
    /// Begins to answer.
    ///
    /// # Errors
    /// [`KeeperError`].
    pub fn start(settings: &KeeperSettings) -> Result<Self, KeeperError> {
        let KeeperSettings { socket, listen, limits } = settings;
        // A child takes several of the keeper's.
        raise_open_files();
        let (file, door) = SocketFile::bind(socket, SocketType::SEQPACKET)?;
        let unheard = |source| KeeperError::Listen { address: *listen, source };
        let listener = TcpListener::bind(listen).map_err(unheard)?;
        let address = reachable(listener.local_addr().map_err(unheard)?);
        let hosts = Arc::new(Hosts::new(zygote)?);
        let seeds = Arc::new(Seeds::new(*limits));
        let agent = Arc::new(Agent::new(None));
        let kept = Arc::new(Kept {
            nursery: Nursery::start(Arc::clone(&hosts), Bounds::default())?,
            hosts,
            _server: PageServer::start_with_agent(listener, Arc::clone(&seeds), Arc::clone(&agent))?,
            reach: Reach { seeds, address, agent },
            node: OnceLock::new(),
            owners: Mutex::default(),
        });
        let ending = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?);
        let mut rooms = Rooms { door, kept: Arc::clone(&kept), ending: Arc::clone(&ending), threads: Vec::new() };
        let keep = move || {
            if let Err(error) = rooms.let_in() {
                tracing::error!(%error, "nobody can ask about seeds any more");
            }
        };
        let doorkeeper = Some(thread::Builder::new().name("ramet-keeper".to_owned()).spawn(keep)?);
        Ok(Self { kept, ending, doorkeeper, _file: file })
    }

    /// Lets instances of a node be prepared, too.
    pub(crate) fn serve_node(&self, events: &Events) {
        self.kept.node.get_or_init(|| events.clone());
    }

    /// Where other hosts read the seeds.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.kept.reach.address
    }

    /// What makes processes on this host.
    #[must_use]
    pub fn hosts(&self) -> &Arc<Hosts> {
        &self.kept.hosts
    }

    /// What a node's own broods are made of.
    pub(crate) fn means(&self, events: &Events) -> Means {
        let Kept { hosts, reach, .. } = &*self.kept;
        Means { hosts: Arc::clone(hosts), reach: reach.clone(), events: events.clone() }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A counter that was never added to takes one, and nobody takes it away.
        let _ = rustix::io::write(&*self.ending, &1_u64.to_ne_bytes());
        if let Some(doorkeeper) = self.doorkeeper.take() {
            let _ = doorkeeper.join();
        }
    }
}

impl Kept {
    fn owners(&self) -> MutexGuard<'_, HashMap<Handle, u32>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of those who ask.
struct Rooms {
    door: OwnedFd,
    kept: Arc<Kept>,
    ending: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

impl Rooms {
    /// Lets askers in until the keeper ends, and returns when all have gone.
    fn let_in(&mut self) -> io::Result<()> {
        loop {
            let mut ready = [PollFd::new(&self.door, PollFlags::IN), PollFd::new(&*self.ending, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) if !ready[1].revents().is_empty() => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.threads.retain(|thread| !thread.is_finished());
            match accept_with(&self.door, SocketFlags::CLOEXEC) {
                // Closing it is the answer: who has so many commands waiting knows.
                Ok(_) if self.threads.len() >= ASKERS_MAX => {
                    tracing::warn!("more than {ASKERS_MAX} ask at a time; one was sent away");
                }
                Ok(socket) => self.hear(socket)?,
                // Whoever knocked has gone again.
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        Ok(())
    }

    fn hear(&mut self, socket: OwnedFd) -> io::Result<()> {
        let asker = Asker::at_the_end_of(&socket)?;
        let socket = ControlSocket::from_fd(socket).refusing_long();
        let conversation = Conversation::new(socket, asker, Arc::clone(&self.kept), Arc::clone(&self.ending));
        let thread = thread::Builder::new().name("ramet-asker".to_owned()).spawn(move || conversation.hold())?;
        self.threads.push(thread);
        Ok(())
    }
}

fn zygote() -> Command {
    let mut command = Command::new(own_program());
    command.arg(ZYGOTE_COMMAND);
    command
}

/// An address that others can reach. Where all of this host's are listened on it is the one that a packet to anywhere
/// would bear.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Addresses of documentation (RFC 5737, RFC 3849): nothing is sent.
    let (any, elsewhere) = if bound.is_ipv4() { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let found = std::net::UdpSocket::bind(any).and_then(|socket| {
        socket.connect(elsewhere)?;
        socket.local_addr()
    });
    let loopback = if bound.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    SocketAddr::new(found.map_or(loopback, |found| found.ip()), bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_for_others_is_none_that_means_any() {
        let bound: SocketAddr = "127.0.0.1:7000".parse().expect("an address");
        assert_eq!(reachable(bound), bound);
        let any = reachable("0.0.0.0:7000".parse().expect("an address"));
        assert!(!any.ip().is_unspecified() && any.port() == 7000, "{any}");
    }
}
