//! Prepare: a running process is forked from outside, and the copy, which never runs, is described.
//!
//! The target is stopped for as long as its own `fork` would take and the reading of its registers: one `clone` is
//! injected into its first thread. Everything else is read from the copy, the *seed*.

mod areas;
mod files;
mod frozen;
mod inherit;
mod inject;
mod library;
mod maps;
mod namespaces;
mod numbers;
mod pieces;
mod reap;
mod registers;
mod seed;
mod space;
mod status;
mod stop;
mod timers;
mod vdso;
mod visit;
mod watched;

use std::borrow::Cow;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use ramet_sys::{CallError, ProcessMemory, Range, latency};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use self::frozen::Watch;
use self::maps::Flag;
use self::space::Space;
use self::status::Status;
use crate::beside::Beside;
use crate::carried::Uncarried;
use crate::descriptor::{Credentials, ForkDescriptor};
use crate::lineage::SeedAt;
use crate::machine::Machine;
use crate::resume;

pub use self::seed::Seed;

pub(crate) use self::files::identity;
pub(crate) use self::inherit::Lacking;
pub(crate) use self::status::{LIMITS, limits};
pub(crate) use self::vdso::call_and_return_offset;
pub(crate) use self::visit::Visit;

/// How long a process may take until it goes on as itself, and how often it is looked for that: a child takes its last
/// steps, or it executes a program.
const BEGINNING_TIMEOUT: Duration = Duration::from_secs(5);
const BEGINNING_STEP: Duration = Duration::from_micros(200);
/// Why a process is not copied of whose pages nobody here knows where they are.
const PAGES_ELSEWHERE: &str = "pages of its memory come from elsewhere when it touches them (userfaultfd), and those \
                               that have not come would be zeros in the copy; have its own keeper prepare it, or wait \
                               until it has all of them";

/// A seed, what it is, and what it took.
#[derive(Debug)]
pub struct Prepared {
    /// The frozen copy.
    pub seed: Seed,
    /// What it is.
    pub descriptor: ForkDescriptor,
    /// For how long the process was stopped.
    pub pause: Duration,
    /// The seeds of others that it needs, which its descriptor is yet to name.
    pub(crate) lineage: Vec<SeedAt>,
}

