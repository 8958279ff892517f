//! One message, and the descriptors that belong to it, per packet of a unix seqpacket socket.
//!
//! A packet is the protocol's version, a byte for its form, and then, by that form,
//!
//! - `0`: the message;
//! - `1`: the message's length in bytes (little-endian, 64 bits), while the message is in a sealed memfd, the last of
//!   the descriptors. Users of the socket never see that one.
//!
//! A child finds its end as standard input, the way inetd hands a connection to a service: nothing has to name a
//! descriptor number, and a program that is not started by a supervisor can tell.

mod sealed;

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::PROTOCOL;

/// The longest message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// The longest packet, in bytes; a socket's default buffer takes it. What is longer travels in a memfd.
pub const PACKET_BYTES_MAX: usize = 128 << 10;

/// The most descriptors that one message can carry.
pub const FDS_MAX: usize = 32;

/// The form of a packet that is the message.
const INLINE: u8 = 0;
/// The form of a packet that announces the message.
const SEALED: u8 = 1;

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
    /// A message carries more descriptors than allowed.
    #[error("a control message with {0} descriptors carries more than {FDS_MAX}")]
    TooManyFds(usize),
    /// A system call failed.
    #[error("the control socket failed: {0}")]
    System(#[from] io::Error),
}

/// Whether messages that do not fit a packet are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Long {
    Welcome,
    Refused,
}

/// One end of a conversation.
#[derive(Debug)]
pub struct ControlSocket<S = OwnedFd> {
    fd: S,
    long: Long,
}

impl ControlSocket {
    /// Both ends of a new conversation.
    ///
    /// # Errors
    /// `socketpair`'s error.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::from_fd(one), Self::from_fd(other)))
    }

    /// Takes over one end.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, long: Long::Welcome }
    }

    /// The same end, for a far side that is not trusted and never has much to say: what does not fit a packet is
    /// refused unread, so that nobody makes this process copy megabytes.
    #[must_use]
    pub fn refusing_long(self) -> Self {
        Self { long: Long::Refused, ..self }
    }

    /// The end that the supervisor gave this process as standard input.
    ///
    /// # Errors
    /// Standard input is something else.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin().as_fd().try_clone_to_owned()?;
        match rustix::net::sockopt::socket_type(&stdin) {
            Ok(SocketType::SEQPACKET) => Ok(Self::from_fd(stdin)),
            Ok(_) | Err(_) => Err(io::Error::other("standard input is not a ramet control socket")),
        }
    }

    /// Gives the descriptor up, to pass it to a child.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }
}

impl ControlSocket<io::Stdin> {
    /// Whatever is standard input at the time of each call: in a copy of this process it is another end than here.
    #[must_use]
    pub fn at_stdin() -> Self {
        Self { fd: io::stdin(), long: Long::Welcome }
    }
}

