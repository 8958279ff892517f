//! Prepare: a running process is forked from outside, and the copy, which never runs, is described.
//!
//! The target is stopped for as long as its own `fork` would take and the reading of its registers: one `clone` is
//! injected into its first thread. Everything else is read from the copy, the *seed*.

mod areas;
mod files;
mod inject;
mod maps;
mod status;
mod vdso;
mod visit;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use libc::{SYS_brk, SYS_clone, SYS_close_range, SYS_rt_sigaction, SYS_sigaltstack};
use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::ptrace::{KernelSigaction, Registers, Stop, Tracee};
use ramet_sys::{CallError, ProcessMemory};

use self::inject::Injection;
use self::status::Status;
use crate::descriptor::{
    Area, AreaKind, Credentials, ForkDescriptor, GeneralRegisters, Layout, Rseq, SignalAction, SignalStack, Thread,
};
use crate::machine::Machine;

pub(crate) use self::files::identity;
pub(crate) use self::vdso::call_and_return_offset;
pub(crate) use self::visit::Visit;

/// How often the threads of a target are listed anew while it makes more of them.
const LISTINGS_MAX: u32 = 64;
/// What of a thread's stack may hold live data below its stack pointer (the System V ABI for x86-64).
const RED_ZONE_BYTES: u64 = 128;

/// A copy of a process that never runs. Its memory is what the process had when it was prepared.
///
/// It belongs to the thread that made it, as traced processes do. It is killed when it is dropped and when that
/// thread ends.
#[derive(Debug)]
pub struct Seed {
    tracee: Tracee,
    memory: ProcessMemory,
    /// Where there is an instruction `syscall`.
    instruction: u64,
}

/// A seed, what it is, and what it took.
#[derive(Debug)]
pub struct Prepared {
    /// The frozen copy.
    pub seed: Seed,
    /// What it is.
    pub descriptor: ForkDescriptor,
    /// For how long the process was stopped.
    pub pause: Duration,
}

/// Why a process was not prepared. It runs on as before.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// There is no such process.
    #[error("there is no process {0}")]
    NoProcess(i32),
    /// It may not be looked into.
    #[error(
        "may not trace process {pid}: {source}; run this as root or as the process's user, with no debugger attached"
    )]
    NotAllowed {
        /// Which process.
        pid: i32,
        /// What was refused.
        source: CallError,
    },
    /// It cannot be copied, by what it is.
    #[error("process {pid} cannot be forked: {reason}")]
    Unfit {
        /// Which process.
        pid: i32,
        /// Why.
        reason: &'static str,
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
    #[error("thread {tid} stopped for another reason than asked ({stop:?}); try again")]
    Unexpected {
        /// Which thread.
        tid: i32,
        /// For what.
        stop: Stop,
    },
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

/// A stopped thread and what it held.
struct Stopped {
    tracee: Tracee,
    registers: Registers,
    state: Thread,
}

/// Forks a process from outside.
///
/// # Errors
/// Why not; the process then runs on as before.
pub fn prepare(pid: i32) -> Result<Prepared, PrepareError> {
    let unfit = |reason| PrepareError::Unfit { pid, reason };
    let auxiliary = status::read(pid, "auxv").map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => PrepareError::NoProcess(pid),
        io::ErrorKind::PermissionDenied => {
            PrepareError::NotAllowed { pid, source: CallError { call: "open(/proc/PID/auxv)", source } }
        }
        _ => PrepareError::Proc { pid, source },
    })?;
    let auxiliary: Vec<u64> = auxiliary.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    let vdso_start = vdso::address(&auxiliary).ok_or(unfit("it has no vdso: it is no ordinary 64-bit process"))?;
    let mut vdso_page = vec![0; PAGE_BYTES as usize];
    ProcessMemory::open(pid)?.read(vdso_start, &mut vdso_page)?;
    let offset = vdso::syscall_offset(&vdso_page).ok_or(unfit("its vdso makes no system call"))?;

    let attached = attach_all(pid)?;
    let start = Instant::now();
    let (seed_pid, mut threads) = stop_and_copy(pid, attached, vdso_start + offset)?;
    let pause = start.elapsed();

    for thread in &mut threads {
        // One that has ended since then keeps the number by which we know it.
        thread.tid = status::own_number(pid, thread.tid).unwrap_or(thread.tid);
    }
    let tracee = Tracee::inherited(seed_pid);
    tracee.wait_until_asked()?;
    tracee.end_with_tracer()?;
    let seed = Seed { memory: ProcessMemory::open(seed_pid)?, tracee, instruction: vdso_start + offset };
    let descriptor = seed.describe(threads)?;
    Ok(Prepared { seed, descriptor, pause })
}

