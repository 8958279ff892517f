//! The children of one seed on this host: where their pages come from, and the template that they are forked from.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::{Pidfd, ProcessMemory, Range, latency};
use rustix::event::{EventfdFlags, eventfd};
use tracing::field::display;

use super::ahead::{Ahead, Unborn};
use super::habit::Habit;
use super::shared::Contents;
use super::template::{Begun, Belongings, Expected, Template};
use super::{Child, Given, Host, Phases, ResumeError, TemplatePhases};
use crate::cache::{CACHE_BYTES_MAX, Cache, PullError};
use crate::carried;
use crate::descriptor::ForkDescriptor;
use crate::lineage::SeedAt;
use crate::mapped;
use crate::pager::{News, Pager, Space};
use crate::seeds::Granted;
use crate::shown::Shown;
use crate::source::{self, Learned, PageSource};

/// How far below its stack pointer the frame is written from which a thread goes on.
const FRAME_BYTES: u64 = 2 * PAGE_BYTES;

/// So many pages are copied for a child that waits before it is looked whether somebody asks for it.
const PAGES_AT_ONCE: usize = 8;

/// How much of a command line is put into a template: few are longer.
const ARGUMENT_PAGES_MAX: usize = 8;

/// What a template has from the beginning.
#[derive(Debug)]
pub(super) struct Warm {
    /// What would come when it is touched, too.
    pub(super) learned: Arc<Learned>,
    /// What has to be there.
    in_place: Arc<Learned>,
    /// What each child gets of its own.
    pub(super) shared: Contents,
}

/// How far the template is.
#[derive(Debug)]
enum Stage {
    /// It maps its memory while its pages are on their way.
    Begun(Begun),
    Made(Arc<Template>),
    /// It failed.
    Gone,
}

/// Children of one seed. When it is dropped, those that still need pages wait for ever: end them first.
#[derive(Debug)]
pub struct Family {
    /// Begun with the second child.
    ahead: OnceLock<Ahead>,
    nest: Arc<Nest>,
    /// Where others find the pages that children have not touched. None: they do not.
    lineage: Vec<SeedAt>,
    /// What a template has from the beginning.
    warm: Warm,
    /// Whether the seed can be read no more.
    lost: Arc<AtomicBool>,
    /// Whether it is not needed any more.
    independent: Arc<AtomicBool>,
    /// When there are no children any more, of a seed that has ended when it was not needed any more.
    barren_from: Arc<OnceLock<Instant>>,
    pager: Option<JoinHandle<()>>,
}

/// Whether a child is its template's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    First,
    Further,
}

/// What forks the template.
#[derive(Debug)]
struct Nest {
    host: Arc<Host>,
    descriptor: ForkDescriptor,
    state: Mutex<State>,
    /// What the next child's space is known by.
    space_next: AtomicU64,
    /// How many ask for a child just now.
    asked: AtomicU32,
    told: Sender<News>,
    news: OwnedFd,
}

/// Somebody asks for a child.
struct Asking<'n>(&'n Nest);

#[derive(Debug)]
struct State {
    /// A child that nobody has asked for yet.
    ahead: Option<Waiting>,
    /// Begun for the first child.
    template: Stage,
    /// Seen at the template's second child: the first has other pages than its forks.
    habit: Option<Habit>,
}

/// What is to be a child.
#[derive(Debug)]
struct Waiting {
    unborn: Unborn,
    template: Arc<Template>,
    /// What was only done because there was no template yet.
    made: Option<TemplatePhases>,
    fork: Duration,
}

