//! The zygote: a small process whose copies become the templates of children.
//!
//! A copy takes the time that its page tables take, so the zygote does nothing else and knows nothing of what its
//! copies will be. It takes orders from the process that started it, and ends with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd, RawFd};

use ramet_sys::copy::{Copied, Numbers, SingleThread, duplicate_from, map_fixed};
use ramet_sys::pagemap::PAGE_BYTES;
use ramet_sys::{CallError, Range};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use crate::{guard, interpreter};

/// How many descriptors one message carries (the kernel's `SCM_MAX_FD` is 253).
pub(crate) const DESCRIPTORS_PER_MESSAGE: usize = 250;
const MESSAGE_BYTES_MAX: usize = 256;

/// What a copy is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// What a program makes of it.
    Program(Start),
    /// The first process of a new PID namespace: it takes away what ends there, and the namespace ends with it
    /// (pid_namespaces(7)).
    Namespace,
    /// What holds the children's faults when the host has ended.
    Guard,
    /// One that takes one more order of its own, what to become.
    Spare,
}

/// How a copy begins its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    /// Where its program goes.
    pub(crate) program: u64,
    /// How long that is.
    pub(crate) program_bytes: u64,
    /// Where its operations begin.
    pub(crate) operations: u64,
    /// Where it may note what failed.
    pub(crate) failure: u64,
    /// The number that the first descriptor of the order gets; the others follow.
    pub(crate) first_fd: RawFd,
    /// How many there are: the program, the control socket, and those that the program knows of.
    pub(crate) fds: u32,
}

impl Order {
    const fn fds(&self) -> usize {
        match self {
            Self::Program(start) => start.fds as usize,
            Self::Namespace => 0,
            Self::Guard | Self::Spare => 1,
        }
    }
}

/// The descriptors that every order has.
pub(crate) const PROGRAM_FD: usize = 0;
pub(crate) const CONTROL_FD: usize = 1;
pub(crate) const OWN_FDS: usize = 2;

/// Sends an order.
pub(crate) fn tell(to: impl AsFd, order: &Order, fds: &[impl AsFd]) -> io::Result<()> {
    let mut bytes = [0; MESSAGE_BYTES_MAX];
    let message = postcard::to_slice(order, &mut bytes).map_err(io::Error::other)?;
    send(to, message, fds)
}

/// Sends an order to the zygote and gives the new process's number.
pub(crate) fn order(zygote: impl AsFd, order: &Order, fds: &[impl AsFd]) -> io::Result<i32> {
    tell(&zygote, order, fds)?;
    let mut answer = [0; 4];
    match rustix::io::read(&zygote, &mut answer)? {
        4 => Ok(i32::from_ne_bytes(answer)),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zygote has ended")),
    }
}

/// Sends a message, and after it as many of one byte as its descriptors need.
pub(crate) fn send(to: impl AsFd, message: &[u8], fds: &[impl AsFd]) -> io::Result<()> {
    let mut rest = message;
    let mut chunks = fds.chunks(DESCRIPTORS_PER_MESSAGE);
    loop {
        let some: Vec<_> = chunks.next().unwrap_or_default().iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !some.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&some));
        }
        sendmsg(&to, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if chunks.len() == 0 {
            return Ok(());
        }
        // A message must have a byte.
        rest = &[0];
    }
}

/// Runs the zygote; returns when its starter has gone.
///
/// # Errors
/// What made it end before.
pub fn run(orders: OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let alone = SingleThread::prove()?;
    alone.block_signals();
    loop {
        let Some((order, fds)) = next_order(&orders)? else { return Ok(()) };
        let numbers = match order {
            Order::Program(_) | Order::Guard | Order::Spare => Numbers::Same,
            Order::Namespace => Numbers::New,
        };
        let answer = match alone.copy_as_sibling(numbers) {
            Ok(Copied::New) => {
                drop(orders);
                match order {
                    Order::Program(start) => become_program(start, &fds),
                    Order::Namespace => become_first(&alone),
                    Order::Guard => become_guard(&fds),
                    Order::Spare => become_spare(fds),
                }
            }
            Ok(Copied::Old(pid)) => pid,
            Err(error) => -error.source.raw_os_error().unwrap_or(libc::EAGAIN),
        };
        rustix::io::write(&orders, &answer.to_ne_bytes())?;
    }
}

