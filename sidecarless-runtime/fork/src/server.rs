//! The page server: it lets other hosts read the seeds of this one.
//!
//! Whoever connects is at the `door` until it has proved that it knows a seed's key; until then it costs one entry of
//! a table, and learns nothing. Then it has a thread of its own for as long as the connection lasts, the `session`:
//! connections are few, one for all children of a seed on a host, and a thread that waits for one socket answers
//! soonest.

mod direct;
mod door;
mod session;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::sockopt;

pub use self::direct::Agent;
use self::door::Door;
use crate::seeds::{Kept, Refusal, Seeds};

/// How many connections there may be in all.
pub const LINKS_MAX: usize = 512;
/// How many there may be to one seed.
pub const LINKS_PER_SEED_MAX: u32 = 128;
/// How many may be at the door. When one more comes, the one that has been there longest goes.
pub const GUESTS_MAX: usize = 512;
/// How long one may take to prove that it knows a key.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one may take to take what it has asked for.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// After so long without a sign of life a connection has ended: probing begins after two seconds of silence.
pub(crate) const DEAD_AFTER: Duration = Duration::from_secs(5);

/// Another way to read seeds, which is agreed upon over the connection: only who knows the key gets here.
pub(crate) trait Means: Send + Sync {
    /// Answers a reader's request, and may give what the reader's right to read is bound to: it is dropped when the
    /// connection ends, or before, when the seed ends.
    ///
    /// # Errors
    /// The connection ends with this.
    fn set_up(&self, seed: &Arc<Kept>, request: &[u8]) -> Result<(Vec<u8>, Option<Bound>), Refusal>;
}

/// What a reader's right to read by other means is bound to.
pub(crate) type Bound = Box<dyn Send>;

/// Tells all threads of a server to end.
struct Stop {
    is_said: AtomicBool,
    /// Readable when it was said.
    event: OwnedFd,
}

/// Serves the pages of seeds until it is dropped.
pub struct PageServer {
    address: SocketAddr,
    stop: Arc<Stop>,
    door: Option<JoinHandle<()>>,
}

impl PageServer {
    /// Serves whoever connects to a listener and knows the key of one of the seeds.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(listener: TcpListener, seeds: Arc<Seeds>) -> io::Result<Self> {
        Self::start_with(listener, seeds, None)
    }

    /// The same, and lets readers that have an RDMA device read by themselves.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start_with_agent(listener: TcpListener, seeds: Arc<Seeds>, agent: Arc<Agent>) -> io::Result<Self> {
        Self::start_with(listener, seeds, Some(agent))
    }

    fn start_with(listener: TcpListener, seeds: Arc<Seeds>, means: Option<Arc<dyn Means>>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stop = Arc::new(Stop { is_said: AtomicBool::new(false), event });
        let door = Door::new(listener, seeds, means, Arc::clone(&stop));
        let serve = move || {
            if let Err(error) = door.run() {
                tracing::error!(%error, "the page server has ended: seeds of this host cannot be read by others");
            }
        };
        let door = thread::Builder::new().name("ramet-pages".to_owned()).spawn(serve)?;
        Ok(Self { address, stop, door: Some(door) })
    }

    /// Where it is reached.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Stop {
    fn say(&self) {
        self.is_said.store(true, Ordering::Relaxed);
        // A counter that is added to but twice takes one.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    fn is_said(&self) -> bool {
        self.is_said.load(Ordering::Relaxed)
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.stop.say();
        if let Some(door) = self.door.take() {
            let _ = door.join();
        }
    }
}

impl fmt::Debug for PageServer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("PageServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Lets a connection's answers leave at once, and lets both ends notice within seconds that the other is gone.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>) -> io::Result<()> {
    const IDLE: Duration = Duration::from_secs(2);
    const INTERVAL: Duration = Duration::from_secs(1);
    const PROBES: u32 = 3;
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, IDLE)?;
    sockopt::set_tcp_keepintvl(socket, INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_tcp_user_timeout(socket, DEAD_AFTER.as_millis() as u32)?;
    Ok(())
}
