//! The stop: all threads of a process are held, one of them forks, and all go on.
//!
//! Whatever fails meanwhile, the process runs on. And should this process be killed at the worst moment, the copy ends
//! with a fault at its first instruction: it must never go on as a second process of its kind.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use libc::{SYS_clone, SYS_madvise, SYS_prctl, SYS_sigaltstack};
use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::ptrace::{Filters, Queue, Registers, Tracee};
use ramet_sys::{CallError, ProcessMemory, Range};

use super::frozen::{Frozen, Watch};
use super::inject::Injection;
use super::library::number_place;
use super::numbers::Parentage;
use super::registers::general;
use super::space::Space;
use super::{PrepareError, Unforked, status, timers};
use crate::descriptor::{Clocks, Rseq, Scheduling, SignalStack, Thread};

/// How often the threads of a target are listed anew while it makes more of them.
const LISTINGS_MAX: u32 = 64;
const RESTLESS: &str = "it makes threads faster than they can be stopped";
/// How long threads may take to stop, and for how long it is waited for one of them before the others.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
const STOP_TURN: Duration = Duration::from_millis(5);
/// How long one may take that is let go and has not stopped.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(100);
/// What one thread answers: `stack_t`, or an address.
const ANSWER_BYTES: usize = 32;
/// So many threads are asked at once.
const THREADS_ASKED: usize = PAGE_BYTES as usize / ANSWER_BYTES;
/// Only Linux's own headers name it.
const PR_GET_TID_ADDRESS: u64 = 40;
/// The code segment of 64-bit code.
pub(super) const USER_CS: u64 = 0x33;

/// What came of the stop.
pub(super) struct Copied {
    /// The process's threads as they were, the first one first.
    pub(super) threads: Vec<Thread>,
    /// Signals that wait for any of them.
    pub(super) queued_signals: Vec<Vec<u8>>,
    /// What our clocks showed.
    pub(super) clocks: Clocks,
    pub(super) timers: timers::Asked,
    pub(super) frozen: Frozen,
    /// Whether the copy's filters count.
    pub(super) filters: Filters,
    pub(super) pause: Duration,
}

/// Threads that are traced until this is dropped.
#[derive(Default)]
pub(super) struct Held(pub(super) Vec<Tracee>);

/// What a stopped thread holds.
struct Stopped {
    registers: Registers,
    state: Thread,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Only a thread that has stopped can be let go. One that cannot be stopped is let go when this thread ends. The
        // first one comes last: its number may be another's by now that has executed a program, and has not stopped.
        while let Some(tracee) = self.0.pop() {
            if tracee.detach().is_err() && tracee.interrupt().is_ok() {
                let _ = tracee.wait_until_asked_or(Instant::now() + LEAVE_TIMEOUT);
                let _ = tracee.detach();
            }
        }
    }
}

