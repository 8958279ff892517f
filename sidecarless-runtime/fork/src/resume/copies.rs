//! The host's zygote, and a copy of it that is made before it is needed: a seed's first child does not wait for it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child as Process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use ramet_sys::Pidfd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::ResumeError;
use super::ahead::Ahead;
use super::template::end;
use crate::zygote::{self, Order};

/// A new one is made so long after the last was taken: until then its taker has better use for the cores.
const LATER: Duration = Duration::from_millis(2);

/// Where copies come from. When it is dropped the zygote ends, and the copy that was made ahead.
#[derive(Debug)]
pub(super) struct Copies {
    /// Goes before the zygote, which it asks.
    ahead: Ahead,
    source: Arc<Source>,
    _zygote: Zygote,
}

/// Ends when this is dropped.
#[derive(Debug)]
struct Zygote(Process);

#[derive(Debug)]
struct Source {
    /// An order to the zygote and its answer belong together.
    orders: Mutex<OwnedFd>,
    spare: Mutex<Option<Spare>>,
}

/// A copy that waits for its order. It ends when it is dropped.
#[derive(Debug)]
struct Spare {
    orders: OwnedFd,
    process: Option<Pidfd>,
}

impl Copies {
    /// Takes over a zygote and what takes its orders.
    pub(super) fn start(zygote: Process, orders: OwnedFd) -> io::Result<Self> {
        let source = Arc::new(Source { orders: Mutex::new(orders), spare: Mutex::default() });
        source.copy_ahead();
        let theirs = Arc::clone(&source);
        let ahead = Ahead::start(move || {
            // tidy: what is waited for tells nobody when it is over.
            thread::sleep(LATER);
            theirs.copy_ahead();
        })?;
        Ok(Self { ahead, source, _zygote: Zygote(zygote) })
    }

    /// The zygote's copy becomes what an order says.
    pub(super) fn make(&self, order: &Order, fds: &[impl AsFd]) -> Result<Pidfd, ResumeError> {
        if let Order::Program(_) = order
            && let Some(mut spare) = self.source.spare().take()
        {
            self.ahead.want();
            // It may have been ended meanwhile.
            if zygote::tell(&spare.orders, order, fds).is_ok()
                && let Some(process) = spare.process.take()
            {
                return Ok(process);
            }
        }
        self.source.copy(order, fds)
    }

    /// What takes the zygote's orders for as long as it is there.
    pub(super) fn orders(&self) -> MutexGuard<'_, OwnedFd> {
        self.source.orders()
    }
}

impl Source {
    fn orders(&self) -> MutexGuard<'_, OwnedFd> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spare(&self) -> MutexGuard<'_, Option<Spare>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy(&self, order: &Order, fds: &[impl AsFd]) -> Result<Pidfd, ResumeError> {
        match zygote::order(&*self.orders(), order, fds)? {
            error @ ..=0 => {
                let source = io::Error::from_raw_os_error(-error);
                Err(ResumeError::Step { step: "fork", source })
            }
            pid => Ok(Pidfd::of_child(pid.cast_unsigned())?),
        }
    }

    fn copy_ahead(&self) {
        match self.spare_copy() {
            Ok(spare) => *self.spare() = Some(spare),
            // Whoever needs a copy is told why there is none.
            Err(error) => tracing::debug!(%error, "no copy of the zygote is made ahead"),
        }
    }

    fn spare_copy(&self) -> Result<Spare, ResumeError> {
        let (orders, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        let process = self.copy(&Order::Spare, &[theirs])?;
        Ok(Spare { orders, process: Some(process) })
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.process.iter().for_each(end);
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
