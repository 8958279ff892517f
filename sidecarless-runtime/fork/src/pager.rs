//! The pager: it waits for the faults of children and gives them their pages.
//!
//! A fault becomes a read of the source, unless one that is under way brings the page already; other children are
//! served meanwhile. What an answer brings is put where it still belongs: the process may have moved or given up its
//! memory since it was asked for. Who waits for a page that is not put is woken, touches it again, and so asks anew.
//!
//! The first child of a template is a lesson: what it touches in the beginning is put into the template, too, so that
//! the next ones have it, and the seed's host is told for the sake of other hosts.

mod burst;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::userfault::{Event, Placed, Userfault};
use ramet_sys::{CallError, Range};
use rustix::event::{Timespec, epoll};

use self::burst::Burst;
use crate::cache::{Cache, READS_FOR_CHILDREN_MAX};
use crate::changes::Changes;
use crate::guard;
use crate::missing::{Missing, Origin};
use crate::shown::Shown;
use crate::source::{READ_RANGES_MAX, SourceError};

/// The most pages that one fault brings: more gained nothing for processes that read everything.
pub(crate) const WINDOW_PAGES_MAX: u64 = 32;

/// The next page comes with one where the way takes longer than the page itself, and where it is likely to be touched.
const WINDOW_PAGES_NEXT: u64 = 2;

/// That is where what was touched before is not farther away than this, in either direction.
const NEAR_BYTES: u64 = 8 * PAGE_BYTES;

/// So many spaces are served before it is looked for the first time which of them have ended.
const SWEEP_MIN: usize = 64;

/// The event that says that there are new address spaces.
const NEWS: u64 = u64::MAX;
/// The event that says that the source has answers.
const ANSWERS: u64 = u64::MAX - 1;

/// A lesson is over when nothing was touched for so long.
const LESSON_QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// Or when so much was: it is a beginning that is learned, not a whole life.
const LESSON_PAGES_MAX: u64 = 1024;

/// What a pager is told.
#[derive(Debug)]
pub(crate) enum News {
    /// There is another child.
    Child(Space),
    /// There is the first child of a template with these faults.
    First(Space, Arc<Userfault>),
    /// The files that this child touches are to be shown to its template.
    Show(Box<Shown>),
    /// All pages of the seed are to be had without it.
    Pull,
    /// Somebody wants to know what the forks of a child lack, from when he is told so on.
    Watch { space: u64, forks: Sender<Missing>, ready: SyncSender<()> },
    /// All of its forks that have been made by now are to be told.
    Tell { space: u64, done: SyncSender<()> },
    /// Nobody sends more.
    End,
}

/// An address space to serve.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) userfault: Userfault,
    pub(crate) missing: Missing,
    /// What its family knows it by. None: it is a child's own child.
    name: Option<u64>,
    /// Who wants to know of its forks.
    watcher: Option<Sender<Missing>>,
    changes: Changes,
    /// How many pages the next fault brings if it is where the last one left off.
    window: u64,
    next: u64,
}

impl Space {
    pub(crate) fn new(userfault: Userfault, missing: Missing, name: Option<u64>) -> Self {
        Self { userfault, missing, name, watcher: None, changes: Changes::default(), window: 1, next: 0 }
    }

    /// How much to bring for a fault where there are `bytes`: `fewest` pages at least, and more if one after the other
    /// is touched.
    fn widen(&mut self, address: u64, bytes: u64, fewest: u64) -> Range {
        self.window = if address == self.next { (self.window * 2).min(WINDOW_PAGES_MAX) } else { fewest };
        let range = Range { start: address, bytes: (self.window * PAGE_BYTES).min(bytes) };
        self.next = range.end();
        range
    }

    const fn is_near(&self, address: u64) -> bool {
        address.abs_diff(self.next) <= NEAR_BYTES
    }
}

/// A read that is under way.
#[derive(Clone, Copy, Debug)]
struct Read {
    /// Whose it is.
    space: u64,
    /// Where its pages go.
    range: Range,
    /// Where they are in the seed.
    from: u64,
}