/// Stops all threads, reads what they hold, lets the first one fork, and lets all run on. The copy has not stopped for
/// us yet. A thread that is at `program` is not the process's own yet.
pub(super) fn stop_and_copy(
    pid: i32,
    space: &Space,
    program: Range,
    watch: Option<Watch>,
    unforked: Unforked,
) -> Result<(Tracee, Copied), PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let parentage = Parentage::of(pid).map_err(failed)?;
    let mut held = Held::default();
    attach_all(pid, space, &mut held)?;
    let start = Instant::now();
    let mut stopped = stop_all(pid, space, &mut held, start + STOP_TIMEOUT)?;
    // One that executes a program has ended all others, and is the first one by now: it leaves the address space soon.
    held.0[0].registers()?;
    space.expect(pid)?;
    let (memory, instruction) = (&space.memory, space.instruction);
    if stopped.iter().any(|thread| thread.registers.cs != USER_CS) {
        return Err(PrepareError::unfit(pid, "one of its threads runs 32-bit code"));
    }
    if stopped.iter().any(|thread| program.contains(thread.registers.rip)) {
        return Err(PrepareError::TooEarly(pid));
    }
    let filters = suspend_filters(pid, &held.0)?;
    ask_threads(memory, instruction, &held.0, &mut stopped)?;
    let watch = match watch {
        Some(watch) => watch,
        None => Watch::begin(pid, &status::read(pid, "smaps").map_err(failed)?, unforked).map_err(failed)?,
    };
    let mut frozen = watch.freeze(pid)?;
    let queued = held.0[0].queued_signals(Queue::Process)?;
    let registers = stopped[0].registers;
    let first = Injection::begin(&held.0[0], registers, instruction)?;
    let room = registers.rsp & !(PAGE_BYTES - 1);
    let timers = timers::ask(&first, memory, room, std::mem::take(&mut frozen.timers))?;
    let advised = advise(&first, libc::MADV_DOFORK, &watch.left_out);
    let clocks = Clocks::now();
    let copied = advised.and_then(|left_out| Ok((copy(pid, &parentage, &first)?, left_out)));
    // Its own forks go on without.
    advise(&first, libc::MADV_DONTFORK, &watch.left_out)?;
    first.end()?;
    let (seed, left_out) = copied?;
    drop(held);
    let pause = start.elapsed();
    // It goes on where it was, and this thread is there, too.
    thread::yield_now();
    frozen.refused = watch.left_out.into_iter().filter(|range| !left_out.contains(range)).collect();
    frozen.left_out = left_out;
    let seed = Tracee::inherited(parentage.copy(seed).map_err(failed)?);
    let queued_signals = queued.iter().map(|information| information.to_vec()).collect();
    let threads = stopped.into_iter().map(|thread| thread.state).collect();
    Ok((seed, Copied { threads, queued_signals, clocks, timers, frozen, filters, pause }))
}

/// Lets the stopped threads make calls that their filters would kill them for. They may have set one just now, so this
/// is done wherever it may be.
fn suspend_filters(pid: i32, held: &[Tracee]) -> Result<Filters, PrepareError> {
    for tracee in held {
        if let Err(source) = tracee.set_filters(Filters::Suspended) {
            let is_confined = |tracee: &Tracee| status::of_thread(pid, tracee.tid()).map(|own| own.seccomp != 0);
            for tracee in held {
                if is_confined(tracee).map_err(|source| PrepareError::Proc { pid, source })? {
                    return Err(PrepareError::Confined { pid, source });
                }
            }
            return Ok(Filters::Count);
        }
    }
    Ok(Filters::Suspended)
}

/// Attaches to every thread without stopping any.
fn attach_all(pid: i32, space: &Space, Held(attached): &mut Held) -> Result<(), PrepareError> {
    for _ in 0..LISTINGS_MAX {
        let before = attached.len();
        for tid in tids(pid)? {
            if attached.iter().any(|tracee| tracee.tid() == tid) {
                continue;
            }
            match Tracee::seize(tid) {
                Ok(tracee) => attached.push(tracee),
                // A thread that has ended since it was listed.
                Err(_) if tid != pid && has_ended(pid, tid) => {}
                Err(error) if error.is_gone() => return Err(PrepareError::NoProcess(pid)),
                Err(source) => {
                    // The number may just be taken by another thread, which executes a program.
                    space.expect(pid)?;
                    return Err(PrepareError::not_seized(pid, tid, source));
                }
            }
        }
        if attached.len() == before {
            return Ok(());
        }
    }
    Err(PrepareError::unfit(pid, RESTLESS))
}

fn has_ended(pid: i32, tid: i32) -> bool {
    status::of_thread(pid, tid).map_or(true, |status| status.has_ended)
}

fn tids(pid: i32) -> Result<Vec<i32>, PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)?;
    let tid = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    entries.filter_map(|entry| tid(entry).transpose()).collect::<io::Result<_>>().map_err(failed)
}

/// How many threads there are, without a list of them.
fn count(pid: i32) -> Result<usize, PrepareError> {
    /// What every folder has.
    const LINKS: usize = 2;
    let folder = fs::metadata(format!("/proc/{pid}/task")).map_err(|source| PrepareError::Proc { pid, source })?;
    Ok((folder.nlink() as usize).saturating_sub(LINKS))
}

