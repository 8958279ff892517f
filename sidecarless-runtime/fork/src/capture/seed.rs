//! The copy of a process that never runs, and what it says of itself.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;

use libc::{SYS_arch_prctl, SYS_brk, SYS_close_range, SYS_prctl, SYS_rt_sigaction};
use ramet_sys::ptrace::{Filters, KernelSigaction, Stop, Tracee};
use ramet_sys::{CallError, ProcessMemory, Range};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::areas::Mapped;
use super::inherit::{Inheritance, Lacking};
use super::inject::Injection;
use super::status::{self, Status};
use super::stop::{Copied, signal_stack};
use super::{PrepareError, Unforked, files, identity, maps, namespaces, reap};
use crate::carried;
use crate::descriptor::{
    Area, AreaKind, Clocks, Filter, ForkDescriptor, MappedFile, Marks, Scheduling, SignalAction, SignalStack, Thread,
    Traits,
};
use crate::lineage::SeedAt;
use crate::machine::{self, Machine};

/// What of a thread's stack may hold live data below its stack pointer (the System V ABI for x86-64).
const RED_ZONE_BYTES: u64 = 128;

/// What of the extended state a process may use that not every process has room for (arch_prctl(2)).
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;

/// Why a process is not forked while it multiplies matrices.
const TILES_IN_USE: &str = "one of its threads has numbers in the processor's tiles (AMX), for which a new thread has \
                            no room; try again";

/// A copy of a process that never runs. Its memory is what the process had when it was prepared.
///
/// It belongs to the thread that made it, as traced processes do. It is killed when it is dropped and when that
/// thread ends.
#[derive(Debug)]
pub struct Seed {
    pub(super) tracee: Tracee,
    /// Of what it is a copy.
    original: i32,
    memory: ProcessMemory,
    /// Where there is an instruction `syscall`.
    pub(super) instruction: u64,
}

/// What the kernel tells a process alone.
struct Answers {
    brk: u64,
    secure_bits: u32,
    traits: Traits,
    signals: Vec<SignalAction>,
    /// The first thread's.
    signal_stack: SignalStack,
}

impl Seed {
    /// Takes the copy of a process that was just made.
    pub(super) fn take(
        tracee: Tracee,
        original: i32,
        instruction: u64,
        filters: Filters,
    ) -> Result<Self, PrepareError> {
        // It is killed if this fails.
        let copy = Unnamed(&tracee, original);
        tracee.wait_until_asked()?;
        tracee.end_with_tracer(filters)?;
        let memory = ProcessMemory::open(tracee.tid())?;
        std::mem::forget(copy);
        Ok(Self { tracee, original, memory, instruction })
    }

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

    /// Describes it, with what its process's threads were when it was made.
    pub(super) fn describe(
        &self,
        parent: i32,
        copied: Copied,
        lacking: Option<Lacking>,
        unforked: Unforked,
    ) -> Result<(ForkDescriptor, Vec<SeedAt>), PrepareError> {
        let pid = self.pid();
        let failed = |source| PrepareError::Proc { pid, source };
        let read = |file| status::read(pid, file).map_err(failed);
        let senseless = || failed(io::Error::from(io::ErrorKind::InvalidData));
        let status = Status::parse(&read("status")?).ok_or_else(senseless)?;
        let mut layout = status::layout(&read("stat")?, &read("auxv")?).ok_or_else(senseless)?;
        let lines = maps::parse(&read("maps")?).ok_or_else(senseless)?;
        let (left, lines): (Vec<_>, Vec<_>) = lines.into_iter().partition(maps::Line::is_of_a_fork);
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).map_err(failed)?.into_os_string().into_vec();
        if directory.ends_with(b" (deleted)") {
            let reason = format!("its working directory was removed: {}", String::from_utf8_lossy(&directory));
            return Err(PrepareError::unfit(parent, reason));
        }
        let namespaces = namespaces::of(pid)?;
        namespaces::are_its_copys(parent)?;

