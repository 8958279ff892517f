//! A process that has a descriptor's address space and forks the children.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::userfault::{Event, Placed, Userfault};
use ramet_sys::{End, Pidfd, Range};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};

use super::ahead::Unborn;
use super::family::Warm;
use super::files::{self, Given};
use super::plan::{self, Numbers, Plan};
use super::{Child, Habitat, Heard, Host, Phases, ResumeError, STEP_TIMEOUT, TemplatePhases, control_pair, hear};
use crate::clocks;
use crate::descriptor::ForkDescriptor;
use crate::guard;
use crate::interpreter::FAILURE_BYTES;
use crate::mapped;
use crate::missing::{Missing, Origin};
use crate::program::PROGRAM_NAME;
use crate::source::Learned;
use crate::zygote::{self, Order, Start};

/// A template, which ends when it is dropped.
#[derive(Debug)]
pub(super) struct Template {
    control: UnixStream,
    process: Process,
    userfault: Arc<Userfault>,
    plan: Plan,
    pub(super) phases: TemplatePhases,
}

/// A process that becomes a template. It maps its memory by itself.
#[derive(Debug)]
pub(super) struct Begun {
    control: UnixStream,
    process: Process,
    plan: Plan,
    planned: Duration,
    copied: Duration,
}

/// A process that ends when this is dropped.
#[derive(Debug)]
struct Process(Pidfd);

/// What a child takes from its host.
#[derive(Debug)]
pub(super) struct Belongings {
    identity: Vec<u8>,
    files: Vec<OwnedFd>,
    open: Duration,
}

impl Belongings {
    pub(super) fn open(
        host: &Host,
        descriptor: &ForkDescriptor,
        warm: &Warm,
        given: &Given,
    ) -> Result<Self, ResumeError> {
        let start = Instant::now();
        let identity = host.rights.identity(descriptor, given)?;
        let pieces = warm.shared.pieces(descriptor)?;
        let mut files = files::open(descriptor, given, &pieces)?;
        files.extend(pieces);
        Ok(Self { identity, files, open: start.elapsed() })
    }
}

/// What has to be there before a child is forked, whoever it will be.
#[derive(Debug)]
pub(super) struct Expected {
    control: UnixStream,
    theirs: UnixStream,
    habitat: Habitat,
}

impl Expected {
    pub(super) fn new(host: &Host, descriptor: &ForkDescriptor) -> Result<Self, ResumeError> {
        let (control, theirs) = control_pair()?;
        let is_numbered = plan::numbers(descriptor) == Numbers::Same;
        let habitat = if is_numbered { host.habitat()? } else { Habitat::default() };
        Ok(Self { control, theirs, habitat })
    }
}