/// Stops all threads and reads what they hold. The first one comes first; those that have ended are let go.
fn stop_all(pid: i32, space: &Space, held: &mut Held, deadline: Instant) -> Result<Vec<Stopped>, PrepareError> {
    let mut stopped = Vec::with_capacity(held.0.len());
    loop {
        stop_further(pid, space, held, &mut stopped, deadline)?;
        // One that had not stopped yet may have made another since they were listed.
        if count(pid)? <= stopped.len() {
            break;
        }
        if Instant::now() >= deadline {
            return Err(PrepareError::unfit(pid, RESTLESS));
        }
        attach_all(pid, space, held)?;
    }
    let first = held.0.iter().position(|tracee| tracee.tid() == pid);
    let first = first.ok_or_else(|| PrepareError::unfit(pid, "its first thread has ended"))?;
    held.0.swap(0, first);
    stopped.swap(0, first);
    Ok(stopped)
}

/// Stops those threads that are not stopped yet, and reads what they hold.
fn stop_further(
    pid: i32,
    space: &Space,
    Held(held): &mut Held,
    stopped: &mut Vec<Stopped>,
    deadline: Instant,
) -> Result<(), PrepareError> {
    for tracee in &held[stopped.len()..] {
        match tracee.interrupt() {
            Err(error) if !error.is_gone() => return Err(error.into()),
            _ => {}
        }
    }
    while let Some(tracee) = held.get(stopped.len()) {
        match Stopped::wait_for(tracee, deadline.min(Instant::now() + STOP_TURN)) {
            Ok(state) => stopped.push(state),
            // By execve(2) another thread takes the number of the first one.
            Err(error) if error.is_gone() && tracee.tid() == pid => return Err(PrepareError::Executing(pid)),
            Err(error) if error.is_gone() => {
                // What traced it takes it away.
                let ended = held.swap_remove(stopped.len());
                let _ = ended.wait_until_asked_or(Instant::now() + STOP_TURN);
            }
            Err(error) if error.source.raw_os_error() == Some(libc::ETIMEDOUT) => {
                space.expect(pid)?;
                if Instant::now() >= deadline {
                    return Err(PrepareError::Unstoppable { tid: tracee.tid() });
                }
                // It may wait for another one to end, which that does only when it is waited for.
                held[stopped.len()..].rotate_left(1);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

impl Stopped {
    fn wait_for(tracee: &Tracee, deadline: Instant) -> Result<Self, CallError> {
        tracee.wait_until_asked_or(deadline)?;
        let registers = tracee.registers()?;
        let rseq = tracee.rseq()?;
        let queued = tracee.queued_signals(Queue::Thread)?;
        let state = Thread {
            tid: tracee.tid(),
            name: Vec::new(),
            registers: general(&registers),
            extended_state: tracee.extended_state()?,
            blocked_signals: tracee.blocked_signals()?,
            queued_signals: queued.iter().map(|information| information.to_vec()).collect(),
            signal_stack: SignalStack::default(),
            robust_list: ramet_sys::thread::robust_list(tracee.tid()).unwrap_or_default(),
            tid_address: 0,
            tid_is_there: false,
            rseq: Rseq { address: rseq.address, bytes: rseq.bytes, signature: rseq.signature },
            scheduling: Scheduling::default(),
            cores: Vec::new(),
        };
        Ok(Self { registers, state })
    }
}

/// From the words of a `stack_t`.
pub(super) const fn signal_stack([start, flags, bytes]: [u64; 3]) -> SignalStack {
    // `SS_ONSTACK` is found out anew by who looks at the stack pointer.
    SignalStack { start, flags: flags as u32 & !(libc::SS_ONSTACK as u32), bytes }
}

/// Asks the threads for what only they themselves are told. The copy is told what the first one is, but for what a fork
/// does not take along.
fn ask_threads(
    memory: &ProcessMemory,
    instruction: u64,
    held: &[Tracee],
    stopped: &mut [Stopped],
) -> Result<(), PrepareError> {
    let rsp = stopped[0].registers.rsp;
    let is_glibc = number_place(memory, &stopped[0].state.registers).is_some();
    let known = usize::from(is_glibc);
    let (held, stopped) = (&held[known..], &mut stopped[known..]);
    if held.is_empty() {
        return Ok(());
    }
    // Their answers go to a page that there certainly is. Nobody can see it before it is as it was.
    let page = rsp & !(PAGE_BYTES - 1);
    let mut before = [0; PAGE_BYTES as usize];
    memory.read(page, &mut before)?;
    let mut asked = Ok(());
    for (held, stopped) in held.chunks(THREADS_ASKED).zip(stopped.chunks_mut(THREADS_ASKED)) {
        asked = asked.and_then(|()| ask_some(memory, instruction, page, held, stopped, is_glibc));
    }
    memory.write(page, &before)?;
    asked
}

fn ask_some(
    memory: &ProcessMemory,
    instruction: u64,
    page: u64,
    held: &[Tracee],
    stopped: &mut [Stopped],
    is_glibc: bool,
) -> Result<(), PrepareError> {
    let mut injections = Vec::with_capacity(held.len());
    for (tracee, stopped) in held.iter().zip(&*stopped) {
        injections.push(Injection::begin(tracee, stopped.registers, instruction)?);
    }
    let mut ask = |number, arguments: &dyn Fn(u64) -> [u64; 6], each: &mut dyn FnMut(&mut Stopped, i64, [u64; 4])| {
        // All of them at once: most of the time goes into waking them.
        for (injection, slot) in injections.iter().zip(0..) {
            injection.begin_call(number, arguments(page + slot * ANSWER_BYTES as u64))?;
        }
        let results: Vec<i64> = injections.iter().map(Injection::end_call).collect::<Result<_, _>>()?;
        let mut answers = vec![0; injections.len() * ANSWER_BYTES];
        memory.read(page, &mut answers)?;
        for ((stopped, result), answer) in stopped.iter_mut().zip(results).zip(answers.chunks_exact(ANSWER_BYTES)) {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(answer.as_chunks().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            each(stopped, result, words);
        }
        Ok::<(), PrepareError>(())
    };
    let to = |room| [0, room, 0, 0, 0, 0];
    let mut asked = ask(SYS_sigaltstack, &to, &mut |thread, result, [start, flags, bytes, _]| {
        let known = if result == 0 { [start, flags, bytes] } else { [0, libc::SS_DISABLE as u64, 0] };
        thread.state.signal_stack = signal_stack(known);
    });
    if asked.is_ok() && !is_glibc {
        let to = |room| [PR_GET_TID_ADDRESS, room, 0, 0, 0, 0];
        asked = ask(SYS_prctl, &to, &mut |thread, result, [address, ..]| {
            thread.state.tid_address = if result == 0 { address } else { 0 };
        });
    }
    for injection in injections {
        injection.end()?;
    }
    asked
}

/// The thread says of ranges of its memory whether forks have them. Gives those of which that can be said: of memory of
/// a device it cannot.
fn advise(thread: &Injection<'_>, advice: libc::c_int, ranges: &[Range]) -> Result<Vec<Range>, PrepareError> {
    let mut advised = Vec::with_capacity(ranges.len());
    for &range in ranges {
        if thread.call(SYS_madvise, [range.start, range.bytes, advice as u64, 0, 0, 0])? == 0 {
            advised.push(range);
        }
    }
    Ok(advised)
}

/// The thread forks. Gives the number that its process knows the copy by.
fn copy(pid: i32, parentage: &Parentage, thread: &Injection<'_>) -> Result<i32, PrepareError> {
    // Traced from the beginning. Should nobody trace it any more, it has no stack to go on with, and blocks the signal
    // that it gets for that.
    let flags = parentage.flags() | libc::CLONE_PTRACE;
    match thread.call_without_stack(SYS_clone, [flags as u64, 0, 0, 0, 0, 0])? {
        error @ ..0 => {
            let source = io::Error::from_raw_os_error(-error as i32);
            Err(PrepareError::Injected { pid, call: "clone", source })
        }
        seed => Ok(seed as i32),
    }
}
