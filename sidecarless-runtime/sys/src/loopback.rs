//! What a child does in a network of its own before it executes its program: it switches the loopback device on, and
//! makes sockets there that its parent can connect with, which no process outside of that network could make.
//!
//! All of it runs between fork and exec (C1).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with, socketpair,
};

/// How many sockets travel at a time.
const BATCH: usize = 32;

/// The two ends of the way that sockets take from a child to its parent.
pub(crate) fn way() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Switches the loopback device of this process's network on (netdevice(7)).
pub(crate) fn switch_on() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: O1: all zeros are a request without a name.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (place, byte) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: O1.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// Makes `count` unconnected TCP sockets and sends them away, a batch at a time.
pub(crate) fn hand_out(count: u32, way: &OwnedFd) -> Result<(), Errno> {
    let mut left = count as usize;
    while left > 0 {
        let mut batch = [const { None::<OwnedFd> }; BATCH];
        let wanted = left.min(BATCH);
        for place in &mut batch[..wanted] {
            *place = Some(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?);
        }
        // A descriptor that is always there fills the places that stay empty, and is never sent.
        let mut borrowed = [way.as_fd(); BATCH];
        for (place, socket) in borrowed.iter_mut().zip(batch.iter().flatten()) {
            *place = socket.as_fd();
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed[..wanted]));
        sendmsg(way, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        left -= wanted;
    }
    Ok(())
}

/// Takes what a child has handed out. Called in the parent, once the child has gone on.
pub(crate) fn collect(way: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut byte = [0];
        let received = match recvmsg(way, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
            Ok(received) => received.bytes,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => return Ok(sockets),
            Err(errno) => return Err(errno.into()),
        };
        let before = sockets.len();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                sockets.extend(fds);
            }
        }
        if received == 0 || sockets.len() == before {
            return Ok(sockets);
        }
    }
}