        let Copied { mut threads, queued_signals, clocks, timers, frozen, .. } = copied;
        if threads.iter().any(|thread| left.iter().any(|line| line.range.contains(thread.registers.rsp))) {
            return Err(PrepareError::TooEarly(parent));
        }
        if threads.iter_mut().any(|thread| machine::trim(&mut thread.extended_state).is_err()) {
            return Err(PrepareError::unfit(parent, TILES_IN_USE));
        }
        let clock_offsets = Clocks::offsets(&pid.to_string()).map_err(failed)?;
        let clocks = clocks.minus(Clocks::offsets("self").map_err(failed)?).plus(clock_offsets);
        let files = files::open_files(pid, &frozen)?;
        if !frozen.is_all_in(pid).map_err(failed)? {
            return Err(PrepareError::Changed(pid));
        }
        let ours: Vec<i32> = threads.iter().map(|thread| thread.tid).collect();
        self.complete(parent, &status, &mut threads)?;
        let timers = timers.describe(parent, &ours, &threads)?;
        let answers = self.ask(threads[0].registers.rsp, &status)?;
        layout.brk = answers.brk;
        threads[0].signal_stack = answers.signal_stack;
        let filters = if status.seccomp == 0 { Vec::new() } else { self.filters()? };
        let Mapped { mut areas, files: mut mapped_files, guards } = self.areas(&lines, &frozen)?;
        let pairs = |ranges: &[Range]| ranges.iter().map(|range| (range.start, range.bytes)).collect();
        let (left_out, guards) = (pairs(&frozen.left_out), pairs(&guards));
        let shared = self.keep(frozen, &mut areas)?;
        let inherit = |lacking| self.inherit(&mut areas, &mut mapped_files, &lacking);
        let Inheritance { inherited, lineage } = lacking.map_or_else(|| Ok(Inheritance::default()), inherit)?;
        let vdso = areas.iter().find(|area| area.kind == AreaKind::Vdso).map(Area::range);
        let mut vdso_code = vec![0; vdso.map_or(0, |range| range.bytes as usize)];
        self.memory.read(vdso.map_or(0, |range| range.start), &mut vdso_code)?;
        let vvar_bytes = areas.iter().filter(|area| area.kind == AreaKind::Vvar).map(|area| area.bytes).sum();
        self.find_tid_addresses(&mut threads);
        let mut credentials = status.credentials;
        credentials.secure_bits = answers.secure_bits;
        let descriptor = ForkDescriptor {
            machine: Machine::this(&vdso_code, vvar_bytes),
            layout,
            name: status.name,
            directory,
            umask: status.umask,
            credentials,
            filters,
            limits: status::limits(&read("limits")?).ok_or_else(senseless)?.to_vec(),
            namespaces,
            traits: answers.traits,
            marks: Marks::of(pid),
            executable: executable(pid, &mapped_files),
            mapped_files,
            signal_return: self.find_signal_return(&answers.signals, &areas),
            areas,
            inherited,
            ancestors: Vec::new(),
            signals: answers.signals,
            threads,
            queued_signals,
            clocks,
            clock_offsets,
            timers,
            files,
            shared,
            left_out,
            guards,
            awaits_identity: unforked == Unforked::LeftOut,
        };
        carried::check(&descriptor)?;
        Ok((descriptor, lineage))
    }

    /// What the kernel tells of a thread to others, who have the time to ask when it runs on.
    fn complete(&self, parent: i32, status: &Status, threads: &mut [Thread]) -> Result<(), PrepareError> {
        for thread in threads {
            // One that has ended since then keeps the number by which we know it.
            let Ok(own) = status::of_thread(parent, thread.tid) else { continue };
            let is_same =
                own.credentials == status.credentials && (own.seccomp, own.filters) == (status.seccomp, status.filters);
            if !is_same {
                return Err(PrepareError::unfit(parent, "its threads differ in who they are or how they are confined"));
            }
            let scheduling = ramet_sys::thread::scheduling(thread.tid).unwrap_or_default();
            thread.scheduling = Scheduling {
                policy: scheduling.policy,
                flags: scheduling.flags,
                nice: scheduling.nice,
                priority: scheduling.priority,
            };
            if scheduling.policy == libc::SCHED_DEADLINE.cast_unsigned() {
                return Err(PrepareError::unfit(parent, "one of its threads has times reserved (SCHED_DEADLINE)"));
            }
            thread.cores = cores(thread.tid);
            thread.name = own.name;
            thread.tid = own.number;
        }
        Ok(())
    }

    fn filters(&self) -> Result<Vec<Filter>, PrepareError> {
        let filters = self.tracee.filters().map_err(|source| PrepareError::Confined { pid: self.pid(), source })?;
        Ok(filters
            .into_iter()
            .map(|filter| Filter { instructions: filter.instructions, flags: filter.flags })
            .collect())
    }

    /// What only the process itself can find out.
    fn ask(&self, rsp: u64, status: &Status) -> Result<Answers, PrepareError> {
        const ANSWER_BYTES: usize = 64;
        let registers = self.tracee.registers()?;
        let injection = Injection::begin(&self.tracee, registers, self.instruction)?;
        // Answers are written where nothing lives, and what was there comes back: the seed stays what it was.
        let room = (rsp - RED_ZONE_BYTES - ANSWER_BYTES as u64) & !0xf;
        let mut before = [0; ANSWER_BYTES];
        self.memory.read(room, &mut before)?;
        let called = |call: &'static str, number, arguments: [u64; 6]| match injection.call(number, arguments)? {
            error @ -4095..0 => {
                let source = io::Error::from_raw_os_error(-error as i32);
                Err(PrepareError::Injected { pid: self.pid(), call, source })
            }
            result => Ok(result.cast_unsigned()),
        };
        let answered = || {
            let mut answer = [0; size_of::<KernelSigaction>()];
            self.memory.read(room, &mut answer)?;
            let word = |at: usize| answer[at * 8..at * 8 + 8].try_into().map_or(0, u64::from_ne_bytes);
            Ok::<[u64; 4], CallError>([0, 1, 2, 3].map(word))
        };
        called("close_range", SYS_close_range, [0, u64::from(u32::MAX), 0, 0, 0, 0])?;
        // Who ends the process with its group does not end what is read of it.
        called("setsid", libc::SYS_setsid, [0; 6])?;
        let brk = called("brk", SYS_brk, [0; 6])?;
        let trait_of = |what: libc::c_int| called("prctl", SYS_prctl, [what as u64, 0, 0, 0, 0, 0]);
        let secure_bits = trait_of(libc::PR_GET_SECUREBITS)? as u32;
        // It fails where there are none.
        let may_use = match injection.call(SYS_arch_prctl, [ARCH_GET_XCOMP_PERM, room, 0, 0, 0, 0])? {
            0 => answered()?[0],
            _ => 0,
        };
        let traits = Traits {
            may_use_tiles: may_use >> machine::TILES & 1 == 1,
            is_dumpable: trait_of(libc::PR_GET_DUMPABLE)? == 1,
            without_huge_pages: trait_of(libc::PR_GET_THP_DISABLE)? != 0,
            timer_slack_ns: trait_of(libc::PR_GET_TIMERSLACK)?,
            personality: called("personality", libc::SYS_personality, [u32::MAX.into(), 0, 0, 0, 0, 0])? as u32,
        };
        called("sigaltstack", libc::SYS_sigaltstack, [0, room, 0, 0, 0, 0])?;
        let [start, flags, bytes, _] = answered()?;
        let mut signals = Vec::new();
        for signal in 1..=64_u8 {
            let bit = 1_u64 << (signal - 1);
            if status.ignored & bit != 0 {
                let handler = libc::SIG_IGN as u64;
                signals.push(SignalAction { signal, handler, flags: 0, restorer: 0, mask: 0 });
            } else if status.caught & bit != 0 {
                called("rt_sigaction", SYS_rt_sigaction, [u64::from(signal), 0, room, 8, 0, 0])?;
                let [handler, flags, restorer, mask] = answered()?;
                signals.push(SignalAction { signal, handler, flags, restorer, mask });
            }
        }
        self.memory.write(room, &before)?;
        injection.end()?;
        Ok(Answers { brk, secure_bits, traits, signals, signal_stack: signal_stack([start, flags, bytes]) })
    }
}

