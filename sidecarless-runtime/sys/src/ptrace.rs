//! Threads of other processes, stopped and looked into (ptrace(2)).
//!
//! The kernel ties a traced thread to the thread that traces it, so a [`Tracee`] stays on its thread. One that is
//! dropped is left as it is: the kernel lets it go, or kills it if [`Tracee::end_with_tracer`] asked for that, when
//! the tracing thread ends.

use std::io;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, c_uint, c_void, pid_t};

use crate::call::CallError;

/// The general registers of an x86-64 thread (`user_regs_struct`).
pub type Registers = libc::user_regs_struct;

/// The most bytes that a thread's extended state is taken to have.
const XSAVE_BYTES_MAX: usize = 16 * 1024;

/// What a system call's instruction, `syscall`, is in bytes.
pub const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// A traced thread.
#[derive(Debug)]
pub struct Tracee {
    tid: pid_t,
    /// Of the tracing thread alone.
    on_thread: PhantomData<*mut ()>,
}

/// `siginfo_t`: what is known of a signal that was sent.
pub type SignalInformation = [u8; SIGNAL_INFORMATION_BYTES];

/// How long a `siginfo_t` is.
pub const SIGNAL_INFORMATION_BYTES: usize = 128;

/// How many signals one call reads.
const SIGNALS_READ: usize = 32;

/// For whom signals wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The thread.
    Thread,
    /// Any thread of its process.
    Process,
}

/// `struct ptrace_peeksiginfo_args`.
#[repr(C)]
struct PeekArgument {
    offset: u64,
    flags: u32,
    count: i32,
}

/// Whether a traced thread's seccomp filters count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filters {
    /// They do.
    Count,
    /// They do not: whatever it is made to call, it is not killed for it.
    Suspended,
}

impl Filters {
    const fn option(self) -> c_int {
        match self {
            Self::Count => 0,
            Self::Suspended => PTRACE_O_SUSPEND_SECCOMP,
        }
    }
}

/// What a traced thread stopped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was asked to, or its whole process is stopped.
    Asked,
    /// A signal, which has not been delivered, is about to be.
    Signal(c_int),
    /// It is about to end, or has.
    Ended,
}

/// The registration of a thread's restartable sequences (rseq(2)); no bytes if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Where the thread's `struct rseq` is.
    pub address: u64,
    /// How long it is.
    pub bytes: u32,
    /// What marks abort handlers.
    pub signature: u32,
    /// Registration flags.
    pub flags: u32,
    pad: u32,
}

/// One of a thread's seccomp filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its instructions, `struct sock_filter` each.
    pub instructions: Vec<u64>,
    /// How it was installed: `SECCOMP_FILTER_FLAG_…`
    pub flags: u64,
}

/// `struct seccomp_metadata`.
#[repr(C)]
struct FilterMetadata {
    index: u64,
    flags: u64,
}

const PTRACE_GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
const PTRACE_SECCOMP_GET_FILTER: c_uint = 0x420c;
const PTRACE_SECCOMP_GET_METADATA: c_uint = 0x420d;
const PTRACE_O_SUSPEND_SECCOMP: c_int = 1 << 21;
/// How long a stop is waited for without sleep in between.
const IMPATIENCE: Duration = Duration::from_micros(300);
const NT_X86_XSTATE: usize = 0x202;

impl Tracee {
    /// Attaches to a thread without stopping it.
    ///
    /// # Errors
    /// ptrace's: `EPERM` where the caller has no right to look into the process, or another traces it.
    pub fn seize(tid: i32) -> Result<Self, CallError> {
        request("ptrace(PTRACE_SEIZE)", libc::PTRACE_SEIZE, tid, 0, ptr::null_mut())?;
        Ok(Self { tid, on_thread: PhantomData })
    }

    /// A thread that is traced already: a child that a traced thread made with `CLONE_PTRACE`.
    #[must_use]
    pub const fn inherited(tid: i32) -> Self {
        Self { tid, on_thread: PhantomData }
    }

