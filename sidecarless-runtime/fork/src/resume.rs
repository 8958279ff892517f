//! Resume: a descriptor becomes a process, whose memory comes as it is touched.
//!
//! The host asks its zygote for a copy, which runs the program that `plan` makes of the descriptor. Twice they wait
//! for each other: when everything is mapped, the host registers what is missing; when the child is about to go on,
//! the control socket closes, or tells what failed.

mod files;
mod plan;

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child as Process, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ramet_sys::userfault::Userfault;
use ramet_sys::{CallError, Pidfd};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use rustix::net::{recvmsg, socketpair};

use crate::capture::this_machine;
use crate::descriptor::ForkDescriptor;
use crate::interpreter::FAILURE_BYTES;
use crate::machine::{Machine, MachineError};
use crate::pager::{Pager, Space};
use crate::source::PageSource;
use crate::zygote::{self, Order};

pub(crate) use self::plan::Plan;

/// How long a child may take for a step that depends on nobody else.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes children on this host.
#[derive(Debug)]
pub struct Host {
    machine: Machine,
    /// How far into the vdso there is a way to make a last system call.
    call_and_return: Option<u64>,
    zygote: Process,
    orders: OwnedFd,
}

/// Children of one seed: where their pages come from.
#[derive(Debug)]
pub struct Family {
    spaces: Option<Sender<Space>>,
    news: OwnedFd,
    pager: Option<JoinHandle<()>>,
}

/// A process that was forked from a descriptor.
#[derive(Debug)]
pub struct Child {
    /// Its number, as this process sees it.
    pub pid: i32,
    /// What ends and reaps it. A process with several threads is alone in a namespace, and this is that one's first
    /// process, which ends as it does.
    pub pidfd: Pidfd,
    /// How long the steps took.
    pub phases: Phases,
}

/// How long the steps of a resume took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Opening the files and writing the program.
    pub plan: Duration,
    /// Copying the zygote.
    pub copy: Duration,
    /// The new process making its address space.
    pub map: Duration,
    /// Registering what is missing.
    pub register: Duration,
    /// The rest, until the process is itself.
    pub start: Duration,
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
    /// An open file cannot be carried.
    #[error("the process has {name} open as descriptor {fd}, which a fork cannot carry; close it before the fork")]
    Open {
        /// Its descriptor.
        fd: i32,
        /// What it is.
        name: String,
    },
    /// Something else cannot be carried.
    #[error("the process cannot be resumed: {0}")]
    Unfit(&'static str),
    /// A step of the child failed.
    #[error("the new process failed at {step}: {source}")]
    Step {
        /// Which step.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The child ended or fell silent.
    #[error("the new process did not come to {0}; see the kernel's log")]
    Silent(&'static str),
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
        Ok(Self { machine, call_and_return, zygote, orders })
    }

    /// Forks a child of a seed.
    ///
    /// # Errors
    /// Why not. No process is left behind.
    pub fn resume(&self, descriptor: &ForkDescriptor, family: &Family) -> Result<Child, ResumeError> {
        self.machine.can_take(&descriptor.machine)?;
        let start = Instant::now();
        let (control, theirs) = UnixStream::pair()?;
        control.set_read_timeout(Some(STEP_TIMEOUT))?;
        set_socket_passcred(&control, true).map_err(io::Error::from)?;
        let (files, open) = (files::mapped(descriptor)?, files::open(descriptor)?);
        let plan = Plan::new(descriptor, files.len(), &open, self.call_and_return)?;
        let memory = File::from(memfd_create("ramet-program", MemfdFlags::CLOEXEC).map_err(io::Error::from)?);
        (&memory).write_all(&plan.image)?;

        let open = open.iter().filter_map(|(_, file)| file.as_ref());
        let own = [memory.as_fd(), theirs.as_fd()].into_iter();
        let fds: Vec<_> = own.chain(files.iter().map(AsFd::as_fd)).chain(open.map(AsFd::as_fd)).collect();
        let order = Order { fds: fds.len() as u32, ..plan.order };
        let planned = Instant::now();
        let first = match zygote::order(&self.orders, &order, &fds)? {
            error @ ..=0 => {
                let source = io::Error::from_raw_os_error(-error);
                return Err(ResumeError::Step { step: "fork", source });
            }
            first => first,
        };
        let pidfd = Pidfd::of_child(first.cast_unsigned())?;
        drop(theirs);
        let copied = Instant::now();
        let conducted = conduct(&control, &plan, family);
        match conducted {
            Ok(Conducted { pid, mapped, registered }) => {
                let phases = Phases {
                    plan: planned - start,
                    copy: copied - planned,
                    map: mapped - copied,
                    register: registered - mapped,
                    start: registered.elapsed(),
                };
                Ok(Child { pid, pidfd, phases })
            }
            Err(error) => {
                let _ = pidfd.signal(ramet_sys::End::Kill);
                let _ = pidfd.wait();
                Err(error)
            }
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.zygote.kill();
        let _ = self.zygote.wait();
    }
}

/// A process that has come to the end of its program.
struct Conducted {
    pid: i32,
    /// When its memory was mapped.
    mapped: Instant,
    /// When what is missing was registered.
    registered: Instant,
}

/// Leads a new process through its program.
fn conduct(control: &UnixStream, plan: &Plan, family: &Family) -> Result<Conducted, ResumeError> {
    let (userfault, pid) = receive_userfault(control, plan)?;
    let userfault = Userfault::begin(userfault)?;
    let mut heard = [0; FAILURE_BYTES];
    expect(control, plan, &mut heard, "mapping its memory")?;
    let mapped = Instant::now();
    for range in &plan.registered {
        userfault.register(*range)?;
    }
    family.add(Space::new(userfault, plan.missing.clone()))?;
    let registered = Instant::now();
    (&*control).write_all(&[1])?;
    match (&*control).read(&mut heard) {
        // It has closed everything but what is its own.
        Ok(0) => Ok(Conducted { pid, mapped, registered }),
        Ok(FAILURE_BYTES) => Err(failure(plan, &heard)),
        Ok(_) | Err(_) => Err(ResumeError::Silent("the end of its program")),
    }
}

fn receive_userfault(control: &UnixStream, plan: &Plan) -> Result<(OwnedFd, i32), ResumeError> {
    let mut bytes = [0; FAILURE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes[..])];
    let silent = |_| ResumeError::Silent("its first step");
    let received = recvmsg(control, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).map_err(silent)?.bytes;
    if received == FAILURE_BYTES {
        return Err(failure(plan, &bytes));
    }
    let (mut userfault, mut pid) = (None, None);
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(mut fds) => userfault = fds.next(),
            // The kernel says who it is, in our numbers.
            RecvAncillaryMessage::ScmCredentials(credentials) => pid = Some(credentials.pid.as_raw_pid()),
            _ => {}
        }
    }
    userfault.zip(pid).ok_or(ResumeError::Silent("its first step"))
}