impl Read {
    fn brings(&self, space: u64, address: u64, from: u64) -> bool {
        self.space == space && self.range.contains(address) && self.from + (address - self.range.start) == from
    }
}

/// What is learned from a template's first child.
struct Lesson {
    /// The child.
    space: u64,
    template: Arc<Userfault>,
    /// What the template lacks.
    missing: Missing,
    /// What it touched, in order, where the seed has it.
    ranges: Vec<Range>,
    pages: u64,
    shown: Option<Box<Shown>>,
}

/// Serves the children of one seed.
pub(crate) struct Pager {
    source: Cache,
    lost: Arc<AtomicBool>,
    served: Served,
}

/// The children, and what was asked for them.
struct Served {
    epoll: OwnedFd,
    /// Who holds the faults, too.
    guard: Arc<OwnedFd>,
    /// At so many it is looked which have ended.
    sweep_at: usize,
    spaces: HashMap<u64, Space>,
    space_next: u64,
    reads: HashMap<u64, Read>,
    read_next: u64,
    /// Faults to look at: the space and the page's address.
    faults: VecDeque<(u64, u64)>,
    /// Faults for which no read could be begun yet. They are as many as threads wait for pages.
    parked: VecDeque<(u64, u64)>,
    lesson: Option<Lesson>,
    burst: Burst,
    /// What a space has told. Empty, but for its room.
    events: Vec<Event>,
}

