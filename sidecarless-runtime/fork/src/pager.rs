//! The pager: it waits for the faults of children and gives them their pages.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::userfault::{Event, Placed, Userfault};
use ramet_sys::{CallError, Range};
use rustix::event::epoll;

use crate::missing::{Missing, Origin};
use crate::source::{PageSource, SourceError};

/// The most pages that one fault brings: more gained nothing for processes that read everything.
pub(crate) const WINDOW_PAGES_MAX: u64 = 32;

/// The event that says that there are new address spaces.
const NEWS: u64 = u64::MAX;

/// An address space to serve.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) userfault: Userfault,
    pub(crate) missing: Missing,
    /// How many pages the next fault brings if it is where the last one left off.
    window: u64,
    next: u64,
}

impl Space {
    pub(crate) const fn new(userfault: Userfault, missing: Missing) -> Self {
        Self { userfault, missing, window: 1, next: 0 }
    }

    /// How many pages to bring for a fault: one, unless one after the other is touched.
    const fn widen(&mut self, address: u64) -> u64 {
        self.window = if address == self.next { self.window * 2 } else { 1 };
        if self.window > WINDOW_PAGES_MAX {
            self.window = WINDOW_PAGES_MAX;
        }
        self.window
    }
}

/// Serves the children of one seed.
pub(crate) struct Pager {
    source: Box<dyn PageSource>,
    spaces: HashMap<u64, Space>,
    space_next: u64,
    epoll: std::os::fd::OwnedFd,
    buffer: Vec<u8>,
    is_lost: bool,
}

impl Pager {
    /// A pager, and what wakes it when a new space was sent.
    pub(crate) fn new(source: Box<dyn PageSource>, news: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, news, epoll::EventData::new_u64(NEWS), epoll::EventFlags::IN)?;
        let buffer = vec![0; (WINDOW_PAGES_MAX * PAGE_BYTES) as usize];
        Ok(Self { source, spaces: HashMap::new(), space_next: 0, epoll, buffer, is_lost: false })
    }

    /// Serves until nobody can send spaces any more.
    pub(crate) fn run(mut self, spaces: &Receiver<Space>, news: impl AsFd) -> io::Result<()> {
        let mut ready = [const { std::mem::MaybeUninit::uninit() }; 64];
        loop {
            let (events, _) = match epoll::wait(&self.epoll, &mut ready, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in events.iter() {
                match event.data.u64() {
                    NEWS => {
                        let _ = rustix::io::read(&news, &mut [0; 8]);
                        loop {
                            match spaces.try_recv() {
                                Ok(space) => self.add(space)?,
                                Err(TryRecvError::Empty) => break,
                                Err(TryRecvError::Disconnected) => return Ok(()),
                            }
                        }
                    }
                    id => self.serve(id),
                }
            }
        }
    }

    fn add(&mut self, space: Space) -> io::Result<()> {
        let id = self.space_next;
        self.space_next += 1;
        epoll::add(&self.epoll, &space.userfault, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
        self.spaces.insert(id, space);
        // A fault may have come before.
        self.serve(id);
        Ok(())
    }

    /// Answers what waits in one space.
    fn serve(&mut self, id: u64) {
        let Some(mut space) = self.spaces.remove(&id) else { return };
        match self.answer(&mut space) {
            Ok(true) => {
                self.spaces.insert(id, space);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(%error, "a child's pages cannot be given; it is left waiting until it is killed");
                self.spaces.insert(id, space);
            }
        }
    }

    /// False: the process is gone.
    fn answer(&mut self, space: &mut Space) -> Result<bool, CallError> {
        let mut faults = VecDeque::new();
        loop {
            self.take_events(space, &mut faults)?;
            let Some(address) = faults.pop_front() else { return Ok(true) };
            match self.give(space, address)? {
                Given::Done => {}
                Given::Again => faults.push_front(address),
                Given::Ended => return Ok(false),
            }
        }
    }

    /// Notes what has changed, in order, and keeps the faults.
    fn take_events(&mut self, space: &mut Space, faults: &mut VecDeque<u64>) -> Result<(), CallError> {
        let mut events = Vec::new();
        while space.userfault.events(&mut events)? {
            for event in events.drain(..) {
                match event {
                    Event::Fault { address, .. } => faults.push_back(address & !(PAGE_BYTES - 1)),
                    Event::Removed(range) => space.missing.set(range, Origin::Zeros),
                    Event::Unmapped(range) => space.missing.forget(range),
                    Event::Moved { from, to } => space.missing.rename(from, to),
                    Event::Forked(userfault) => {
                        let child = Space::new(userfault, space.missing.clone());
                        if let Err(error) = self.add(child) {
                            tracing::error!(%error, "cannot serve a child's own child; it waits until it is killed");
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives one page, and what is likely to be touched next.
    fn give(&mut self, space: &mut Space, address: u64) -> Result<Given, CallError> {
        let (origin, bytes) = space.missing.origin(address);
        let Origin::Seed(from) = origin else {
            let page = Range { start: address, bytes: PAGE_BYTES };
            let placed = space.userfault.zero(page)?;
            return given(space, page, placed);
        };
        let bytes = (space.widen(address) * PAGE_BYTES).min(bytes);
        let range = Range { start: address, bytes };
        if self.is_lost {
            return self.lose(space, range);
        }
        let pages = &mut self.buffer[..bytes as usize];
        if let Err(error) = self.source.read(&[Range { start: from, bytes }], pages) {
            self.is_lost = true;
            tell_loss(&error);
            return self.lose(space, range);
        }
        space.next = range.end();
        let placed = space.userfault.copy(address, pages)?;
        given(space, range, placed)
    }

    /// The pages are lost: who touches them ends, and never sees zeros.
    fn lose(&mut self, space: &Space, range: Range) -> Result<Given, CallError> {
        let page = Range { bytes: PAGE_BYTES, ..range };
        let placed = space.userfault.poison(page)?;
        given(space, page, placed)
    }
}

fn tell_loss(error: &SourceError) {
    tracing::error!(%error, "the seed is lost: a child that touches a page it does not have gets SIGBUS");
}

/// What became of a fault.
enum Given {
    Done,
    /// Something changes the address space: look at that first.
    Again,
    Ended,
}

fn given(space: &Space, range: Range, placed: Placed) -> Result<Given, CallError> {
    Ok(match placed {
        Placed::All | Placed::NoRange(_) => Given::Done,
        Placed::Exists(0) => {
            // Somebody else had it, or it came with another's; whoever waits may have come since.
            space.userfault.wake(Range { bytes: PAGE_BYTES, ..range })?;
            Given::Done
        }
        Placed::Until(0) => Given::Again,
        // The page itself is there.
        Placed::Exists(_) | Placed::Until(_) => Given::Done,
        Placed::Ended => Given::Ended,
    })
}