/// `None`: there will be no more.
fn next_order(orders: &OwnedFd) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
    let mut order: Option<Order> = None;
    let mut fds = Vec::new();
    loop {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_PER_MESSAGE))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut bytes)];
        let received = recvmsg(orders, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        if received == 0 {
            return Ok(None);
        }
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                fds.extend(some);
            }
        }
        let order = match order {
            Some(order) => order,
            None => *order.insert(postcard::from_bytes(&bytes[..received]).map_err(io::Error::other)?),
        };
        if fds.len() >= order.fds() {
            return Ok(Some((order, fds)));
        }
    }
}

/// In the copy: becomes the first process of its namespace.
fn become_first(alone: &SingleThread) -> ! {
    match set_parent_process_death_signal(Some(Signal::KILL)) {
        Ok(()) => alone.reap_for_ever(),
        Err(_) => std::process::exit(126),
    }
}

/// In the copy: becomes the guard, which does not end with the host.
fn become_guard(fds: &[OwnedFd]) -> ! {
    let ended = set_parent_process_death_signal(None).map_err(io::Error::from).and_then(|()| guard::run(&fds[0]));
    std::process::exit(i32::from(ended.is_err()))
}

/// In the copy: waits to be told what to become. It ends with whoever could tell.
fn become_spare(fds: Vec<OwnedFd>) -> ! {
    let Some(orders) = fds.into_iter().next() else { std::process::exit(126) };
    match next_order(&orders) {
        Ok(Some((Order::Program(start), fds))) => {
            drop(orders);
            become_program(start, &fds)
        }
        ended => std::process::exit(i32::from(!matches!(ended, Ok(None)))),
    }
}

/// In the copy: puts everything where the program expects it, and runs the program.
fn become_program(start: Start, fds: &[OwnedFd]) -> ! {
    if let Err(error) = place(start, fds) {
        tell_failure(&error, fds);
    }
    let control = start.first_fd + CONTROL_FD as RawFd;
    interpreter::enter(start.program, start.operations, start.failure, control)
}

/// Whoever reads the control socket finds an error instead of a process.
fn tell_failure(error: &CallError, fds: &[OwnedFd]) -> ! {
    let number = error.source.raw_os_error().unwrap_or(libc::EIO);
    let mut failure = [0; interpreter::FAILURE_BYTES];
    failure[8..].copy_from_slice(&i64::from(-number).to_ne_bytes());
    let _ = rustix::io::write(&fds[CONTROL_FD], &failure);
    std::process::exit(126)
}

fn place(start: Start, fds: &[OwnedFd]) -> Result<(), CallError> {
    let Start { program, program_bytes, first_fd, .. } = start;
    for (fd, number) in fds.iter().zip(first_fd..) {
        let given = duplicate_from(fd, number)?;
        if given != number {
            let source = io::Error::from_raw_os_error(libc::EMFILE);
            return Err(CallError { call: "fcntl(F_DUPFD_CLOEXEC)", source });
        }
    }
    let file = &fds[PROGRAM_FD];
    let code = Range { start: program, bytes: PAGE_BYTES };
    let rest = Range { start: program + PAGE_BYTES, bytes: program_bytes - PAGE_BYTES };
    map_fixed(file, 0, code, libc::PROT_READ | libc::PROT_EXEC)?;
    map_fixed(file, PAGE_BYTES, rest, libc::PROT_READ | libc::PROT_WRITE)?;
    Ok(())
}