impl Family {
    /// Starts the pager of a seed's children.
    ///
    /// # Errors
    /// The machines differ, or the operating system's.
    pub fn start(
        host: Arc<Host>,
        descriptor: ForkDescriptor,
        mut source: Box<dyn PageSource>,
    ) -> Result<Self, ResumeError> {
        host.may_fork()?;
        carried::check(&descriptor)?;
        host.machine.can_take(&descriptor.machine)?;
        let directory = Path::new(OsStr::from_bytes(&descriptor.directory));
        fs::metadata(directory).map_err(|source| ResumeError::Directory { path: directory.into(), source })?;
        latency::keep_awake();
        let lineage = source.lineage();
        if lineage.len() <= descriptor.ancestors.len() && !descriptor.ancestors.is_empty() {
            return Err(ResumeError::Unfit("it has pages in other seeds, too, which its source does not read"));
        }
        // Each has work for as long as the other.
        let (begun, warm) = thread::scope(|scope| {
            let warm = scope.spawn(|| Warm::read(&descriptor, source.as_mut()));
            let begun = Template::begin(&host, &descriptor);
            (begun, warm.join())
        });
        let begun = begun?;
        let warm = warm.unwrap_or_else(|panic| resume_unwind(panic))?;
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let theirs = news.try_clone()?;
        let mut cache = Cache::new(source, Granted::with_ancestors(&descriptor));
        cache.take_over(Arc::clone(&warm.learned));
        cache.take_over(Arc::clone(&warm.in_place));
        let (independent, barren_from) = (cache.is_independent(), cache.barren_from());
        let pager = Pager::new(cache, Arc::clone(&host.guard), &news)?;
        let lost = pager.lost();
        let (told, receiver) = channel();
        let seed = lineage.first();
        let address = seed.map(|seed| display(seed.address));
        let span = tracing::error_span!("family", address, handle = seed.map(|seed| display(seed.handle)));
        let serve = move || {
            // Whatever it has to say, it says of which seed.
            let _family = span.entered();
            if let Err(error) = pager.run(&receiver, &theirs) {
                tracing::error!(%error, "the pager has ended; its children wait until they are killed");
            }
        };
        let pager = thread::Builder::new().name("ramet-pager".to_owned()).spawn(serve)?;
        let state = Mutex::new(State { ahead: None, template: Stage::Begun(begun), habit: None });
        let nest = Arc::new(Nest {
            host,
            descriptor,
            state,
            space_next: AtomicU64::new(0),
            asked: AtomicU32::new(0),
            told,
            news,
        });
        Ok(Self { ahead: OnceLock::new(), nest, lineage, warm, lost, independent, barren_from, pager: Some(pager) })
    }

    /// Forks a child. Several can be made at a time: they wait for each other only while the template forks.
    ///
    /// # Errors
    /// Why not. No process is left behind.
    pub fn child(&self, given: &Given) -> Result<Child, ResumeError> {
        latency::keep_awake();
        let nest = &*self.nest;
        let _asking = nest.ask();
        let belongings = Belongings::open(&nest.host, &nest.descriptor, &self.warm, given)?;
        // Whoever waits may have been ended meanwhile.
        if let Some(Ok(child)) = nest.take_ahead().map(|ahead| ahead.template.let_go(ahead.unborn, &belongings)) {
            self.want_another();
            return Ok(child);
        }
        let Waiting { unborn, template, made, fork } = nest.fork(&self.warm)?;
        let mut child = template.let_go(unborn, &belongings)?;
        child.phases = Phases { template: made, fork, ..child.phases };
        if made.is_none() {
            nest.observe(child.pid, template.pid());
            self.want_another();
        } else if let Ok(shown) = Shown::open(child.pid, template.pid(), &nest.descriptor) {
            nest.tell(News::Show(Box::new(shown)))?;
        }
        Ok(child)
    }

    /// Has one more forked. Without it the next child takes longer.
    fn want_another(&self) {
        if let Some(ahead) = self.ahead.get() {
            return ahead.want();
        }
        let nest = Arc::clone(&self.nest);
        if let Ok(ahead) = Ahead::start(move || {
            nest.fork_ahead();
            let _ = nest.prepare_ahead();
        }) {
            self.ahead.get_or_init(|| ahead).want();
        }
    }

    /// Whether the seed is known to be lost: its children have what they have, and new ones are of no use.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether there can be children: the seed's lease has not ended, as far as it is known here, and the host is not
    /// lost.
    #[must_use]
    pub fn is_fertile(&self) -> bool {
        let is_barren = self.barren_from.get().is_some_and(|from| *from <= Instant::now());
        !self.is_lost() && !is_barren && self.nest.host.is_alive()
    }

