//! Threads of other processes, stopped and looked into (ptrace(2)).
//!
//! The kernel ties a traced thread to the thread that traces it, so a [`Tracee`] stays on its thread. One that is
//! dropped is left as it is: the kernel lets it go, or kills it if [`Tracee::end_with_tracer`] asked for that, when
//! the tracing thread ends.

use std::io;
use std::marker::PhantomData;
use std::mem::{self, MaybeUninit};
use std::ptr;

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

const PTRACE_GET_RSEQ_CONFIGURATION: c_uint = 0x420f;
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
    pub fn end_with_tracer(&self) -> Result<(), CallError> {
        self.request("ptrace(PTRACE_SETOPTIONS)", libc::PTRACE_SETOPTIONS, libc::PTRACE_O_EXITKILL as usize)
    }

    /// Lets a thread that [ends with its tracer](Self::end_with_tracer) make every system call, whatever its filters
    /// forbid: they might kill it for one that it is made to do.
    ///
    /// # Errors
    /// ptrace's: `EPERM` without `CAP_SYS_ADMIN`.
    pub fn suspend_filters(&self) -> Result<(), CallError> {
        /// Not in libc (linux/ptrace.h).
        const PTRACE_O_SUSPEND_SECCOMP: usize = 1 << 21;
        let options = libc::PTRACE_O_EXITKILL as usize | PTRACE_O_SUSPEND_SECCOMP;
        self.request("ptrace(PTRACE_SETOPTIONS)", libc::PTRACE_SETOPTIONS, options)
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
        let mut status = 0;
        loop {
            // SAFETY: O1, the status is written during the call.
            let waited = unsafe { libc::waitpid(self.tid, &raw mut status, libc::__WALL) };
            match waited {
                tid if tid == self.tid => break,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                _ => return Err(CallError::last("waitpid")),
            }
        }
        if !libc::WIFSTOPPED(status) {
            return Ok(Stop::Ended);
        }
        Ok(match (status >> 16, libc::WSTOPSIG(status)) {
            (0, signal) => Stop::Signal(signal),
            (libc::PTRACE_EVENT_EXIT, _) => Stop::Ended,
            _ => Stop::Asked,
        })
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

    /// Lets the thread run one instruction, and waits.
    ///
    /// # Errors
    /// The calls' errors; `ESRCH` if the thread ended.
    pub fn step(&self) -> Result<Stop, CallError> {
        self.request("ptrace(PTRACE_SINGLESTEP)", libc::PTRACE_SINGLESTEP, 0)?;
        match self.wait()? {
            Stop::Ended => Err(gone("ptrace(PTRACE_SINGLESTEP)")),
            stop => Ok(stop),
        }
    }

    /// Lets the thread run on, untraced.
    ///
    /// # Errors
    /// ptrace's.
    pub fn detach(self) -> Result<(), CallError> {
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