impl Pager {
    /// A pager, and what wakes it when a new space was sent.
    pub(crate) fn new(source: Cache, guard: Arc<OwnedFd>, news: impl AsFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, news, epoll::EventData::new_u64(NEWS), epoll::EventFlags::IN)?;
        if let Some(ready) = source.readiness() {
            epoll::add(&epoll, ready, epoll::EventData::new_u64(ANSWERS), epoll::EventFlags::IN)?;
        }
        let served = Served {
            epoll,
            guard,
            sweep_at: SWEEP_MIN,
            spaces: HashMap::new(),
            space_next: 0,
            reads: HashMap::new(),
            read_next: 0,
            faults: VecDeque::new(),
            parked: VecDeque::new(),
            lesson: None,
            burst: Burst::default(),
            events: Vec::new(),
        };
        Ok(Self { source, lost: Arc::default(), served })
    }

    /// Comes to say that the seed is lost.
    pub(crate) fn lost(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.lost)
    }

    /// Serves until nobody can send spaces any more.
    pub(crate) fn run(mut self, told: &Receiver<News>, news: impl AsFd) -> io::Result<()> {
        let mut ready = [const { std::mem::MaybeUninit::uninit() }; 64];
        loop {
            if self.look_closely() {
                continue;
            }
            let goes_on = self.served.burst.goes_on();
            let patience = match self.served.lesson {
                _ if goes_on || self.source.wants_turns() => Some(&AT_ONCE),
                Some(_) => Some(&LESSON_QUIET),
                None => None,
            };
            let (events, _) = match epoll::wait(&self.served.epoll, &mut ready, patience) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            if self.source.wants_turns() {
                self.collect();
            } else if events.is_empty() && goes_on {
                self.served.burst.give_way();
            } else if events.is_empty() {
                self.end_lesson();
            }
            for event in events.iter() {
                match event.data.u64() {
                    NEWS => {
                        let _ = rustix::io::read(&news, &mut [0; 8]);
                        loop {
                            match told.try_recv() {
                                Ok(News::Child(space)) => _ = self.served.add(space)?,
                                Ok(News::First(space, template)) => self.begin_lesson(space, template)?,
                                Ok(News::Show(shown)) => self.served.show_after_lesson(shown),
                                Ok(News::Pull) => self.pull(),
                                Ok(News::Watch { space, forks, ready }) => {
                                    self.served.watch(space, Some(forks));
                                    let _ = ready.send(());
                                }
                                Ok(News::Tell { space, done }) => {
                                    self.served.watch(space, None);
                                    let _ = done.send(());
                                }
                                Err(TryRecvError::Empty) => break,
                                Ok(News::End) | Err(TryRecvError::Disconnected) => return Ok(()),
                            }
                        }
                    }
                    ANSWERS => self.collect(),
                    id => _ = self.served.take_events(id),
                }
            }
            self.settle();
        }
    }

    /// Looks for the next fault of a burst where the last came from. False: it is time to look at all who may have
    /// something to say.
    fn look_closely(&mut self) -> bool {
        // Who waits for an answer waits for the source.
        if !self.served.reads.is_empty() || self.source.wants_turns() {
            return false;
        }
        let Some(id) = self.served.burst.closely() else { return false };
        if self.served.take_events(id) {
            self.settle();
        }
        // Who was given a page is to touch the next.
        self.served.burst.give_way();
        true
    }

    fn pull(&mut self) {
        // Whether it may was asked before.
        if !self.lost.load(Ordering::Relaxed) && self.source.pull().is_ok() {
            self.collect();
        }
    }

    fn begin_lesson(&mut self, space: Space, template: Arc<Userfault>) -> io::Result<()> {
        self.end_lesson();
        let missing = space.missing.clone();
        let space = self.served.add(space)?;
        self.served.lesson = Some(Lesson { space, template, missing, ranges: Vec::new(), pages: 0, shown: None });
        Ok(())
    }

    fn end_lesson(&mut self) {
        let Some(lesson) = self.served.lesson.take() else { return };
        if let Some(Err(error)) = lesson.shown.as_ref().map(|shown| shown.show()) {
            tracing::debug!(%error, "not all that a first child had of files is shown to its template");
        }
        if !self.lost.load(Ordering::Relaxed)
            && !lesson.ranges.is_empty()
            && let Err(error) = self.source.teach(&lesson.ranges)
        {
            self.lose(&error);
        }
    }

    /// Looks at all faults that were heard of.
    fn settle(&mut self) {
        loop {
            while let Some((id, address)) = self.served.faults.pop_front() {
                self.give(id, address);
            }
            if !self.source.is_due() {
                return;
            }
            self.collect();
        }
    }

    /// Gives one page, or asks for it and for what is likely to be touched next.
    fn give(&mut self, id: u64, address: u64) {
        let Some(space) = self.served.spaces.get_mut(&id) else { return };
        let page = Range { start: address, bytes: PAGE_BYTES };
        let filled = match space.missing.origin(address) {
            (Origin::Zeros, _) => space.userfault.zero(page),
            (Origin::File(file, offset), _) => give_from_file(space, page, file, offset),
            // Who touches it ends, and never sees zeros.
            (Origin::Seed(_), _) if self.lost.load(Ordering::Relaxed) => space.userfault.poison(page),
            (Origin::Seed(from), bytes) => {
                if let Err(error) = self.bring(id, address, from, bytes) {
                    self.lose(&error);
                    self.served.faults.push_back((id, address));
                }
                return;
            }
        };
        self.served.note_filled(id, page, filled);
    }

    /// Gives what is here of a page and those after it, or asks for them.
    fn bring(&mut self, id: u64, address: u64, from: u64, bytes: u64) -> Result<(), SourceError> {
        let Self { source, served, .. } = self;
        if served.reads.values().any(|read| read.brings(id, address, from)) {
            return Ok(());
        }
        let is_here = source.is_here(from);
        if !is_here && served.reads.len() >= READS_FOR_CHILDREN_MAX {
            served.parked.push_back((id, address));
            return Ok(());
        }
        let Some(space) = served.spaces.get_mut(&id) else { return Ok(()) };
        // What is learned is what was touched and nothing else.
        let is_lesson = served.lesson.as_ref().is_some_and(|lesson| lesson.space == id);
        let brings_next = !is_lesson && (!is_here || space.is_near(address));
        let range = space.widen(address, bytes, if brings_next { WINDOW_PAGES_NEXT } else { 1 });
        let asked = Range { start: from, bytes: range.bytes };
        if let Some(pages) = source.at_once(asked)? {
            let range = Range { start: address, bytes: pages.len() as u64 };
            space.next = range.end();
            served.receive(&Read { space: id, range, from }, pages);
            return Ok(());
        }
        let token = served.read_next;
        served.read_next += 1;
        served.reads.insert(token, Read { space: id, range, from });
        source.begin(token, &[asked])
    }

    /// Takes the answers that have come.
    fn collect(&mut self) {
        let Self { source, served, .. } = self;
        if let Err(error) = source.answers(&mut |token, pages| served.complete(token, pages)) {
            self.lose(&error);
        }
        self.served.faults.append(&mut self.served.parked);
        if self.served.lesson.as_ref().is_some_and(Lesson::is_long) {
            self.end_lesson();
        }
    }

    fn lose(&mut self, error: &SourceError) {
        if self.lost.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::error!(%error, "the seed is lost: a child that touches a page it does not have gets SIGBUS");
        if let Some(ready) = self.source.readiness()
            && let Err(error) = epoll::delete(&self.served.epoll, ready)
        {
            tracing::error!(%error, "cannot leave a lost seed alone");
        }
        self.source.give_up();
        // Who waits for a page touches it again.
        for (_, read) in self.served.reads.drain() {
            if let Some(space) = self.served.spaces.get(&read.space)
                && let Err(error) = space.userfault.wake(read.range)
            {
                tell_stuck(&error);
            }
        }
        self.served.faults.append(&mut self.served.parked);
    }
}

