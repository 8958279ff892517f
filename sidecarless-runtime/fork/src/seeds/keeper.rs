//! The thread that keeps a seed: a traced process belongs to the thread that traces it, and ends with it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::kept::Kept;
use super::{Ending, Registry, SeedError, bonds};
use crate::capture::{self, Prepared, Unforked};
use crate::resume::{Habitat, Watch};

/// A seed that was prepared, and who keeps it.
pub(super) struct Begun {
    pub(super) seed: Arc<Kept>,
    pub(super) keeper: JoinHandle<()>,
    pub(super) pause: Duration,
    pub(super) prepare: Duration,
}

/// What the keeper says of its seed: it, and for how long the process was stopped.
type Outcome = Result<(Arc<Kept>, Duration), SeedError>;

/// A process that is to be prepared.
pub(super) struct Parent {
    pub(super) pid: i32,
    /// Of a child.
    pub(super) watch: Option<Watch>,
    pub(super) unforked: Unforked,
    /// What its copy lives in, too.
    pub(super) habitat: Habitat,
}

/// Starts a thread that prepares a process and keeps the seed until it ends.
pub(super) fn start(registry: Weak<Registry>, parent: Parent, lease: Duration) -> Result<Begun, SeedError> {
    let begin = Instant::now();
    let (tell, told) = sync_channel(1);
    let Parent { pid, watch, unforked, habitat } = parent;
    let prepare = move |registry: &Arc<Registry>| {
        let prepared = capture::prepare_with(pid, watch, unforked)?;
        take_in(prepared, registry, pid, lease)
    };
    let keep = move || {
        keep(&registry, prepare, &tell);
        // The process may have ended long ago.
        drop(habitat);
    };
    let keeper = Builder::new().name("ramet-seed".to_owned()).spawn(keep).map_err(SeedError::Host)?;
    let silent = || SeedError::Host(io::Error::other("the thread that prepares a seed has ended"));
    let (seed, pause) = told.recv().map_err(|_| silent())??;
    Ok(Begun { seed, keeper, pause, prepare: begin.elapsed() })
}

/// A process that was prepared, and how its end is noticed.
type Taken = (Prepared, Arc<Kept>, OwnedFd);

fn keep(
    registry: &Weak<Registry>,
    prepare: impl FnOnce(&Arc<Registry>) -> Result<Taken, SeedError>,
    tell: &SyncSender<Outcome>,
) {
    let silent = || SeedError::Host(io::Error::other("the thread that wanted a seed has ended"));
    let taken = registry.upgrade().ok_or_else(silent).and_then(|registry| prepare(&registry));
    let (prepared, seed, alive) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    let pause = prepared.pause;
    if tell.send(Ok((Arc::clone(&seed), pause))).is_err() {
        return;
    }
    // What is described is encoded; only the process is kept.
    let Prepared { seed: process, .. } = prepared;
    let ending = wait_for_end(&seed, &process, &alive);
    seed.errands().end();
    seed.let_ancestors_go();
    drop(seed.registered.lock().unwrap_or_else(PoisonError::into_inner).take());
    // From here on nobody reads it.
    drop(process);
    tracing::debug!(handle = %seed.handle, %ending, "a seed has ended");
    if let Some(registry) = registry.upgrade() {
        registry.forget(&seed, ending);
    }
}

fn take_in(prepared: Prepared, registry: &Arc<Registry>, pid: i32, lease: Duration) -> Result<Taken, SeedError> {
    let alive = Pid::from_raw(prepared.seed.pid()).ok_or(Errno::SRCH);
    let alive = alive.and_then(|seed| pidfd_open(seed, PidfdFlags::empty()));
    let alive = alive.map_err(|error| SeedError::Host(error.into()))?;
    let seed = Kept::new(pid, &prepared, Instant::now() + lease, registry.limits.lease_max).map_err(SeedError::Host)?;
    seed.hold_on(bonds::all(&prepared.lineage, registry, lease)?);
    Ok((prepared, Arc::new(seed), alive))
}

/// Waits until somebody ends the seed, its process dies or its lease expires; meanwhile it does what it is asked to.
fn wait_for_end(seed: &Kept, process: &capture::Seed, alive: &OwnedFd) -> Ending {
    loop {
        let left = seed.expires().saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let ended = PollFd::from_borrowed_fd(seed.ended(), PollFlags::IN);
        let asked = PollFd::from_borrowed_fd(seed.errands().asked(), PollFlags::IN);
        let mut events = [ended, PollFd::new(alive, PollFlags::IN), asked];
        let ending = match poll(&mut events, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            // The lease may have been renewed meanwhile.
            Ok(0) if seed.expires() > Instant::now() => continue,
            Ok(0) => Ending::Expired,
            Ok(_) if !events[1].revents().is_empty() => Ending::Died,
            Ok(_) if events[0].revents().is_empty() => {
                seed.errands().run(process);
                continue;
            }
            Ok(_) => Ending::Stopped,
            Err(error) => {
                tracing::error!(%error, "a seed cannot be watched; it ends");
                Ending::Stopped
            }
        };
        seed.end(ending);
        return seed.ending().unwrap_or(ending);
    }
}
