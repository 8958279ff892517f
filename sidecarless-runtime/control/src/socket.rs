//! One message, and the descriptors that belong to it, per packet of a unix seqpacket socket.
//!
//! A child finds its end as standard input, the way inetd hands a connection to a service: nothing has to name a
//! descriptor number, and a program that is not started by a supervisor can tell.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PROTOCOL;

/// The longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 128 << 10;

/// The most descriptors that one message can carry.
pub const FDS_MAX: usize = 32;

/// How many bytes a message, or a part of one, takes. One that cannot be written takes more than is allowed.
pub fn message_bytes<M: Serialize>(message: &M) -> usize {
    postcard::to_extend(message, Vec::new()).map_or(usize::MAX, |bytes| bytes.len())
}

/// Why a conversation ends.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The other side has closed its end or died.
    #[error("the other side of the control socket is gone")]
    Closed,
    /// The other side does not read: its queue is full.
    #[error("the other side of the control socket does not read its messages")]
    Congested,
    /// The other side speaks another version.
    #[error("the other side speaks control protocol {found}, this build {PROTOCOL}: build both from the same release")]
    Version {
        /// What it speaks.
        found: u8,
    },
    /// The bytes are no message.
    #[error("the other side of the control socket sent something that is no message: {0}")]
    Malformed(String),
    /// A message is longer than allowed.
    #[error("a control message of {0} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// A system call failed.
    #[error("the control socket failed: {0}")]
    System(#[from] io::Error),
}

/// One end of a conversation.
#[derive(Debug)]
pub struct ControlSocket(OwnedFd);

impl ControlSocket {
    /// Both ends of a new conversation.
    ///
    /// # Errors
    /// `socketpair`'s error.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Takes over one end.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The end that the supervisor gave this process as standard input.
    ///
    /// # Errors
    /// Standard input is something else.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        match rustix::net::sockopt::socket_type(&stdin) {
            Ok(SocketType::SEQPACKET) => Ok(Self(stdin)),
            Ok(_) | Err(_) => Err(io::Error::other("standard input is not a ramet control socket")),
        }
    }

    /// Gives the descriptor up, to pass it to a child.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message with its descriptors, without waiting.
    ///
    /// # Errors
    /// [`ControlError`]; nothing was sent.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let bytes = postcard::to_extend(message, vec![PROTOCOL]).map_err(|e| ControlError::Malformed(e.to_string()))?;
        if bytes.len() > MESSAGE_BYTES_MAX || fds.len() > FDS_MAX {
            return Err(ControlError::TooLong(bytes.len()));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut ancillary, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return Err(ControlError::Congested),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(errno) => return Err(ControlError::System(errno.into())),
            }
        }
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ControlError> {
        match self.receive_with(RecvFlags::empty())? {
            Some(received) => Ok(received),
            None => Err(ControlError::System(io::ErrorKind::WouldBlock.into())),
        }
    }

    /// The next message if one is there.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn try_receive<M: DeserializeOwned>(&self) -> Result<Option<(M, Vec<OwnedFd>)>, ControlError> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    fn receive_with<M: DeserializeOwned>(&self, flags: RecvFlags) -> Result<Option<(M, Vec<OwnedFd>)>, ControlError> {
        let mut bytes = vec![0u8; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            match recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)
            {
                Ok(received) => break received,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::CONNRESET) => return Err(ControlError::Closed),
                Err(errno) => return Err(ControlError::System(errno.into())),
            }
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        match bytes[..received.bytes].split_first() {
            None => Err(ControlError::Closed),
            Some((&PROTOCOL, body)) => {
                let message = postcard::from_bytes(body).map_err(|e| ControlError::Malformed(e.to_string()))?;
                Ok(Some((message, fds)))
            }
            Some((&found, _)) => Err(ControlError::Version { found }),
        }
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Read, Write};

    #[test]
    fn messages_keep_their_borders_and_their_descriptors() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let (mut reader, writer) = io::pipe().expect("pipe");
        one.send(&"first".to_owned(), &[]).expect("sent");
        one.send(&"second".to_owned(), &[writer.as_fd()]).expect("sent");
        drop(writer);
        let (first, fds): (String, _) = other.receive().expect("first");
        assert_eq!((first.as_str(), fds.len()), ("first", 0));
        let (second, mut fds): (String, _) = other.receive().expect("second");
        assert_eq!((second.as_str(), fds.len()), ("second", 1));
        let mut writer = std::fs::File::from(fds.remove(0));
        writer.write_all(b"x").expect("the descriptor works");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        assert!(other.try_receive::<String>().expect("empty").is_none());
        drop(one);
        assert!(matches!(other.receive::<String>(), Err(ControlError::Closed)));
    }

    #[test]
    fn another_version_is_named() {
        let (one, other) = ControlSocket::pair().expect("pair");
        rustix::net::send(&one.0, &[PROTOCOL + 1, 0], SendFlags::empty()).expect("sent");
        assert!(matches!(other.receive::<String>(), Err(ControlError::Version { .. })));
    }

    proptest! {
        #[test]
        fn any_packet_is_a_message_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let (one, other) = ControlSocket::pair().expect("pair");
            rustix::net::send(&one.0, &bytes, SendFlags::empty()).expect("sent");
            let _ = other.receive::<crate::Numbered<crate::instance::ToInstance>>();
        }
    }
}