impl Template {
    /// Begins to make one.
    pub(super) fn begin(host: &Host, descriptor: &ForkDescriptor) -> Result<Begun, ResumeError> {
        let start = Instant::now();
        let (control, theirs) = control_pair()?;
        let mapped = mapped::open_all(descriptor)?;
        let clocks = clocks::wanted(descriptor, &host.machine, host.clock_offsets);
        let plan = Plan::new(descriptor, host.call_and_return, &host.rights, clocks)?;
        let memory = File::from(memfd_create(PROGRAM_NAME, MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
        (&memory).write_all(&plan.image)?;
        let own = [memory.as_fd(), theirs.as_fd()].into_iter();
        let fds: Vec<_> = own.chain(mapped.iter().map(AsFd::as_fd)).collect();
        let planned = start.elapsed();

        let order = Order::Program(Start { fds: fds.len() as u32, ..plan.start });
        let process = Process(host.copies.make(&order, &fds)?);
        // What a function's instance may use is its own host's to say.
        if !descriptor.awaits_identity
            && let Err(error) = descriptor.marks.give(process.0.pid(), host.rights.marks())
        {
            tracing::debug!(%error, "a child is killed sooner than what it was forked from when memory runs out");
        }
        Ok(Begun { control, process, plan, planned, copied: start.elapsed() - planned })
    }
}

impl Begun {
    /// Waits for its memory, and lets it have what every child touches first.
    pub(super) fn finish(self, warm: &Warm) -> Result<Template, ResumeError> {
        let Self { control, process, plan, planned, copied } = self;
        let start = Instant::now();
        let (userfault, mapped) = lead(&control, &plan)?;
        warm.write_in_place(&process.0)?;
        let registered = Instant::now();
        push(&userfault, &plan.missing, &warm.learned);
        let phases = TemplatePhases {
            plan: planned,
            copy: copied,
            map: mapped - start,
            register: registered - mapped,
            push: registered.elapsed(),
        };
        Ok(Template { control, process, userfault: Arc::new(userfault), plan, phases })
    }
}

impl Template {
    /// What the children find missing.
    pub(super) const fn missing(&self) -> &Missing {
        &self.plan.missing
    }

    /// Its number, for as long as it is not dropped.
    pub(super) const fn pid(&self) -> i32 {
        self.process.0.pid()
    }

    /// Its faults. They are only for putting pages there.
    pub(super) fn userfault(&self) -> Arc<Userfault> {
        Arc::clone(&self.userfault)
    }

    /// Forks a child, which the pager knows as `space`. `serve` is given its faults. The template is ready for the next
    /// one when this returns.
    pub(super) fn fork(
        &self,
        host: &Host,
        expected: Expected,
        space: u64,
        serve: impl FnOnce(Userfault) -> io::Result<()>,
    ) -> Result<Unborn, ResumeError> {
        let Expected { control, theirs, habitat } = expected;
        let first = habitat.first().map(AsFd::as_fd);
        let order: Vec<BorrowedFd<'_>> = std::iter::once(theirs.as_fd()).chain(first).collect();
        zygote::send(&self.control, &[0], &order)?;
        drop(theirs);
        let userfault = self.forked()?;
        let unborn = Unborn::new(control, habitat, space, self.pid());
        guard::hold(&*host.guard, &userfault)?;
        serve(userfault)?;
        Ok(unborn)
    }

    /// Lets a child become who it is and go on.
    pub(super) fn let_go(&self, mut unborn: Unborn, belongings: &Belongings) -> Result<Child, ResumeError> {
        let start = Instant::now();
        // Without these it does not go on, so its faults are served by now.
        zygote::send(&unborn.control, &belongings.identity, &[] as &[OwnedFd])?;
        if !belongings.files.is_empty() {
            zygote::send(&unborn.control, &[0], &belongings.files)?;
        }
        if let Some(failure) = unborn.arrive()? {
            return Err(self.failure(&failure));
        }
        let silent = |_| ResumeError::Silent("the end of its program");
        let heard = unborn.hear(FAILURE_BYTES).map_err(silent)?;
        // It closes everything but what is its own.
        let is_done = heard.count == 1;
        let last = if is_done { unborn.hear(FAILURE_BYTES).map_err(silent)? } else { heard };
        if !is_done || last.count != 0 {
            return Err(self.failure(&last));
        }
        let pidfd = unborn.take_pidfd().ok_or(ResumeError::Silent("the end of its program"))?;
        let (pid, space, habitat) = (pidfd.pid(), unborn.space, std::mem::take(&mut unborn.habitat));
        let phases = Phases { template: None, open: belongings.open, fork: Duration::ZERO, start: start.elapsed() };
        let program = Range { start: self.plan.start.program, bytes: self.plan.image.len() as u64 };
        Ok(Child { pid, pidfd, phases, space, program, habitat })
    }

    /// Waits until the template has forked, and gives the faults of the new process.
    fn forked(&self) -> Result<Userfault, ResumeError> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let mut events = Vec::new();
        loop {
            self.userfault.events(&mut events)?;
            // A template touches nothing that could be missing.
            let forked = events.drain(..).find_map(|event| match event {
                Event::Forked(userfault) => Some(userfault),
                _ => None,
            });
            if let Some(userfault) = forked {
                return Ok(userfault);
            }
            let mut ready = [PollFd::new(&*self.userfault, PollFlags::IN), PollFd::new(&self.control, PollFlags::IN)];
            let left = deadline.saturating_duration_since(Instant::now());
            match poll(&mut ready, Some(&timespec(left))) {
                Ok(0) => return Err(ResumeError::Silent("forking a child")),
                Ok(_) if ready[1].revents().is_empty() => {}
                // It does not speak unless something failed.
                Ok(_) => {
                    let heard = hear(&self.control).map_err(|_| ResumeError::Silent("forking a child"))?;
                    return Err(self.failure(&heard));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }

    fn failure(&self, heard: &Heard) -> ResumeError {
        failure(&self.plan, heard, "forking a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        end(&self.0);
    }
}

/// Leads a new process to where it is a template. Gives its faults, and when its memory was mapped.
fn lead(control: &UnixStream, plan: &Plan) -> Result<(Userfault, Instant), ResumeError> {
    let silent = |_| ResumeError::Silent("its first step");
    let userfault = match hear(control).map_err(silent)? {
        Heard { count: 1, fd: Some(userfault), .. } => userfault,
        heard => return Err(failure(plan, &heard, "its first step")),
    };
    let userfault = Userfault::begin(userfault)?;
    match hear(control).map_err(|_| ResumeError::Silent("mapping its memory"))? {
        Heard { count: 1, .. } => {}
        heard => return Err(failure(plan, &heard, "mapping its memory")),
    }
    let mapped = Instant::now();
    for range in &plan.registered {
        userfault.register(*range)?;
    }
    Ok((userfault, mapped))
}

/// Puts pages there that are missing. Where that does not succeed, whoever touches them finds them missing.
fn push(userfault: &Userfault, missing: &Missing, warm: &Learned) {
    let mut pages = warm.pages.as_slice();
    for range in &warm.ranges {
        let Some((these, rest)) = pages.split_at_checked(range.bytes as usize) else { return };
        pages = rest;
        // A peer says where they belong. Neighbours may be in several mappings.
        for (part, origin) in missing.pieces(*range) {
            if origin == Origin::Seed(part.start) {
                let at = (part.start - range.start) as usize;
                push_part(userfault, part.start, &these[at..at + part.bytes as usize]);
            }
        }
    }
}

fn push_part(userfault: &Userfault, to: u64, pages: &[u8]) {
    let (mut at, mut most) = (0, pages.len());
    while at < pages.len() {
        let end = at.saturating_add(most).min(pages.len());
        at = match userfault.copy(to + at as u64, &pages[at..end]) {
            Ok(Placed::All) => end,
            Ok(Placed::Exists(done)) => at + (done + PAGE_BYTES) as usize,
            // One copy goes into one mapping, and these may be two.
            Ok(Placed::NoRange(0)) if end - at > PAGE_BYTES as usize => {
                most = PAGE_BYTES as usize;
                at
            }
            _ => return,
        };
    }
}

/// What it means that a process said this.
fn failure(plan: &Plan, heard: &Heard, step: &'static str) -> ResumeError {
    if heard.count != FAILURE_BYTES {
        return ResumeError::Silent(step);
    }
    let word = |at: usize| heard.bytes[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    let number = word(8).cast_signed();
    let source = match number {
        -4095..0 => io::Error::from_raw_os_error(-number as i32),
        _ => io::Error::other(format!("it gave {number:#x}, which is not what it gave in the forked process")),
    };
    ResumeError::Step { step: plan.meaning(word(0)), source }
}

pub(super) fn end(pidfd: &Pidfd) {
    let _ = pidfd.signal(End::Kill);
    let _ = pidfd.wait();
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().cast_signed(), tv_nsec: duration.subsec_nanos().into() }
}
