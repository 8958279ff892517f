//! Resume: a descriptor becomes processes, whose memory comes as it is touched.
//!
//! The host asks its zygote for a copy, which runs the program that `plan` makes of the descriptor until it is a
//! *template*: it has the address space and waits. Each child is a fork of it, which runs the rest of the program. When
//! a child is about to go on, its control socket closes, or tells what failed.

mod ahead;
mod confinement;
mod copies;
mod family;
mod files;
mod habit;
mod identity;
mod plan;
mod shared;
mod template;
mod watch;

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ramet_sys::{CallError, Pidfd, Range};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use rustix::net::{recvmsg, socketpair};

use self::copies::Copies;
use self::identity::{Rights, TRACES};
use crate::capture::this_machine;
use crate::carried::Uncarried;
use crate::descriptor::Clocks;
use crate::interpreter::FAILURE_BYTES;
use crate::machine::{Machine, MachineError};
use crate::source::SourceError;
use crate::zygote::{self, Order};

pub use self::family::Family;
pub(crate) use self::family::first_pages;
pub use self::files::Given;
pub use self::watch::{Kin, Watch};

/// How long a process may take for a step that depends on nobody else.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes processes on this host.
#[derive(Debug)]
pub struct Host {
    machine: Machine,
    rights: Rights,
    /// How far its clocks are from the machine's own.
    clock_offsets: Clocks,
    /// How far into the vdso there is a way to make a last system call.
    call_and_return: Option<u64>,
    copies: Copies,
    guard: Arc<OwnedFd>,
}

/// A process that was forked from a descriptor.
#[derive(Debug)]
pub struct Child {
    /// Its number, as this process sees it.
    pub pid: i32,
    /// What ends and reaps it.
    pub pidfd: Pidfd,
    /// How long the steps took.
    pub phases: Phases,
    /// What its family's pager knows it by.
    space: u64,
    /// Where it was before it went on.
    program: Range,
    /// Of a process with several threads, which have the numbers that they had, a namespace for these.
    habitat: Habitat,
}

impl Child {
    /// What ends and reaps it, and what it lives in, which has to be kept for as long as it lives.
    #[must_use]
    pub fn into_parts(self) -> (Pidfd, Habitat) {
        (self.pidfd, self.habitat)
    }
}

/// What a process lives in, and copies that are made of it from outside. It ends when nobody has it any more, and so
/// does what lives in it.
#[derive(Clone, Debug, Default)]
pub struct Habitat(Option<Arc<Namespace>>);

impl Habitat {
    /// The first process of the PID namespace that it is, if it is one.
    #[must_use]
    pub fn first(&self) -> Option<&Pidfd> {
        self.0.as_ref().map(|namespace| &namespace.first)
    }
}

/// A PID namespace, which ends when this is dropped.
#[derive(Debug)]
struct Namespace {
    /// Its first process.
    first: Pidfd,
}

/// How long the steps of a resume took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// What was only done because there was no template yet.
    pub template: Option<TemplatePhases>,
    /// Opening the files.
    pub open: Duration,
    /// Forking the template.
    pub fork: Duration,
    /// The rest, until the process is itself.
    pub start: Duration,
}

/// How long the steps of making a template took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TemplatePhases {
    /// Opening the mapped files and writing the program.
    pub plan: Duration,
    /// Copying the zygote.
    pub copy: Duration,
    /// The new process making its address space, as far as nothing else was to do meanwhile.
    pub map: Duration,
    /// Registering what is missing.
    pub register: Duration,
    /// Putting in what every child touches first.
    pub push: Duration,
}

