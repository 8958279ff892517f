//! How a reader is let in: both sides prove that they know the key, and what the reader needs comes at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{CONNECT_TIMEOUT, ConnectError};
use crate::seeds::{Handle, Key, random};
use crate::server::keep_alive;
use crate::wire::{
    self, CHALLENGE_BYTES, Challenge, Filled, Hello, Inbox, Kind, PROOF_BYTES, Role, WELCOME_BYTES_MAX, WireError,
};

/// How much of a welcome has room at once: a descriptor, and the first pages of a usual process.
const WELCOME_BYTES_USUAL: usize = 2 << 20;
/// For how long a near host's answers are looked for without sleeping: to be woken takes as long as such an answer.
const SPIN: Duration = Duration::from_micros(500);

/// How long an answer is waited for, and how.
struct Patience {
    deadline: Instant,
    spins_until: Instant,
}

/// What a reader is given.
pub(super) struct Welcome {
    pub(super) descriptor: Vec<u8>,
    /// What came after it.
    pub(super) inbox: Inbox,
}

/// Why one is not let in, without who.
enum Failure {
    Link(io::Error),
    Wire(WireError),
    Refused(crate::seeds::Refusal),
    Impostor,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Link(error)
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// Proves the knowledge of the key, and wants the same.
pub(super) fn greet(
    stream: &TcpStream,
    address: SocketAddr,
    handle: Handle,
    key: &Key,
) -> Result<Welcome, ConnectError> {
    converse(stream, handle, key).map_err(|failure| match failure {
        Failure::Link(source) => ConnectError::Link { address, source },
        Failure::Wire(WireError::Damaged) => ConnectError::Damaged(address),
        Failure::Wire(source) => ConnectError::Wire { address, source },
        Failure::Refused(refusal) => ConnectError::Refused { address, refusal },
        Failure::Impostor => ConnectError::Impostor(address),
    })
}

fn converse(mut stream: &TcpStream, handle: Handle, key: &Key) -> Result<Welcome, Failure> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    stream.set_nonblocking(true)?;
    keep_alive(stream.as_fd())?;
    let hello = Hello { handle, nonce: random()? };
    // The first bytes into an empty socket are taken whole.
    stream.write_all(&hello.encode())?;
    let mut patience = Patience::until(deadline);
    let challenge = Challenge::decode(hello, &receive::<CHALLENGE_BYTES>(stream, &mut patience)?)?;
    stream.write_all(&challenge.proof(key, Role::Client))?;

    let mut inbox = Inbox::with_room(WELCOME_BYTES_USUAL, WELCOME_BYTES_MAX);
    loop {
        match inbox.fill(&mut stream)? {
            Filled::End => return Err(Failure::Link(io::ErrorKind::UnexpectedEof.into())),
            Filled::NotYet => patience.wait(stream)?,
            Filled::Some => {}
        }
        let Some(frame) = inbox.next()? else { continue };
        let descriptor = match frame.kind {
            Kind::Welcome => welcome(frame.payload, &challenge, key)?,
            Kind::Error => return Err(Failure::Refused(wire::decode_refusal(frame.payload)?)),
            _ => return Err(WireError::Senseless("an answer of another kind").into()),
        };
        return Ok(Welcome { descriptor, inbox });
    }
}

/// Reads the first answer, if who gives it knows the key.
fn welcome(payload: &[u8], challenge: &Challenge, key: &Key) -> Result<Vec<u8>, Failure> {
    const SENSELESS: WireError = WireError::Senseless("a welcome that ends too soon");
    let (proof, descriptor) = payload.split_first_chunk::<PROOF_BYTES>().ok_or(SENSELESS)?;
    if !challenge.is_proof(key, Role::Server, proof) {
        return Err(Failure::Impostor);
    }
    Ok(descriptor.to_vec())
}

fn receive<const N: usize>(mut stream: &TcpStream, patience: &mut Patience) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut come = 0;
    while come < N {
        match stream.read(&mut bytes[come..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => come += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => patience.wait(stream)?,
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

impl Patience {
    fn until(deadline: Instant) -> Self {
        Self { deadline, spins_until: Instant::now() + SPIN }
    }

    /// Waits until there may be something to receive.
    fn wait(&mut self, stream: &TcpStream) -> io::Result<()> {
        if Instant::now() < self.spins_until {
            // The server may have to run here.
            std::thread::yield_now();
            return Ok(());
        }
        wait(stream, false, self.deadline)
    }
}

/// Waits until there is something to receive, or room to send if that is wanted.
pub(super) fn wait(stream: &TcpStream, to_send: bool, deadline: Instant) -> io::Result<()> {
    let events = if to_send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    match poll(&mut [PollFd::new(stream, events)], timeout.as_ref()) {
        Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer")),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