impl<S: AsFd> ControlSocket<S> {
    /// Sends a message with its descriptors, without waiting.
    ///
    /// # Errors
    /// [`ControlError`]; nothing was sent.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let header = vec![PROTOCOL, INLINE];
        let packet = postcard::to_extend(message, header).map_err(|e| ControlError::Malformed(e.to_string()))?;
        if fds.len() > FDS_MAX {
            return Err(ControlError::TooManyFds(fds.len()));
        }
        if packet.len() <= PACKET_BYTES_MAX {
            return self.send_packet(&packet, fds);
        }
        let message = packet.get(2..).unwrap_or_default();
        if message.len() > MESSAGE_BYTES_MAX {
            return Err(ControlError::TooLong(message.len()));
        }
        let memfd = sealed::seal(message)?;
        let mut packet = vec![PROTOCOL, SEALED];
        packet.extend((message.len() as u64).to_le_bytes());
        self.send_packet(&packet, &[fds, &[memfd.as_fd()]].concat())
    }

    fn send_packet(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ControlError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match sendmsg(&self.fd, &[IoSlice::new(packet)], &mut ancillary, flags) {
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
        let mut bytes = vec![0u8; PACKET_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = loop {
            match recvmsg(&self.fd, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags) {
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
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            let why = "it is longer or has more descriptors than it may, or no more files can be opened here";
            return Err(ControlError::Malformed(why.to_owned()));
        }
        let message = self.parse(&bytes[..received.bytes], &mut fds)?;
        Ok(Some((message, fds)))
    }

    /// The message of a packet. Takes the descriptor that is a part of it out of `fds`.
    fn parse<M: DeserializeOwned>(&self, packet: &[u8], fds: &mut Vec<OwnedFd>) -> Result<M, ControlError> {
        let malformed = |why: &str| ControlError::Malformed(why.to_owned());
        let decode = |body: &[u8]| postcard::from_bytes(body).map_err(|e| ControlError::Malformed(e.to_string()));
        match packet {
            [] => Err(ControlError::Closed),
            [PROTOCOL, INLINE, body @ ..] => decode(body),
            [PROTOCOL, SEALED, ..] if self.long == Long::Refused => Err(malformed("it is too long for its sender")),
            [PROTOCOL, SEALED, length @ ..] => {
                let length = length.try_into().map_err(|_| malformed("it announces no length"))?;
                let memfd = fds.pop().ok_or_else(|| malformed("its long part is missing"))?;
                decode(&sealed::open(memfd, u64::from_le_bytes(length))?)
            }
            [PROTOCOL, ..] => Err(malformed("it has no known form")),
            [found, ..] => Err(ControlError::Version { found: *found }),
        }
    }
}

impl<S: AsFd> AsFd for ControlSocket<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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
        rustix::net::send(&one.fd, &[PROTOCOL + 1, 0], SendFlags::empty()).expect("sent");
        assert!(matches!(other.receive::<String>(), Err(ControlError::Version { .. })));
    }

    #[test]
    fn a_long_message_keeps_its_descriptors() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let message: Vec<u32> = (0..1 << 18).map(|number| number * 9973).collect();
        let (reader, writer) = io::pipe().expect("pipe");
        one.send(&message, &[writer.as_fd()]).expect("sent");
        one.send(&"after".to_owned(), &[]).expect("sent");
        let (heard, mut fds): (Vec<u32>, _) = other.receive().expect("heard");
        assert!(message_bytes(&heard) > 1 << 20 && heard == message);
        assert_eq!(fds.len(), 1, "the memfd is no business of the receiver's");
        std::fs::File::from(fds.remove(0)).write_all(b"x").expect("the descriptor works");
        drop((reader, writer));
        assert_eq!(other.receive::<String>().expect("heard").0, "after");
    }

    #[test]
    fn every_length_around_the_packets_arrives() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let limit = PACKET_BYTES_MAX - 2;
        // The text's length takes three bytes itself.
        for bytes in limit - 6..limit + 6 {
            let message = "x".repeat(bytes);
            let fds = vec![one.as_fd(); FDS_MAX];
            one.send(&message, &fds).expect("sent");
            let (heard, fds): (String, _) = other.receive().expect("heard");
            assert!(heard == message && fds.len() == FDS_MAX, "{bytes}");
        }
    }

    #[test]
    fn nothing_is_sent_of_what_is_too_much() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let most = "x".repeat(MESSAGE_BYTES_MAX - 4);
        one.send(&most, &[]).expect("the longest");
        assert!(other.receive::<String>().expect("heard").0 == most);
        let error = one.send(&(most + "x"), &[]).expect_err("one byte more");
        assert!(matches!(error, ControlError::TooLong(bytes) if bytes == MESSAGE_BYTES_MAX + 1), "{error}");
        assert!(error.to_string().contains("16777217 bytes is longer than 16777216"), "{error}");
        let fds = vec![one.as_fd(); FDS_MAX + 1];
        assert!(matches!(one.send(&0u8, &fds), Err(ControlError::TooManyFds(33))));
        assert!(other.try_receive::<String>().expect("empty").is_none());
    }

    /// Says that a message of `length` bytes is in the last of `fds`.
    fn announce(socket: &ControlSocket, length: &[u8], fds: &[BorrowedFd<'_>]) {
        socket.send_packet(&[&[PROTOCOL, SEALED], length].concat(), fds).expect("sent");
    }

    #[test]
    fn a_long_message_that_is_not_as_announced_is_refused() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let text = postcard::to_extend(&"hello", Vec::new()).expect("encoded");
        let sealed = sealed::seal(&text).expect("sealed");
        let unsealed = memfd::MemfdOptions::default().allow_sealing(true).create("test").expect("a memfd").into_file();
        (&unsealed).write_all(&text).expect("written");
        announce(&one, &6u64.to_le_bytes(), &[sealed.as_fd()]);
        assert_eq!(other.receive::<String>().expect("as announced").0, "hello");
        let six = 6u64.to_le_bytes();
        let lies: [(&[u8], &[BorrowedFd<'_>], &str); 7] = [
            (&5u64.to_le_bytes(), &[sealed.as_fd()], "has 6 bytes where 5"),
            (&u64::MAX.to_le_bytes(), &[sealed.as_fd()], "more than 16777216"),
            (&six, &[unsealed.as_fd()], "can still be changed"),
            (&six, &[one.as_fd()], "no memfd"),
            (&six, &[], "missing"),
            (&six[..7], &[sealed.as_fd()], "no length"),
            (&[six, six].concat(), &[sealed.as_fd()], "no length"),
        ];
        for (length, fds, part) in lies {
            announce(&one, length, fds);
            let Err(ControlError::Malformed(why)) = other.receive::<String>() else { panic!("{part}") };
            assert!(why.contains(part), "{why}");
        }
        let other = other.refusing_long();
        announce(&one, &six, &[sealed.as_fd()]);
        assert!(matches!(other.receive::<String>(), Err(ControlError::Malformed(_))));
    }

    #[test]
    fn a_packet_that_is_cut_off_is_refused() {
        let (one, other) = ControlSocket::pair().expect("pair");
        let mut packet = vec![b'x'; PACKET_BYTES_MAX + 1];
        packet[..2].copy_from_slice(&[PROTOCOL, INLINE]);
        rustix::net::send(&one.fd, &packet, SendFlags::empty()).expect("sent");
        assert!(matches!(other.receive::<String>(), Err(ControlError::Malformed(why)) if why.contains("longer")));
    }

    proptest! {
        #[test]
        fn any_packet_is_a_message_or_an_error(
            form in prop_oneof![Just(vec![PROTOCOL, INLINE]), Just(vec![PROTOCOL, SEALED]), Just(Vec::new())],
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
        ) {
            let (one, other) = ControlSocket::pair().expect("pair");
            one.send_packet(&[form, bytes].concat(), &[]).expect("sent");
            let _ = other.receive::<crate::Numbered<crate::instance::ToInstance>>();
        }
    }
}