/// Why a descriptor did not become a process. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The machines differ.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A file that the process has mapped is another one here.
    #[error("{} is not the file that the forked process has ({reason}); both need the same one", path.display())]
    File {
        /// Its name.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// Its working directory is not here.
    #[error("the forked process works in {}, which cannot be entered here: {source}; make it", path.display())]
    Directory {
        /// Its name.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has what no fork carries.
    #[error(transparent)]
    Uncarried(#[from] Uncarried),
    /// The host is another user and may not change that.
    #[error("the child would be user {there}; this host is user {here} and may not make another's; resume it as root")]
    User {
        /// Who the host is.
        here: u32,
        /// Who the child would be.
        there: u32,
    },
    /// The process may do what its host may not.
    #[error("the process has capabilities that this host has not ({lacking:#x}); resume it with more privilege")]
    Capabilities {
        /// Which; bit 0 is capability 0.
        lacking: u64,
    },
    /// The host may not do what it takes.
    #[error("this host may not {what}: that takes {needs}; run who keeps seeds here as root")]
    Unprivileged {
        /// What.
        what: &'static str,
        /// The capability that it has not got.
        needs: &'static str,
    },
    /// Something else cannot be carried.
    #[error("the process cannot be resumed: {0}")]
    Unfit(&'static str),
    /// A step of the child failed.
    #[error("the new process failed at {step}: {source}; {}", what_to_do(source))]
    Step {
        /// Which step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended or fell silent.
    #[error("the new process did not come to {0}; see the kernel's log")]
    Silent(&'static str),
    /// The seed is lost already.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The host's own means failed.
    #[error("cannot make a process: {0}")]
    Host(#[from] io::Error),
}

impl Host {
    /// Starts the zygote: `command` is a program that calls [`crate::zygote::run`] with its standard input.
    ///
    /// The thread that calls this must live as long as the children: the kernel ends them with it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(mut command: Command) -> io::Result<Self> {
        let (orders, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // The zygote's restartable sequences would outlive the memory that they are in.
        let zygote = command
            .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot start the zygote: {error}")))?;
        let (machine, vdso) = this_machine()?;
        let call_and_return = crate::capture::call_and_return_offset(&vdso);
        let (guard, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Nobody waits for the guard: it ends when it has nothing left to guard.
        if let error @ ..=0 = zygote::order(&orders, &Order::Guard, &[theirs])? {
            return Err(io::Error::from_raw_os_error(-error));
        }
        let (rights, clock_offsets) = (Rights::own()?, Clocks::offsets("self")?);
        let (copies, guard) = (Copies::start(zygote, orders)?, Arc::new(guard));
        Ok(Self { machine, rights, clock_offsets, call_and_return, copies, guard })
    }

    /// Whether its zygote and its guard are there: nobody but the host ends them, and without them there are no more
    /// children.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let orders = self.copies.orders();
        let mut ends = [PollFd::new(&*orders, PollFlags::empty()), PollFd::new(&*self.guard, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut ends, Some(&now)), Ok(0))
    }

    /// Whether it may make children at all.
    ///
    /// # Errors
    /// What it lacks.
    pub fn may_fork(&self) -> Result<(), ResumeError> {
        self.rights.need(TRACES, "give processes and their forks the pages that they touch (userfaultfd)")
    }

    /// A PID namespace for whatever is to be forked: the first process of one cannot be, and here that is another.
    ///
    /// # Errors
    /// Why there is none.
    pub fn habitat(&self) -> Result<Habitat, ResumeError> {
        self.namespace().map(|namespace| Habitat(Some(Arc::new(namespace))))
    }

    /// Makes a PID namespace.
    fn namespace(&self) -> Result<Namespace, ResumeError> {
        Ok(Namespace { first: self.copies.make(&Order::Namespace, &[] as &[OwnedFd])? })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.first.signal(ramet_sys::End::Kill);
        let _ = self.first.wait();
    }
}

/// What to do about a step that has failed.
fn what_to_do(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        // It seemed to be allowed: in a user namespace there are rights that are none to the machine.
        Some(libc::EPERM | libc::EACCES) => "run who keeps seeds here as root, in the machine's own user namespace",
        Some(libc::ENOMEM | libc::EAGAIN | libc::EMFILE | libc::ENOSPC) => {
            "end some processes, or let who keeps seeds here have more of memory, processes and open files"
        }
        Some(libc::ENOENT | libc::ENOTDIR) => "this host needs what the process has on its own",
        _ => "try again, here or on another host",
    }
}

/// The host's end of a control socket, and the process's.
fn control_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (control, theirs) = UnixStream::pair()?;
    control.set_read_timeout(Some(STEP_TIMEOUT))?;
    set_socket_passcred(&control, true)?;
    Ok((control, theirs))
}

/// What a process said.
#[derive(Debug, Default)]
struct Heard {
    bytes: [u8; FAILURE_BYTES],
    count: usize,
    /// A descriptor that came with it.
    fd: Option<OwnedFd>,
    /// Who said it, in our numbers.
    pid: Option<i32>,
}

fn hear(control: &UnixStream) -> io::Result<Heard> {
    hear_up_to(control, FAILURE_BYTES)
}

fn hear_up_to(control: &UnixStream, most: usize) -> io::Result<Heard> {
    let mut heard = Heard::default();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut heard.bytes[..most])];
    let received = match recvmsg(control, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        // It has ended before it had read all. What it had said is there, once this was told.
        Err(rustix::io::Errno::CONNRESET) => recvmsg(control, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC),
        received => received,
    };
    heard.count = received?.bytes;
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(mut fds) => heard.fd = fds.next(),
            RecvAncillaryMessage::ScmCredentials(credentials) => heard.pid = Some(credentials.pid.as_raw_pid()),
            _ => {}
        }
    }
    Ok(heard)
}
