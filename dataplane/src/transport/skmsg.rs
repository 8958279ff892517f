//! S mode: send on a TCP socket that carries SPROXY, receive on a unix stream socket that SPROXY redirects to.
//!
//! The kernel checks, routes and moves ownership; this file only makes the two system calls. Receiving reads up to 64
//! descriptors at once, sending takes a whole batch at once: a system call costs as much as a hop.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use ramet_common::map::{INSTANCES_MAX, InstanceState};
use ramet_common::{BATCH_MAX, DESCRIPTOR_BYTES, InstanceId, PacketDescriptor, Refusal};
use ramet_shm::segment::{Access, Mapping, SegmentError, number};
use zerocopy::{FromBytes, IntoBytes};

use crate::endpoint::{Endpoint, ReceiveError, Receiver, SendError, Sender, Wait};

/// The endpoint of an instance that the supervisor has put into the sockmaps.
///
/// `tcp` carries SPROXY and the instance's identity; `unix` is in the map of receivers. `reasons` lets the gateway
/// read why a send was refused.
#[must_use]
pub fn endpoint(tcp: OwnedFd, unix: OwnedFd, reasons: Option<Reasons>) -> Endpoint {
    Endpoint {
        sender: Arc::new(SkMsgSender { tcp, reasons }),
        receiver: Box::new(SkMsgReceiver { unix, buffer: Box::new([0; BATCH_MAX * DESCRIPTOR_BYTES]) }),
        links: None,
    }
}

/// Read access to SPROXY's instance table, which says why a send was refused and how many messages instances have.
#[derive(Clone, Debug)]
pub struct Reasons {
    table: Arc<Mapping>,
    instance: InstanceId,
}

impl Reasons {
    /// Maps the `INSTANCES` array for `instance`.
    ///
    /// # Errors
    /// `mmap`'s error.
    pub fn map(instances: BorrowedFd<'_>, instance: InstanceId) -> Result<Self, SegmentError> {
        let bytes = INSTANCES_MAX as usize * size_of::<InstanceState>();
        let table = Mapping::new(instances, 0, bytes, Access::ReadOnly)?;
        Ok(Self { table, instance })
    }

    /// How many messages an instance has; zero for one that is not there.
    #[must_use]
    pub fn load(&self, instance: InstanceId) -> u32 {
        let living = self.number(instance, offset_of!(InstanceState, instance));
        let load = self.number(instance, offset_of!(InstanceState, load));
        // A replaced predecessor's late answer may take it below zero, which means idle.
        load.filter(|_| living == Some(instance.0)).map_or(0, |load| load.cast_signed().max(0).cast_unsigned())
    }

    fn last(&self) -> Option<Refusal> {
        Refusal::from_u32(self.number(self.instance, offset_of!(InstanceState, last_refusal))?)
    }

    /// A word of an instance's entry.
    fn number(&self, instance: InstanceId, offset: usize) -> Option<u32> {
        let mut number = [0; 4];
        let entry = instance.index() as usize * size_of::<InstanceState>();
        self.table.copy_out(entry + offset, &mut number).ok()?;
        Some(u32::from_ne_bytes(number))
    }
}

#[derive(Debug)]
struct SkMsgSender {
    tcp: OwnedFd,
    reasons: Option<Reasons>,
}

impl Sender for SkMsgSender {
    fn send(&self, batch: &[PacketDescriptor]) -> Result<(), SendError> {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match send(number(&self.tcp), batch.as_bytes(), flags) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                // The kernel has no memory for the message now: the same answer as a full queue.
                Err(Errno::EAGAIN | Errno::ENOMEM) => return Err(SendError::Refused(Refusal::Full)),
                // What SPROXY refuses it redirects to a socket that is shut down: see `ramet_common::map::NOWHERE`.
                Err(Errno::EPIPE) => {
                    return Err(match self.reasons.as_ref().and_then(Reasons::last) {
                        Some(refusal) => SendError::Refused(refusal),
                        None => SendError::RefusedUnexplained,
                    });
                }
                // The socket has no identity any more.
                Err(Errno::EACCES | Errno::ECONNRESET | Errno::ENOTCONN) => return Err(SendError::Closed),
                Err(errno) => return Err(SendError::System(errno.into())),
            }
        }
    }
}

#[derive(Debug)]
struct SkMsgReceiver {
    unix: OwnedFd,
    buffer: Box<[u8; BATCH_MAX * DESCRIPTOR_BYTES]>,
}

impl Receiver for SkMsgReceiver {
    fn receive(&mut self, wait: Wait, take: &mut dyn FnMut(PacketDescriptor)) -> Result<usize, ReceiveError> {
        let flags = match wait {
            Wait::Forever => MsgFlags::empty(),
            Wait::No => MsgFlags::MSG_DONTWAIT,
            Wait::For(timeout) => {
                if !readable_within(self.unix.as_fd(), timeout)? {
                    return Ok(0);
                }
                MsgFlags::MSG_DONTWAIT
            }
        };
        let bytes = loop {
            match recv(number(&self.unix), self.buffer.as_mut_slice(), flags) {
                Ok(0) => return Err(ReceiveError::Closed),
                Ok(bytes) => break bytes,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(0),
                Err(Errno::ECONNRESET) => return Err(ReceiveError::Closed),
                Err(errno) => return Err(ReceiveError::System(errno.into())),
            }
        };
        // SPROXY lets only whole descriptors through, so a remainder cannot be.
        for chunk in self.buffer[..bytes].chunks_exact(DESCRIPTOR_BYTES) {
            if let Ok(descriptor) = PacketDescriptor::read_from_bytes(chunk) {
                take(descriptor);
            }
        }
        Ok(bytes / DESCRIPTOR_BYTES)
    }

    fn arm(&mut self) -> Result<bool, ReceiveError> {
        // The socket is always armed: it becomes readable with each arrival.
        Ok(true)
    }

    fn disarm(&mut self) {}

    fn rejected(&self) -> u64 {
        0
    }
}

impl AsFd for SkMsgReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.unix.as_fd()
    }
}

/// Makes the thread that receives on the other end of `far_end`, or the next one that does, return: what it gets is no
/// descriptor of any kind.
pub fn wake(far_end: BorrowedFd<'_>) {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // Where there is no room there is something to receive, and without a receiver nobody to wake.
    let _ = send(number(&far_end), &[0; DESCRIPTOR_BYTES], flags);
}

/// Waits until `fd` is readable. False: the time is over.
pub(super) fn readable_within(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let milliseconds = timeout.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