/// Which of the mapped files a process executes.
fn executable(pid: i32, files: &[MappedFile]) -> Option<u32> {
    let executed = identity(&fs::metadata(format!("/proc/{pid}/exe")).ok()?);
    files.iter().position(|file| file.identity == executed).and_then(|at| u32::try_from(at).ok())
}

/// Which cores a thread may run on, if others than this process.
fn cores(tid: i32) -> Vec<u64> {
    const BITS: usize = u64::BITS as usize;
    let of = |tid| sched_getaffinity(Pid::from_raw(tid)).ok();
    let Some(its) = of(tid).filter(|its| of(std::process::id().cast_signed()).as_ref() != Some(its)) else {
        return Vec::new();
    };
    let word = |at: usize| (0..BITS).filter(|bit| its.is_set(at * BITS + bit)).fold(0, |word, bit| word | 1 << bit);
    let mut words: Vec<u64> = (0..CpuSet::MAX_CPU / BITS).map(word).collect();
    words.truncate(words.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
    words
}

/// A copy that is killed unless it becomes a seed.
struct Unnamed<'t>(&'t Tracee, i32);

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        end(self.0, self.1);
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        end(&self.tracee, self.original);
    }
}

fn end(copy: &Tracee, original: i32) {
    ramet_sys::thread::kill(copy.tid());
    // What traces a process learns of its end, and takes it away if it is its parent besides.
    while matches!(copy.wait(), Ok(stop) if stop != Stop::Ended) {
        let _ = copy.resume();
    }
    reap::by(original, copy.tid());
}