    /// Begins to read all of the seed's memory, so that its children, and those to come, need it no more.
    ///
    /// # Errors
    /// It is too large for that.
    pub fn pull(&self) -> Result<(), PullError> {
        let bytes = Granted::with_ancestors(&self.nest.descriptor).bytes();
        if bytes > CACHE_BYTES_MAX {
            return Err(PullError::TooLarge { bytes });
        }
        self.nest.tell(News::Pull).map_err(|_| PullError::Ended)
    }

    /// Whether the seed is not needed any more: all of its memory is here.
    #[must_use]
    pub fn is_independent(&self) -> bool {
        self.independent.load(Ordering::Relaxed)
    }

    /// The seeds that the children's pages come from, the nearest first.
    pub(super) fn lineage(&self) -> &[SeedAt] {
        &self.lineage
    }

    pub(super) fn tell(&self, news: News) -> io::Result<()> {
        self.nest.tell(news)
    }
}

impl Nest {
    /// Counts somebody who asks for a child, until this is dropped.
    fn ask(&self) -> Asking<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Asking(self)
    }

    fn tell(&self, news: News) -> io::Result<()> {
        self.told.send(news).map_err(|_| io::Error::other("the pager has ended"))?;
        rustix::io::write(&self.news, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_ahead(&self) -> Option<Waiting> {
        self.state().ahead.take()
    }

    /// Has the template fork, which is made for the first child.
    fn fork(&self, warm: &Warm) -> Result<Waiting, ResumeError> {
        let start = Instant::now();
        let expected = Expected::new(&self.host, &self.descriptor)?;
        let mut state = self.state();
        // One may have come to wait since.
        if let Some(ahead) = state.ahead.take() {
            return Ok(ahead);
        }
        // After an error nobody knows what the template still does, so the next child gets another one.
        let (template, made) = match std::mem::replace(&mut state.template, Stage::Gone) {
            Stage::Made(template) => (template, None),
            begun => {
                let anew = || Template::begin(&self.host, &self.descriptor)?.finish(warm);
                let template = match begun {
                    Stage::Begun(begun) => match begun.finish(warm) {
                        // Whoever was there before may have been ended meanwhile.
                        Err(ResumeError::Silent(_)) => anew(),
                        made => made,
                    },
                    _ => anew(),
                }?;
                let phases = template.phases;
                (Arc::new(template), Some(phases))
            }
        };
        let before = made.map_or(Duration::ZERO, |_| start.elapsed());
        let unborn = self.fork_of(&template, expected, if made.is_some() { Order::First } else { Order::Further })?;
        state.template = Stage::Made(Arc::clone(&template));
        Ok(Waiting { unborn, template, made, fork: start.elapsed() - before })
    }

    /// Sees at this child what the next ones will write to.
    fn observe(&self, child: i32, template: i32) {
        let mut state = self.state();
        if state.habit.as_ref().is_none_or(|habit| !habit.is_known()) {
            state.habit = Habit::of(child, template, &self.descriptor).ok();
        }
    }

    /// Forks one that nobody has asked for yet, unless there is one.
    fn fork_ahead(&self) {
        let is_wanted = |state: &State| state.ahead.is_none() && matches!(state.template, Stage::Made(_));
        if !is_wanted(&self.state()) {
            return;
        }
        let expected = Expected::new(&self.host, &self.descriptor);
        let mut state = self.state();
        let Stage::Made(template) = &state.template else { return };
        if state.ahead.is_some() {
            return;
        }
        let template = Arc::clone(template);
        let forked = expected.and_then(|expected| self.fork_of(&template, expected, Order::Further));
        match forked.and_then(Unborn::arrived) {
            Ok(unborn) => state.ahead = Some(Waiting { unborn, template, made: None, fork: Duration::ZERO }),
            Err(error) => {
                // Whoever asks for the next child is told why there is none.
                tracing::debug!(%error, "no child is forked ahead");
                state.template = Stage::Gone;
            }
        }
    }

    /// Gives who waits the pages that earlier children have written to, until somebody asks for a child.
    fn prepare_ahead(&self) -> Option<()> {
        let is_asked = || self.asked.load(Ordering::Relaxed) > 0;
        let mut state = self.state();
        let waits = state.waits()?;
        let pages = state.habit.as_mut().filter(|_| !is_asked())?.pages().ok()?;
        drop(state);
        let memory = ProcessMemory::open(waits).ok()?;
        for pages in pages.chunks(PAGES_AT_ONCE) {
            // It waits for as long as this is held.
            let state = self.state();
            state.waits().filter(|now| *now == waits && !is_asked())?;
            memory.unshare(pages).ok()?;
        }
        Some(())
    }

    fn fork_of(&self, template: &Template, expected: Expected, order: Order) -> Result<Unborn, ResumeError> {
        let name = self.space_next.fetch_add(1, Ordering::Relaxed);
        template.fork(&self.host, expected, name, |userfault| {
            let space = Space::new(userfault, template.missing().clone(), Some(name));
            self.tell(match order {
                Order::First => News::First(space, template.userfault()),
                Order::Further => News::Child(space),
            })
        })
    }
}

impl State {
    /// The number of the child that waits.
    fn waits(&self) -> Option<i32> {
        self.ahead.as_ref()?.unborn.pid()
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.ahead.take();
        // Who was forked ahead ends before the pager.
        *self.nest.state() = State { ahead: None, template: Stage::Gone, habit: None };
        if self.nest.tell(News::End).is_ok()
            && let Some(pager) = self.pager.take()
        {
            let _ = pager.join();
        }
    }
}

impl Warm {
    /// The pages that every child touches before anything else, those that the source knows of, and those that cannot
    /// come later.
    fn read(descriptor: &ForkDescriptor, source: &mut dyn PageSource) -> Result<Self, ResumeError> {
        let mut learned = source.take_learned()?;
        let is_known = |page: &Range| learned.ranges.iter().any(|range| range.contains(page.start));
        let mut first: Vec<Range> = first_pages(descriptor).into_iter().filter(|page| !is_known(page)).collect();
        let places = mapped::in_place(descriptor);
        let firsts = first.len();
        first.extend(&places);
        let bytes: u64 = first.iter().map(|range| range.bytes).sum();
        let mut pages = vec![0; bytes as usize];
        source::read(source, &first, &mut pages)?;
        let in_place = Learned { ranges: places, pages: pages.split_off(firsts * PAGE_BYTES as usize) };
        learned.ranges.extend(&first[..firsts]);
        learned.pages.append(&mut pages);
        let shared = Contents::read(descriptor, source)?;
        Ok(Self { learned: Arc::new(learned), in_place: Arc::new(in_place), shared })
    }

    /// Writes what cannot come later into a template.
    pub(super) fn write_in_place(&self, template: &Pidfd) -> Result<(), ResumeError> {
        if self.in_place.ranges.is_empty() {
            return Ok(());
        }
        let memory = ProcessMemory::open(template.pid())?;
        let mut pages = self.in_place.pages.as_slice();
        for range in &self.in_place.ranges {
            let (these, rest) = pages.split_at(range.bytes as usize);
            memory.write(range.start, these)?;
            pages = rest;
        }
        Ok(())
    }
}

/// Where threads go on: their stacks, and what the kernel and the C library look at in them. And where the command line
/// is: who reads it of another process does not wait for what is missing, and would find none.
pub(crate) fn first_pages(descriptor: &ForkDescriptor) -> Vec<Range> {
    let page = |address: u64| address & !(PAGE_BYTES - 1);
    let threads = descriptor.threads.iter().flat_map(|thread| {
        let registers = &thread.registers;
        let stack = registers.rsp.saturating_sub(FRAME_BYTES)..registers.rsp.saturating_add(PAGE_BYTES);
        let stack = stack.step_by(PAGE_BYTES as usize);
        let named = [registers.fs_base, thread.tid_address, thread.rseq.address, thread.robust_list.0, registers.rip];
        stack.chain(named).map(page)
    });
    let arguments = page(descriptor.layout.arg_start)..descriptor.layout.arg_end;
    let arguments = arguments.step_by(PAGE_BYTES as usize).take(ARGUMENT_PAGES_MAX);
    let pages: BTreeSet<u64> = threads.chain(arguments).collect();
    let is_own = |page: &u64| {
        let at = descriptor.areas.partition_point(|area| area.range().end() <= *page);
        descriptor.areas.get(at).is_some_and(|area| area.own_ranges().any(|own| own.contains(*page)))
    };
    pages.into_iter().filter(is_own).map(|start| Range { start, bytes: PAGE_BYTES }).collect()
}