/// Waits for the one byte that says that a part is done.
fn expect(
    control: &UnixStream,
    plan: &Plan,
    heard: &mut [u8; FAILURE_BYTES],
    part: &'static str,
) -> Result<(), ResumeError> {
    match (&*control).read(heard) {
        Ok(1) => Ok(()),
        Ok(FAILURE_BYTES) => Err(failure(plan, heard)),
        Ok(_) | Err(_) => Err(ResumeError::Silent(part)),
    }
}

fn failure(plan: &Plan, heard: &[u8; FAILURE_BYTES]) -> ResumeError {
    let word = |at: usize| heard[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
    let number = word(8).cast_signed();
    let source = match number {
        -4095..0 => io::Error::from_raw_os_error(-number as i32),
        _ => io::Error::other(format!("it gave {number:#x}, which is not what it gave in the forked process")),
    };
    ResumeError::Step { step: plan.meaning(word(0)), source }
}

impl Family {
    /// Starts the pager of a seed's children.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(source: Box<dyn PageSource>) -> io::Result<Self> {
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let theirs = news.try_clone()?;
        let pager = Pager::new(source, &news)?;
        let (spaces, receiver) = channel();
        let serve = move || {
            if let Err(error) = pager.run(&receiver, &theirs) {
                tracing::error!(%error, "the pager has ended; its children wait until they are killed");
            }
        };
        let pager = thread::Builder::new().name("ramet-pager".to_owned()).spawn(serve)?;
        Ok(Self { spaces: Some(spaces), news, pager: Some(pager) })
    }

    fn add(&self, space: Space) -> io::Result<()> {
        let gone = || io::Error::other("the pager has ended");
        self.spaces.as_ref().ok_or_else(gone)?.send(space).map_err(|_| gone())?;
        self.wake()
    }

    fn wake(&self) -> io::Result<()> {
        rustix::io::write(&self.news, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.spaces = None;
        if self.wake().is_ok()
            && let Some(pager) = self.pager.take()
        {
            let _ = pager.join();
        }
    }
}