impl Served {
    fn add(&mut self, space: Space) -> io::Result<u64> {
        let id = self.space_next;
        self.space_next += 1;
        // Faults that have come before make it ready, too.
        epoll::add(&self.epoll, &space.userfault, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
        self.spaces.insert(id, space);
        if self.spaces.len() >= self.sweep_at {
            self.spaces.retain(|_, space| !space.userfault.has_ended());
            self.sweep_at = (self.spaces.len() * 2).max(SWEEP_MIN);
        }
        Ok(id)
    }

    fn show_after_lesson(&mut self, shown: Box<Shown>) {
        // One that is over already was long.
        if let Some(lesson) = &mut self.lesson {
            lesson.shown = Some(shown);
        }
    }

    /// Lets somebody know of a space's forks, or only looks at what has happened so far.
    fn watch(&mut self, name: u64, watcher: Option<Sender<Missing>>) {
        let id = self.spaces.iter().find(|(_, space)| space.name == Some(name)).map(|(id, _)| *id);
        let Some(id) = id else { return };
        self.take_events(id);
        if let Some(space) = self.spaces.get_mut(&id)
            && watcher.is_some()
        {
            space.watcher = watcher;
        }
    }

    /// Notes what has changed in a space, in order, and keeps its faults. False: there was nothing.
    fn take_events(&mut self, id: u64) -> bool {
        let Self { spaces, events, faults, burst, guard, .. } = self;
        let Some(space) = spaces.get_mut(&id) else { return false };
        let outcome = space.userfault.events(events);
        let mut forks = Vec::new();
        for event in events.drain(..) {
            match event {
                Event::Fault { address, thread } => {
                    burst.note(id, thread);
                    faults.push_back((id, address & !(PAGE_BYTES - 1)));
                }
                Event::Removed(range) => space.missing.give_up(range),
                Event::Unmapped(range) => space.changes.unmapped(&mut space.missing, range),
                Event::Moved { from, to } => space.changes.moved(&mut space.missing, from, to),
                Event::Forked(userfault) => {
                    // Who does not want to know any more has gone.
                    space.watcher = space.watcher.take().filter(|who| who.send(space.missing.clone()).is_ok());
                    let child = Space::new(userfault, space.missing.clone(), None);
                    forks.push(guard::hold(&**guard, &child.userfault).map(|()| child));
                }
            }
        }
        space.changes.settle(&mut space.missing, &space.userfault);
        for child in forks {
            if let Err(error) = child.and_then(|child| self.add(child)) {
                tracing::error!(%error, "cannot serve a child's own child; it waits until it is killed");
            }
        }
        outcome.unwrap_or_else(|error| {
            tell_stuck(&error);
            false
        })
    }

    /// Looks at what changes a space. Who changes it may have to come to say so, or to go on.
    fn await_change(&mut self, id: u64) {
        self.take_events(id);
        self.burst.give_way();
    }

    /// What became of a page that the source was not needed for.
    fn note_filled(&mut self, id: u64, page: Range, filled: Result<Placed, CallError>) {
        match filled {
            Ok(Placed::All) => {}
            // Something changes the address space: look at that first.
            Ok(Placed::Until(_)) => {
                self.await_change(id);
                self.faults.push_front((id, page.start));
            }
            // Somebody else had it, or it came with another's, or is not there any more; whoever waits may have come
            // since.
            Ok(Placed::Exists(_) | Placed::NoRange(_)) => {
                if let Some(space) = self.spaces.get(&id)
                    && let Err(error) = space.userfault.wake(page)
                {
                    tell_stuck(&error);
                }
            }
            Ok(Placed::Ended) => {
                self.spaces.remove(&id);
            }
            Err(error) => tell_stuck(&error),
        }
    }

    fn complete(&mut self, token: u64, pages: &[u8]) {
        let Some(read) = self.reads.remove(&token) else { return };
        assert_eq!(read.range.bytes, pages.len() as u64, "an answer is as long as was asked for");
        self.receive(&read, pages);
    }

    fn receive(&mut self, read: &Read, pages: &[u8]) {
        if let Err(error) = self.place(read, pages) {
            tell_stuck(&error);
        }
        if let Some(lesson) = self.lesson.as_mut().filter(|lesson| lesson.space == read.space) {
            lesson.learn(read, pages);
        }
    }

    /// Puts pages where they still belong, and wakes who waits for the others.
    fn place(&mut self, read: &Read, pages: &[u8]) -> Result<(), CallError> {
        let (mut at, mut most) = (0, read.range.bytes);
        while at < read.range.bytes {
            let Some(space) = self.spaces.get(&read.space) else { return Ok(()) };
            let address = read.range.start + at;
            let (origin, bytes) = space.missing.origin(address);
            let bytes = bytes.min(read.range.bytes - at).min(most);
            let placed = if origin == Origin::Seed(read.from + at) {
                space.userfault.copy(address, &pages[at as usize..(at + bytes) as usize])?
            } else {
                Placed::NoRange(0)
            };
            match placed {
                Placed::All => at += bytes,
                Placed::Until(done) => {
                    at += done;
                    if done == 0 {
                        self.await_change(read.space);
                    }
                }
                // One copy goes into one mapping, and these may be two.
                Placed::NoRange(0) if bytes > PAGE_BYTES => most = PAGE_BYTES,
                Placed::Exists(done) | Placed::NoRange(done) => {
                    at += done + PAGE_BYTES;
                    space.userfault.wake(Range { start: address + done, bytes: PAGE_BYTES })?;
                }
                Placed::Ended => {
                    self.spaces.remove(&read.space);
                }
            }
        }
        Ok(())
    }
}

impl Lesson {
    fn learn(&mut self, read: &Read, pages: &[u8]) {
        let Range { start, bytes } = read.range;
        // What has moved since the fork is elsewhere in the template.
        let (origin, missing_bytes) = self.missing.origin(start);
        if origin != Origin::Seed(read.from) || missing_bytes < bytes {
            return;
        }
        // Where it does not succeed the next child finds the page missing, as without.
        let _ = self.template.copy(start, pages);
        self.ranges.push(Range { start: read.from, bytes });
        self.pages += read.range.bytes / PAGE_BYTES;
    }

    const fn is_long(&self) -> bool {
        self.pages >= LESSON_PAGES_MAX || self.ranges.len() >= READ_RANGES_MAX
    }
}

/// Gives a page of a file. Where the file has none any more the page is as lost as in a mapping of it.
fn give_from_file(space: &Space, page: Range, file: u32, offset: u64) -> Result<Placed, CallError> {
    let mut bytes = [0; PAGE_BYTES as usize];
    match space.missing.beneath().read(file, offset, &mut bytes) {
        Ok(true) => space.userfault.copy(page.start, &bytes),
        Ok(false) => space.userfault.poison(page),
        Err(error) => {
            tracing::error!(%error, "a page of a file is lost: a child that touches it gets SIGBUS");
            space.userfault.poison(page)
        }
    }
}

fn tell_stuck(error: &CallError) {
    tracing::error!(%error, "a child's pages cannot be given; it is left waiting until it is killed");
}