/// Attaches to every thread without stopping any.
fn attach_all(pid: i32) -> Result<Vec<Tracee>, PrepareError> {
    let mut attached: Vec<Tracee> = Vec::new();
    for _ in 0..LISTINGS_MAX {
        let before = attached.len();
        for tid in tids(pid)? {
            if attached.iter().any(|tracee| tracee.tid() == tid) {
                continue;
            }
            match Tracee::seize(tid) {
                Ok(tracee) => attached.push(tracee),
                // A thread that has ended since it was listed.
                Err(error) if error.is_gone() && tid != pid => {}
                Err(error) if error.is_gone() => return Err(PrepareError::NoProcess(pid)),
                Err(source) => return Err(PrepareError::NotAllowed { pid, source }),
            }
        }
        if attached.len() == before {
            return Ok(attached);
        }
    }
    Err(PrepareError::Unfit { pid, reason: "it makes threads faster than they can be stopped" })
}

fn tids(pid: i32) -> Result<Vec<i32>, PrepareError> {
    let failed = |source| PrepareError::Proc { pid, source };
    let entries = fs::read_dir(format!("/proc/{pid}/task")).map_err(failed)?;
    let tid = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_str().and_then(|name| name.parse().ok()));
    entries.filter_map(|entry| tid(entry).transpose()).collect::<io::Result<_>>().map_err(failed)
}

/// Stops all threads, reads what they hold, lets the first one fork, and lets all run on.
fn stop_and_copy(pid: i32, attached: Vec<Tracee>, instruction: u64) -> Result<(i32, Vec<Thread>), PrepareError> {
    for tracee in &attached {
        tracee.interrupt()?;
    }
    let mut stopped = Vec::with_capacity(attached.len());
    for tracee in attached {
        match tracee.wait_until_asked() {
            Ok(()) => stopped.push(Stopped::read(tracee)?),
            Err(error) if error.is_gone() && tracee.tid() != pid => {}
            Err(error) => return Err(error.into()),
        }
    }
    let copied = match stopped.iter().position(|thread| thread.tracee.tid() == pid) {
        Some(first) => {
            stopped.swap(0, first);
            copy(pid, &stopped, instruction)
        }
        None => Err(PrepareError::Unfit { pid, reason: "its first thread has ended" }),
    };
    let mut threads = Vec::with_capacity(stopped.len());
    for Stopped { tracee, state, .. } in stopped {
        // One that was killed meanwhile is gone, which is no error of ours.
        let _ = tracee.detach();
        threads.push(state);
    }
    Ok((copied?, threads))
}

/// The first of the stopped threads forks.
fn copy(pid: i32, stopped: &[Stopped], instruction: u64) -> Result<i32, PrepareError> {
    let Stopped { tracee, registers, .. } = &stopped[0];
    let injection = Injection::begin(tracee, *registers, instruction)?;
    // A sibling, so that the process is told nothing of a child that it does not know; traced from the beginning.
    let flags = libc::CLONE_PARENT | libc::CLONE_PTRACE | libc::SIGCHLD;
    let made = injection.call(SYS_clone, [flags as u64, 0, 0, 0, 0, 0]);
    injection.end()?;
    match made? {
        error @ ..0 => {
            let source = io::Error::from_raw_os_error(-error as i32);
            Err(PrepareError::Injected { pid, call: "clone", source })
        }
        seed => Ok(seed as i32),
    }
}

impl Stopped {
    fn read(tracee: Tracee) -> Result<Self, CallError> {
        let registers = tracee.registers()?;
        let rseq = tracee.rseq()?;
        let state = Thread {
            tid: tracee.tid(),
            registers: general(&registers),
            extended_state: tracee.extended_state()?,
            blocked_signals: tracee.blocked_signals()?,
            signal_stack: SignalStack { flags: libc::SS_DISABLE as u32, ..SignalStack::default() },
            robust_list: robust_list(tracee.tid()),
            tid_address: 0,
            rseq: Rseq { address: rseq.address, bytes: rseq.bytes, signature: rseq.signature },
        };
        Ok(Self { tracee, registers, state })
    }
}