    /// The thread.
    #[must_use]
    pub const fn tid(&self) -> i32 {
        self.tid
    }

    /// Lets the thread be killed when its tracer ends.
    ///
    /// # Errors
    /// ptrace's.
    pub fn end_with_tracer(&self, filters: Filters) -> Result<(), CallError> {
        self.set_options(libc::PTRACE_O_EXITKILL | filters.option())
    }

    /// Says whether the thread's seccomp filters count while it is traced. It must be stopped.
    ///
    /// # Errors
    /// ptrace's: `EPERM` without `CAP_SYS_ADMIN`, or where the caller has filters itself.
    pub fn set_filters(&self, filters: Filters) -> Result<(), CallError> {
        self.set_options(filters.option())
    }

    fn set_options(&self, options: c_int) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_SETOPTIONS)", libc::PTRACE_SETOPTIONS, options as usize)
    }

    /// Its seccomp filters, in the order in which they were installed. It must be stopped.
    ///
    /// # Errors
    /// ptrace's: `EACCES` without `CAP_SYS_ADMIN`, `EMEDIUMTYPE` where the kernel has not kept a filter as it was.
    pub fn filters(&self) -> Result<Vec<Filter>, CallError> {
        let mut filters = Vec::new();
        loop {
            let index = filters.len();
            let call = "ptrace(PTRACE_SECCOMP_GET_FILTER)";
            // SAFETY: O1, without a place to write to the kernel only says how long it is.
            let length = unsafe { libc::ptrace(PTRACE_SECCOMP_GET_FILTER, self.tid, index, ptr::null_mut::<c_void>()) };
            let length = match usize::try_from(length) {
                Ok(length) => length,
                Err(_) => match CallError::last(call) {
                    error if error.source.raw_os_error() == Some(libc::ENOENT) => return Ok(filters),
                    error => return Err(error),
                },
            };
            let mut instructions = vec![0_u64; length];
            request(call, PTRACE_SECCOMP_GET_FILTER, self.tid, index, instructions.as_mut_ptr().cast())?;
            let mut metadata = FilterMetadata { index: index as u64, flags: 0 };
            let bytes = size_of::<FilterMetadata>();
            let into = (&raw mut metadata).cast();
            let call = "ptrace(PTRACE_SECCOMP_GET_METADATA)";
            request(call, PTRACE_SECCOMP_GET_METADATA, self.tid, bytes, into)?;
            filters.push(Filter { instructions, flags: metadata.flags });
        }
    }

    /// Asks the thread to stop.
    ///
    /// # Errors
    /// ptrace's.
    pub fn interrupt(&self) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_INTERRUPT)", libc::PTRACE_INTERRUPT, 0)
    }

    /// Waits until the thread stops.
    ///
    /// # Errors
    /// waitpid's.
    pub fn wait(&self) -> Result<Stop, CallError> {
        loop {
            if let Some(stop) = self.look(0)? {
                return Ok(stop);
            }
        }
    }

    /// `None`: it has not stopped yet.
    fn look(&self, how: c_int) -> Result<Option<Stop>, CallError> {
        let mut status = 0;
        loop {
            // SAFETY: O1, the status is written during the call.
            let waited = unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL | how) };
            match waited {
                0 => return Ok(None),
                tid if tid == self.tid => break,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(CallError::last("waitpid")),
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Some(Stop::Ended));
        }
        Ok(Some(match (status >> 16, libc::WSTOPSIG(status)) {
            (0, signal) => Stop::Signal(signal),
            (libc::PTRACE_EVENT_EXIT, _) => Stop::Ended,
            _ => Stop::Asked,
        }))
    }

    /// Waits for the stop that was asked for, but not for ever: a thread may be where the kernel does not stop it.
    /// Signals that come first are delivered.
    ///
    /// # Errors
    /// The calls' errors; `ESRCH` if the thread ended, `ETIMEDOUT` if it has not stopped.
    pub fn wait_until_asked_or(&self, deadline: Instant) -> Result<(), CallError> {
        let begun = Instant::now();
        loop {
            match self.look(libc::WNOHANG)? {
                Some(Stop::Asked) => return Ok(()),
                Some(Stop::Signal(signal)) => {
                    self.request("ptrace(PTRACE_CONT)", libc::PTRACE_CONT, signal as usize)?;
                }
                Some(Stop::Ended) => return Err(gone("waitpid")),
                None if begun.elapsed() < IMPATIENCE => thread::yield_now(),
                None if Instant::now() < deadline => thread::sleep(IMPATIENCE / 4),
                None => {
                    let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                    return Err(CallError { call: "waitpid", source });
                }
            }
        }
    }

    /// Waits for the stop that was asked for. Signals that come first are delivered.
    ///
    /// # Errors
    /// The calls' errors; `ESRCH` if the thread ended.
    pub fn wait_until_asked(&self) -> Result<(), CallError> {
        loop {
            match self.wait()? {
                Stop::Asked => return Ok(()),
                Stop::Signal(signal) => {
                    self.request("ptrace(PTRACE_CONT)", libc::PTRACE_CONT, signal as usize)?;
                }
                Stop::Ended => return Err(gone("waitpid")),
            }
        }
    }

    /// The general registers.
    ///
    /// # Errors
    /// ptrace's.
    pub fn registers(&self) -> Result<Registers, CallError> {
        let mut registers = MaybeUninit::<Registers>::uninit();
        let into = registers.as_mut_ptr().cast();
        request("ptrace(PTRACE_GETREGS)", libc::PTRACE_GETREGS, self.tid, 0, into)?;
        // SAFETY: O2, the kernel wrote all of it.
        Ok(unsafe { registers.assume_init() })
    }

    /// Sets the general registers.
    ///
    /// # Errors
    /// ptrace's.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), CallError> {
        let from = ptr::from_ref(registers).cast_mut().cast();
        request("ptrace(PTRACE_SETREGS)", libc::PTRACE_SETREGS, self.tid, 0, from)
    }

    /// The extended state (floating point and vectors), in the layout of `XSAVE`.
    ///
    /// # Errors
    /// ptrace's.
    pub fn extended_state(&self) -> Result<Vec<u8>, CallError> {
        let mut state = vec![0_u8; XSAVE_BYTES_MAX];
        let mut part = libc::iovec { iov_base: state.as_mut_ptr().cast(), iov_len: state.len() };
        let part_at = (&raw mut part).cast();
        request("ptrace(PTRACE_GETREGSET)", libc::PTRACE_GETREGSET, self.tid, NT_X86_XSTATE, part_at)?;
        state.truncate(part.iov_len);
        Ok(state)
    }

    /// The blocked signals: bit 0 is signal 1.
    ///
    /// # Errors
    /// ptrace's.
    pub fn blocked_signals(&self) -> Result<u64, CallError> {
        let mut mask = 0_u64;
        let into = (&raw mut mask).cast();
        request("ptrace(PTRACE_GETSIGMASK)", libc::PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), into)?;
        Ok(mask)
    }

    /// Sets the blocked signals.
    ///
    /// # Errors
    /// ptrace's.
    pub fn block_signals(&self, mut mask: u64) -> Result<(), CallError> {
        let from = (&raw mut mask).cast();
        request("ptrace(PTRACE_SETSIGMASK)", libc::PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), from)
    }

    /// The registration of restartable sequences.
    ///
    /// # Errors
    /// ptrace's.
    pub fn rseq(&self) -> Result<RseqConfiguration, CallError> {
        let mut configuration = RseqConfiguration::default();
        let into = (&raw mut configuration).cast();
        let bytes = size_of::<RseqConfiguration>();
        request("ptrace(PTRACE_GET_RSEQ_CONFIGURATION)", PTRACE_GET_RSEQ_CONFIGURATION, self.tid, bytes, into)?;
        Ok(configuration)
    }

    /// Lets the thread run until its next stop.
    ///
    /// # Errors
    /// ptrace's.
    pub fn resume(&self) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_CONT)", libc::PTRACE_CONT, 0)
    }

    /// The signals that wait for the thread, or for its process: `siginfo_t` each.
    ///
    /// # Errors
    /// ptrace's.
    pub fn queued_signals(&self, queue: Queue) -> Result<Vec<SignalInformation>, CallError> {
        let mut signals: Vec<SignalInformation> = Vec::new();
        loop {
            let mut some = [[0_u8; SIGNAL_INFORMATION_BYTES]; SIGNALS_READ];
            let flags = match queue {
                Queue::Thread => 0,
                Queue::Process => 1,
            };
            let count = some.len() as i32;
            let argument = PeekArgument { offset: signals.len() as u64, flags, count };
            let (at, into) = ((&raw const argument).addr(), some.as_mut_ptr().cast::<c_void>());
            // SAFETY: O1, at most as many are written as there is room for.
            let read = unsafe { libc::ptrace(libc::PTRACE_PEEKSIGINFO, self.tid, at, into) };
            let Ok(read) = usize::try_from(read) else { return Err(CallError::last("ptrace(PTRACE_PEEKSIGINFO)")) };
            signals.extend(&some[..read]);
            if read < some.len() {
                return Ok(signals);
            }
        }
    }

    /// Lets the thread run one instruction, and waits.
    ///
    /// # Errors
    /// The calls' errors; `ESRCH` if the thread ended.
    pub fn step(&self) -> Result<Stop, CallError> {
        self.begin_step()?;
        self.end_step()
    }

    /// Lets the thread run one instruction. [`Tracee::end_step`] waits.
    ///
    /// # Errors
    /// ptrace's.
    pub fn begin_step(&self) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_SINGLESTEP)", libc::PTRACE_SINGLESTEP, 0)
    }

    /// Waits for the end of what [`Tracee::begin_step`] began.
    ///
    /// # Errors
    /// The calls' errors; `ESRCH` if the thread ended.
    pub fn end_step(&self) -> Result<Stop, CallError> {
        match self.wait()? {
            Stop::Ended => Err(gone("ptrace(PTRACE_SINGLESTEP)")),
            stop => Ok(stop),
        }
    }

    /// Lets the thread run on, untraced.
    ///
    /// # Errors
    /// ptrace's.
    pub fn detach(&self) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_DETACH)", libc::PTRACE_DETACH, 0)
    }

    fn request(&self, call: &'static str, what: c_uint, data: usize) -> Result<(), CallError> {
        request(call, what, self.tid, 0, ptr::without_provenance_mut(data))
    }
}

fn gone(call: &'static str) -> CallError {
    CallError { call, source: io::Error::from_raw_os_error(libc::ESRCH) }
}

fn request(call: &'static str, what: c_uint, tid: pid_t, at: usize, data: *mut c_void) -> Result<(), CallError> {
    // SAFETY: O1, what `data` points to lives during the call and is as large as the request says.
    let result = unsafe { libc::ptrace(what, tid, at, data) };
    if result == -1 { Err(CallError::last(call)) } else { Ok(()) }
}

/// What a signal does in a process, as the kernel keeps it (rt_sigaction(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelSigaction {
    /// `SIG_DFL`, `SIG_IGN`, or where the handler is.
    pub handler: u64,
    /// `SA_…`
    pub flags: u64,
    /// Where the handler returns to.
    pub restorer: u64,
    /// What is blocked meanwhile.
    pub mask: u64,
}

const _: () = assert!(mem::size_of::<KernelSigaction>() == 32);
const _: () = assert!(mem::size_of::<RseqConfiguration>() == 24);