/// Why a process was not prepared. It runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(i32),
    /// It has ended, and nobody has taken it away yet.
    #[error("process {0} has ended and only waits for its parent to take note (a zombie); there is nothing to fork")]
    Ended(i32),
    /// Others of its threads go on.
    #[error(
        "process {0} cannot be forked: its first thread has ended (pthread_exit in main), which would have to make the \
         copy; have it wait for the others instead"
    )]
    Headless(i32),
    /// It may not be looked into.
    #[error(
        "may not trace process {pid}: {source}; who keeps seeds (`ramet up`, `ramet fork serve`) must be root, or the \
         process's user where ptrace(2) lets that trace it"
    )]
    NotAllowed {
        /// Which process.
        pid: i32,
        /// What was refused.
        source: CallError,
    },
    /// Somebody traces it.
    #[error(
        "process {pid} is being traced by {}; if that is a debugger, detach it, and if somebody else prepares the \
         process, try again",
        tracer.map_or_else(|| "somebody, or ptrace(2) is forbidden here".to_owned(), |pid| format!("process {pid}"))
    )]
    Traced {
        /// Which process.
        pid: i32,
        /// Who does. None: he had ceased to when it was looked who that is.
        tracer: Option<i32>,
    },
    /// It cannot be copied, by what it is.
    #[error("process {pid} cannot be forked: {reason}")]
    Unfit {
        /// Which process.
        pid: i32,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// It has what no fork carries.
    #[error(transparent)]
    Uncarried(#[from] Uncarried),
    /// It is confined by seccomp, and what that means cannot be found out.
    #[error(
        "process {pid} is confined by seccomp, which only root sees through ({source}); run who keeps seeds as root"
    )]
    Confined {
        /// Which process.
        pid: i32,
        /// What was refused.
        source: CallError,
    },
    /// It was forked just now.
    #[error("process {0} has been forked and has not begun to go on; try again")]
    TooEarly(i32),
    /// It executes a program.
    #[error("process {0} is executing a program and has not begun with it; try again")]
    Executing(i32),
    /// Somebody has stopped it, and a stopped process makes no copy of itself.
    #[error("process {0} is stopped (SIGSTOP, or Ctrl-Z at its terminal); let it go on first: kill -CONT {0}")]
    Stopped(i32),
    /// A thread does not stop.
    #[error("thread {tid} does not stop: it waits in the kernel for something that does not come; try again")]
    Unstoppable {
        /// Which thread.
        tid: i32,
    },
    /// A call in the process failed.
    #[error("process {pid} was made to call {call}, which failed: {source}")]
    Injected {
        /// Which process.
        pid: i32,
        /// Which call.
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread stopped for something else.
    #[error("thread {tid} stopped for another reason than asked; try again")]
    Unexpected {
        /// Which thread.
        tid: i32,
    },
    /// It has come to have open files or shared memory that it had not.
    #[error("process {0} opens files or shares memory faster than that can be listed; try again")]
    Changed(i32),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A file of `/proc` could not be read.
    #[error("cannot read what the kernel says about process {pid}: {source}")]
    Proc {
        /// Which process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

impl PrepareError {
    fn not_allowed(pid: i32, call: &'static str, source: io::Error) -> Self {
        Self::NotAllowed { pid, source: CallError { call, source } }
    }

    /// Whether it may be over in a moment.
    fn may_pass(&self, child: Option<&resume::Watch>) -> bool {
        match self {
            // Another one prepares it, which takes milliseconds.
            Self::Traced { .. } => true,
            Self::TooEarly(_) | Self::Executing(_) => true,
            // The first one has ended, too, while another thread is about to execute a program.
            Self::Headless(_) => true,
            // What a child waits for in the kernel is likely to be a page that is on its way from another host.
            Self::Unstoppable { .. } => child.is_some(),
            // While a thread executes a program it takes the number of the first one, which is nobody's meanwhile.
            Self::NoProcess(pid) => is_there(*pid),
            Self::Proc { source, .. } => source.raw_os_error() == Some(libc::ESRCH),
            Self::Call(error) => error.is_gone(),
            _ => false,
        }
    }

    /// Why a thread is not traced whose memory may be read: so nobody forbids it, but a process has one tracer at most.
    fn not_seized(pid: i32, tid: i32, source: CallError) -> Self {
        match source.source.raw_os_error() {
            Some(libc::EPERM) => {
                let tracer = status::of_thread(pid, tid).ok().map(|status| status.tracer);
                Self::Traced { pid, tracer: tracer.filter(|tracer| *tracer != 0) }
            }
            _ => Self::NotAllowed { pid, source },
        }
    }

    fn unfit(pid: i32, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Unfit { pid, reason: reason.into() }
    }
}

fn is_there(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

/// Why a file of `/proc/PID` could not be read.
fn proc_failed(pid: i32) -> impl Fn(io::Error) -> PrepareError {
    move |source| match source.kind() {
        io::ErrorKind::NotFound => PrepareError::NoProcess(pid),
        _ => PrepareError::Proc { pid, source },
    }
}

/// Forks a process from outside.
///
/// # Errors
/// Why not; the process then runs on as before.
pub fn prepare(pid: i32) -> Result<Prepared, PrepareError> {
    prepare_with(pid, None, Unforked::Carried)
}

/// What becomes of memory that the process's own forks do not have (`MADV_DONTFORK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unforked {
    /// It is carried: the process knows nothing of a fork, and goes on using it.
    Carried,
    /// It is left out: the process waits to be forked, and has said so what its copies are not to have.
    LeftOut,
}

/// The same of a child that is watched, which may not have all of its pages yet.
pub(crate) fn prepare_with(
    pid: i32,
    child: Option<resume::Watch>,
    unforked: Unforked,
) -> Result<Prepared, PrepareError> {
    if pid == std::process::id().cast_signed() {
        return Err(PrepareError::unfit(
            pid,
            "it is the one that prepares, and cannot stop itself; have another do it",
        ));
    }
    let deadline = Instant::now() + BEGINNING_TIMEOUT;
    let mut look = Look::Before;
    loop {
        match attempt(pid, child.as_ref(), look, unforked) {
            Err(PrepareError::Changed(_)) if look == Look::Before => look = Look::Meanwhile,
            Err(error) if error.may_pass(child.as_ref()) && Instant::now() < deadline => thread::sleep(BEGINNING_STEP),
            attempted => return attempted,
        }
    }
}

/// When it is found out what there is to look at while a process is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Before the stop, which is over soon then.
    Before,
    /// While it lasts, because there was more than had been found before.
    Meanwhile,
}

fn attempt(pid: i32, child: Option<&resume::Watch>, look: Look, unforked: Unforked) -> Result<Prepared, PrepareError> {
    latency::keep_awake();
    let look_at = || {
        let text = status::read(pid, "status").map_err(proc_failed(pid))?;
        Ok::<_, PrepareError>(Status::parse(&text).unwrap_or_default())
    };
    let status = look_at()?;
    if status.has_ended {
        // A thread that executes a program takes the number of the first one meanwhile, and its own is gone.
        let goes_on = status::has_threads(pid) || !look_at()?.has_ended;
        return Err(if goes_on { PrepareError::Headless(pid) } else { PrepareError::Ended(pid) });
    }
    let space = Space::find(pid)?;
    if status.is_stopped {
        return Err(PrepareError::Stopped(pid));
    }
    if status.seccomp == 1 {
        return Err(PrepareError::unfit(pid, "it is in seccomp's strict mode, which nothing can look into"));
    }
    namespaces::are_its_copys(pid)?;
    let beside = Beside::running(pid);
    // Before anything is stopped: to look takes as long as the copy. A copy of such memory may not show what it is.
    let mappings = status::read(pid, "smaps").map_err(proc_failed(pid))?;
    match child {
        Some(child) if child.is_lost() => return Err(PrepareError::unfit(pid, "the seed of its own is lost")),
        Some(_) => {}
        None if maps::flagged(&mappings, Flag::Registered).is_empty() => {}
        None => return Err(PrepareError::unfit(pid, PAGES_ELSEWHERE)),
    }
    let watch = match look {
        Look::Before => Some(Watch::begin(pid, &mappings, unforked).map_err(proc_failed(pid))?),
        Look::Meanwhile => None,
    };
    let program = child.map_or(Range::new(0, 0), resume::Watch::program);
    let (seed, copied) = stop::stop_and_copy(pid, &space, program, watch, unforked)?;
    drop(beside);
    let seed = Seed::take(seed, pid, space.instruction, copied.filters)?;
    let pause = copied.pause;
    let lacking = child.map(resume::Watch::lacking);
    let (descriptor, lineage) = seed.describe(pid, copied, lacking, unforked)?;
    Ok(Prepared { seed, descriptor, pause, lineage })
}

/// The machine that this process runs on, and its vdso.
pub(crate) fn this_machine() -> io::Result<(Machine, Vec<u8>)> {
    let lines = maps::parse(&fs::read("/proc/self/maps")?).ok_or(io::ErrorKind::InvalidData)?;
    let special = |name: &'static [u8]| lines.iter().filter(move |line| line.name.starts_with(name));
    let vdso = special(b"[vdso]").next().map(|line| line.range).ok_or(io::ErrorKind::Unsupported)?;
    let mut code = vec![0; vdso.bytes as usize];
    let this = std::process::id().cast_signed();
    ProcessMemory::open(this).and_then(|memory| memory.read(vdso.start, &mut code)).map_err(io::Error::other)?;
    let vvar_bytes = special(b"[vvar").map(|line| line.range.bytes).sum();
    Ok((Machine::this(&code, vvar_bytes), code))
}

/// Who this process is.
pub(crate) fn this_process() -> io::Result<Credentials> {
    let status = Status::parse(&fs::read("/proc/self/status")?).ok_or(io::ErrorKind::InvalidData)?;
    Ok(status.credentials)
}