/// The general registers, with an interrupted system call made so that it happens again or says so.
fn general(registers: &Registers) -> GeneralRegisters {
    /// What the kernel leaves in `rax` for itself when a call is interrupted (linux/errno.h).
    const RESTART: std::ops::RangeInclusive<i64> = -514..=-512;
    const RESTART_BY_BLOCK: i64 = -516;
    /// `syscall` is two bytes long.
    const SYSCALL_BYTES: u64 = 2;
    let mut rax = registers.rax;
    let mut rip = registers.rip;
    if registers.orig_rax.cast_signed() >= 0 {
        match rax.cast_signed() {
            result if RESTART.contains(&result) => (rax, rip) = (registers.orig_rax, rip - SYSCALL_BYTES),
            // How much of its time has passed only the kernel knows.
            RESTART_BY_BLOCK => rax = i64::from(-libc::EINTR).cast_unsigned(),
            _ => {}
        }
    }
    GeneralRegisters {
        rax,
        rbx: registers.rbx,
        rcx: registers.rcx,
        rdx: registers.rdx,
        rsi: registers.rsi,
        rdi: registers.rdi,
        rbp: registers.rbp,
        rsp: registers.rsp,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        r11: registers.r11,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rip,
        flags: registers.eflags,
        fs_base: registers.fs_base,
        gs_base: registers.gs_base,
    }
}

/// Where a thread's list of robust mutexes begins. None: (0, 0).
fn robust_list(tid: i32) -> (u64, u64) {
    ramet_sys::thread::robust_list(tid).unwrap_or_default()
}

