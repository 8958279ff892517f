//! What a seed's keeper is asked to do with the process: only the thread that traces it can.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::capture::Seed;

type Errand = Box<dyn FnOnce(&Seed) + Send>;

/// What is to be done. Each that asks waits, so they are as many as connections at most.
pub(super) struct Errands {
    /// None: nobody does any more.
    waiting: Mutex<Option<Vec<Errand>>>,
    /// Readable when there may be some.
    asked: OwnedFd,
}

impl Errands {
    pub(super) fn new() -> io::Result<Self> {
        let asked = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { waiting: Mutex::new(Some(Vec::new())), asked })
    }

    /// Has something done, and waits for its result. None: the keeper has ended.
    pub(super) fn send<T: Send + 'static>(&self, errand: impl FnOnce(&Seed) -> T + Send + 'static) -> Option<T> {
        let (tell, told) = sync_channel(1);
        let errand = Box::new(move |seed: &Seed| {
            let _ = tell.send(errand(seed));
        });
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.push(errand);
        // A counter that is read before it could be full takes one.
        let _ = rustix::io::write(&self.asked, &1_u64.to_ne_bytes());
        // One that is not done is dropped, and then nothing is told.
        told.recv().ok()
    }

    /// Does what was asked for.
    pub(super) fn run(&self, seed: &Seed) {
        let _ = rustix::io::read(&self.asked, &mut [0; 8]);
        let errands = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(std::mem::take);
        errands.into_iter().flatten().for_each(|errand| errand(seed));
    }

    /// Nothing is done any more.
    pub(super) fn end(&self) {
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    pub(super) fn asked(&self) -> BorrowedFd<'_> {
        self.asked.as_fd()
    }
}

impl fmt::Debug for Errands {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Errands").finish_non_exhaustive()
    }
}
