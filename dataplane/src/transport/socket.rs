//! The socket transport's lane: a unix seqpacket pair, for machines without BPF where shared rings are not wanted.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use ramet_common::{BATCH_MAX, DESCRIPTOR_BYTES, PacketDescriptor};
use ramet_shm::segment::{duplicate, number};
use zerocopy::{FromBytes, IntoBytes};

use super::lanes::{Broken, InLane, OutLane, PushError, Stamp};
use crate::endpoint::LinkEnd;

/// Makes a lane: the sender's end and the receiver's.
///
/// # Errors
/// `socketpair`'s error.
pub fn link() -> io::Result<(LinkEnd, LinkEnd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (sender, receiver) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    Ok((LinkEnd(vec![sender]), LinkEnd(vec![receiver])))
}

fn open(end: LinkEnd) -> io::Result<OwnedFd> {
    let [socket] = <[OwnedFd; 1]>::try_from(end.0)
        .map_err(|fds| io::Error::other(format!("a socket lane comes as 1 descriptor, not {}", fds.len())))?;
    Ok(socket)
}

pub(super) fn out_lane(end: LinkEnd) -> io::Result<Box<dyn OutLane>> {
    Ok(Box::new(SocketOut(open(end)?)))
}

pub(super) fn in_lane(end: LinkEnd) -> io::Result<(Box<dyn InLane>, OwnedFd)> {
    let socket = open(end)?;
    let bell = duplicate(&socket)?;
    Ok((Box::new(SocketIn(socket)), bell))
}

#[derive(Debug)]
struct SocketOut(OwnedFd);

impl OutLane for SocketOut {
    fn push(&mut self, batch: &[PacketDescriptor], stamp: Stamp) -> Result<Option<Arc<OwnedFd>>, PushError> {
        let mut buffer = [0u8; BATCH_MAX * DESCRIPTOR_BYTES];
        let mut bytes = 0;
        for (place, descriptor) in buffer.chunks_exact_mut(DESCRIPTOR_BYTES).zip(batch) {
            place.copy_from_slice(stamp.on(*descriptor).as_bytes());
            bytes += DESCRIPTOR_BYTES;
        }
        loop {
            match send(number(&self.0), &buffer[..bytes], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
                Ok(_) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOMEM | Errno::ENOBUFS) => return Err(PushError::Full),
                Err(_) => return Err(PushError::Broken),
            }
        }
    }
}

#[derive(Debug)]
struct SocketIn(OwnedFd);

impl InLane for SocketIn {
    fn pop(&mut self, most: usize, into: &mut Vec<PacketDescriptor>) -> Result<usize, Broken> {
        let mut taken = 0;
        let mut buffer = [0u8; BATCH_MAX * DESCRIPTOR_BYTES];
        // A packet is a batch and cannot be taken in part; `most` bounds how many packets are begun.
        while taken < most {
            let bytes = match recv(number(&self.0), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Broken),
                Ok(bytes) => bytes,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => return Err(Broken),
            };
            for chunk in buffer[..bytes].chunks_exact(DESCRIPTOR_BYTES) {
                if let Ok(descriptor) = PacketDescriptor::read_from_bytes(chunk) {
                    into.push(descriptor);
                    taken += 1;
                }
            }
        }
        Ok(taken)
    }

    fn ready(&self) -> bool {
        false
    }

    fn announce_wait(&self) {}

    fn awake(&self) {}
}