impl Seed {
    /// Its process number, here.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.tracee.tid()
    }

    /// Its memory.
    #[must_use]
    pub const fn memory(&self) -> &ProcessMemory {
        &self.memory
    }

    fn describe(&self, threads: Vec<Thread>) -> Result<ForkDescriptor, PrepareError> {
        let pid = self.pid();
        let failed = |source| PrepareError::Proc { pid, source };
        let read = |file| status::read(pid, file).map_err(failed);
        let senseless = || failed(io::Error::from(io::ErrorKind::InvalidData));
        let status = Status::parse(&read("status")?).ok_or_else(senseless)?;
        let mut layout = status::layout(&read("stat")?, &read("auxv")?).ok_or_else(senseless)?;
        let lines = maps::parse(&read("maps")?).ok_or_else(senseless)?;
        let files = files::open_files(pid).map_err(failed)?;
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).map_err(failed)?;

        let mut threads = threads;
        let signals = self.ask(&status, &mut layout, &mut threads)?;
        let (areas, mapped_files) = self.areas(&lines)?;
        let vdso = areas.iter().find(|area| area.kind == AreaKind::Vdso).map(Area::range);
        let mut vdso_code = vec![0; vdso.map_or(0, |range| range.bytes as usize)];
        self.memory.read(vdso.map_or(0, |range| range.start), &mut vdso_code)?;
        let vvar_bytes = areas.iter().filter(|area| area.kind == AreaKind::Vvar).map(|area| area.bytes).sum();
        self.find_tid_addresses(&mut threads);
        Ok(ForkDescriptor {
            machine: Machine::this(&vdso_code, vvar_bytes),
            layout,
            name: status.name,
            directory: directory.into_os_string().into_vec(),
            umask: status.umask,
            credentials: status.credentials,
            mapped_files,
            signal_return: self.find_signal_return(&signals, &areas),
            areas,
            signals,
            threads,
            files,
        })
    }

    /// What only the process itself can find out.
    fn ask(
        &self,
        status: &Status,
        layout: &mut Layout,
        threads: &mut [Thread],
    ) -> Result<Vec<SignalAction>, PrepareError> {
        const ANSWER_BYTES: usize = 64;
        let registers = self.tracee.registers()?;
        let injection = Injection::begin(&self.tracee, registers, self.instruction)?;
        // Answers are written where nothing lives, and what was there comes back: the seed stays what it was.
        let room = (registers.rsp - RED_ZONE_BYTES - ANSWER_BYTES as u64) & !0xf;
        let mut before = [0; ANSWER_BYTES];
        self.memory.read(room, &mut before)?;
        let called = |call: &'static str, number, arguments: [u64; 6]| match injection.call(number, arguments)? {
            error @ -4095..0 => {
                let source = io::Error::from_raw_os_error(-error as i32);
                Err(PrepareError::Injected { pid: self.pid(), call, source })
            }
            result => Ok(result.cast_unsigned()),
        };
        called("close_range", SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0])?;
        layout.brk = called("brk", SYS_brk, [0; 6])?;

        called("sigaltstack", SYS_sigaltstack, [0, room, 0, 0, 0, 0])?;
        let mut answer = [0; ANSWER_BYTES];
        self.memory.read(room, &mut answer)?;
        let word = |at: usize| answer[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        // `SS_ONSTACK` is found out anew by who looks at the stack pointer.
        let flags = word(8) as u32 & !(libc::SS_ONSTACK as u32);
        threads[0].signal_stack = SignalStack { start: word(0), flags, bytes: word(16) };

        let mut signals = Vec::new();
        for signal in 1..=64_u8 {
            let bit = 1_u64 << (signal - 1);
            if status.ignored & bit != 0 {
                let handler = libc::SIG_IGN as u64;
                signals.push(SignalAction { signal, handler, flags: 0, restorer: 0, mask: 0 });
            } else if status.caught & bit != 0 {
                called("rt_sigaction", SYS_rt_sigaction, [u64::from(signal), 0, room, 8, 0, 0])?;
                let mut answer = [0; size_of::<KernelSigaction>()];
                self.memory.read(room, &mut answer)?;
                let word = |at: usize| answer[at * 8..at * 8 + 8].try_into().map_or(0, u64::from_ne_bytes);
                signals.push(SignalAction {
                    signal,
                    handler: word(0),
                    flags: word(1),
                    restorer: word(2),
                    mask: word(3),
                });
            }
        }
        self.memory.write(room, &before)?;
        injection.end()?;
        Ok(signals)
    }

    /// Where the process itself would end the handling of a signal.
    fn find_signal_return(&self, signals: &[SignalAction], areas: &[Area]) -> u64 {
        /// `mov rax, 15` and `syscall`, as glibc and musl write it.
        const SIGNAL_RETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
        /// No C library's code is longer.
        const CODE_BYTES_MAX: u64 = 4 << 20;
        let is_one = |at: u64| {
            let mut bytes = [0; SIGNAL_RETURN.len()];
            self.memory.read(at, &mut bytes).is_ok() && bytes == SIGNAL_RETURN
        };
        if let Some(action) = signals.iter().find(|action| is_one(action.restorer)) {
            return action.restorer;
        }
        let is_code = |area: &&Area| {
            let protection = (libc::PROT_READ | libc::PROT_EXEC).cast_unsigned();
            area.protection == protection && matches!(area.kind, AreaKind::File { .. }) && area.bytes <= CODE_BYTES_MAX
        };
        for area in areas.iter().filter(is_code) {
            let mut code = vec![0; area.bytes as usize];
            if self.memory.read(area.start, &mut code).is_ok()
                && let Some(at) = code.windows(SIGNAL_RETURN.len()).position(|bytes| bytes == SIGNAL_RETURN)
            {
                return area.start + at as u64;
            }
        }
        0
    }

    /// Where each thread's number is cleared when it ends. glibc keeps the number itself there, at one place in its
    /// thread structure, where the registers say that it is.
    fn find_tid_addresses(&self, threads: &mut [Thread]) {
        /// Of glibc's `struct pthread` on x86-64, since 2.4.
        const SELF_OFFSET: u64 = 0x10;
        const TID_OFFSET: u64 = 0x2d0;
        for thread in threads {
            let base = thread.registers.fs_base;
            let (mut this, mut tid) = ([0; 8], [0; 4]);
            let is_read = base != 0
                && self.memory.read(base.wrapping_add(SELF_OFFSET), &mut this).is_ok()
                && self.memory.read(base.wrapping_add(TID_OFFSET), &mut tid).is_ok();
            if is_read && u64::from_ne_bytes(this) == base && i32::from_ne_bytes(tid) == thread.tid {
                thread.tid_address = base + TID_OFFSET;
            }
        }
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        ramet_sys::thread::kill(self.pid());
        // What traces a process learns of its end, and takes it away if it is its parent besides.
        while matches!(self.tracee.wait(), Ok(stop) if stop != Stop::Ended) {
            let _ = self.tracee.resume();
        }
    }
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
