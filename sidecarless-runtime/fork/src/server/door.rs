//! Where connections are until they have proved that they know a key. Nobody who has not gets a thread, or an answer
//! that depends on which seeds there are.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::session::Session;
use super::{GREETING_TIMEOUT, GUESTS_MAX, LINKS_MAX, LINKS_PER_SEED_MAX, Means, Stop, keep_alive};
use crate::seeds::{Found, Key, Link, Refusal, Seeds, random};
use crate::wire::{self, Challenge, HELLO_BYTES, Hello, Kind, PROOF_BYTES, Role};

/// How long nobody is let in when there is no room for a connection.
const PAUSE: Duration = Duration::from_millis(20);
/// How many are let in before it is looked what those do that are in already.
const ACCEPTS_MAX: usize = 64;

/// The thread at the door.
pub(super) struct Door {
    listener: TcpListener,
    seeds: Arc<Seeds>,
    means: Option<Arc<dyn Means>>,
    stop: Arc<Stop>,
    /// The one that has been here longest is the first.
    guests: VecDeque<Guest>,
    sessions: Vec<JoinHandle<()>>,
}

/// A connection that has proved nothing yet.
struct Guest {
    stream: TcpStream,
    until: Instant,
    said: [u8; HELLO_BYTES],
    said_bytes: usize,
    /// What it was asked. None: it has not said whose memory it wants.
    challenge: Option<Challenge>,
}

/// What becomes of a guest.
enum Turn {
    Stays,
    /// It is to prove that it knows a key by this.
    Proves(Challenge, [u8; PROOF_BYTES]),
    Goes,
}

impl Door {
    pub(super) const fn new(
        listener: TcpListener,
        seeds: Arc<Seeds>,
        means: Option<Arc<dyn Means>>,
        stop: Arc<Stop>,
    ) -> Self {
        Self { listener, seeds, means, stop, guests: VecDeque::new(), sessions: Vec::new() }
    }

    /// Serves until it is told to stop; then no connection is left.
    pub(super) fn run(mut self) -> io::Result<()> {
        let outcome = self.serve();
        // Also those that a failed wait would leave behind.
        self.stop.say();
        for session in self.sessions {
            let _ = session.join();
        }
        outcome
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut is_full = false;
        loop {
            let next = self.guests.front().map(|guest| guest.until.saturating_duration_since(Instant::now()));
            let timeout = if is_full { Some(next.map_or(PAUSE, |next| next.min(PAUSE))) } else { next };
            let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
            let mut events = Vec::with_capacity(2 + self.guests.len());
            events.push(PollFd::new(&self.stop.event, PollFlags::IN));
            let accepts = if is_full { PollFlags::empty() } else { PollFlags::IN };
            events.push(PollFd::new(&self.listener, accepts));
            events.extend(self.guests.iter().map(|guest| PollFd::new(&guest.stream, PollFlags::IN)));
            match poll(&mut events, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let ready: Vec<bool> = events.iter().map(|event| !event.revents().is_empty()).collect();
            if ready[0] {
                return Ok(());
            }
            self.hear(&ready[2..]);
            self.sessions.retain(|session| !session.is_finished());
            is_full = self.let_in();
        }
    }

    /// Hears those that have said something, and sees off those that have said too little for too long.
    fn hear(&mut self, ready: &[bool]) {
        let now = Instant::now();
        let guests = std::mem::take(&mut self.guests);
        for (mut guest, is_ready) in guests.into_iter().zip(ready) {
            let turn = if *is_ready { guest.hear() } else { Turn::Stays };
            match turn {
                Turn::Stays if guest.until > now => self.guests.push_back(guest),
                Turn::Stays | Turn::Goes => {}
                Turn::Proves(challenge, proof) => self.admit(guest.stream, &challenge, &proof),
            }
        }
    }

    /// True: there is no room for one more connection just now.
    fn let_in(&mut self) -> bool {
        for _ in 0..ACCEPTS_MAX {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // One that has gone before it was let in.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection to the page server");
                    self.guests.pop_front();
                    return true;
                }
            };
            if stream.set_nonblocking(true).and_then(|()| keep_alive(stream.as_fd())).is_err() {
                continue;
            }
            if self.guests.len() == GUESTS_MAX {
                self.guests.pop_front();
            }
            let until = Instant::now() + GREETING_TIMEOUT;
            self.guests.push_back(Guest { stream, until, said: [0; HELLO_BYTES], said_bytes: 0, challenge: None });
        }
        false
    }

    /// Lets a guest read the seed, if it has proved that it may.
    fn admit(&mut self, stream: TcpStream, challenge: &Challenge, proof: &[u8; PROOF_BYTES]) {
        let opened = self.verify(challenge, proof).and_then(|link| {
            if self.sessions.len() >= LINKS_MAX {
                return Err(Refusal::Busy);
            }
            Ok((self.seeds.open_reader(&link.0)?, link))
        });
        let (reader, link) = match opened {
            Ok(opened) => opened,
            Err(refusal) => return refuse(&stream, refusal),
        };
        let proof = challenge.proof(&link.0.key, Role::Server);
        let means = self.means.clone();
        let session = Session::new(stream, link, reader, means, Arc::clone(&self.stop));
        match thread::Builder::new().name("ramet-link".to_owned()).spawn(move || session.run(&proof)) {
            Ok(session) => self.sessions.push(session),
            // The connection ends, and whoever wants the seed tries again.
            Err(error) => tracing::warn!(%error, "cannot serve a connection to the page server"),
        }
    }

    /// Which seed, if the proof is of its key. An unknown seed takes as long as a wrong key.
    fn verify(&self, challenge: &Challenge, proof: &[u8; PROOF_BYTES]) -> Result<Link, Refusal> {
        let nobodys = Key::random().map_err(|_| Refusal::Stranger)?;
        let found = self.seeds.find(challenge.hello.handle);
        let key = match &found {
            Found::Kept(seed) => &seed.key,
            Found::Ended(key, _) => key,
            Found::Nothing => &nobodys,
        };
        let is_proof = challenge.is_proof(key, Role::Client, proof);
        match found {
            Found::Kept(seed) if is_proof => Link::open(seed, LINKS_PER_SEED_MAX),
            Found::Ended(_, ending) if is_proof => Err(Refusal::Ended(ending)),
            _ => Err(Refusal::Stranger),
        }
    }
}

impl Guest {
    fn hear(&mut self) -> Turn {
        match self.challenge {
            None => match self.take::<HELLO_BYTES>() {
                Some(Some(said)) => self.ask(&said),
                Some(None) => Turn::Stays,
                None => Turn::Goes,
            },
            Some(challenge) => match self.take::<PROOF_BYTES>() {
                Some(Some(proof)) => Turn::Proves(challenge, proof),
                Some(None) => Turn::Stays,
                None => Turn::Goes,
            },
        }
    }

    /// Receives so many bytes and no more. `Some(None)`: not all have come yet; `None`: they will not.
    fn take<const N: usize>(&mut self) -> Option<Option<[u8; N]>> {
        let room = &mut self.said[self.said_bytes..N];
        match (&self.stream).read(room) {
            Ok(0) => return None,
            Ok(count) => self.said_bytes += count,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return None,
        }
        if self.said_bytes < N {
            return Some(None);
        }
        self.said_bytes = 0;
        Some(self.said.first_chunk().copied())
    }

    fn ask(&mut self, said: &[u8; HELLO_BYTES]) -> Turn {
        let (hello, is_known) = match Hello::decode(said) {
            Ok(hello) => (hello, true),
            // It hears which version is spoken here, and goes.
            Err(_) => (Hello { handle: crate::seeds::Handle::from_bytes([0; 16]), nonce: [0; 32] }, false),
        };
        let Ok(nonce) = random() else { return Turn::Goes };
        let challenge = Challenge { hello, nonce };
        // The first bytes into an empty socket are taken whole.
        let is_told = (&self.stream).write_all(&challenge.encode()).is_ok();
        self.challenge = Some(challenge);
        if is_told && is_known { Turn::Stays } else { Turn::Goes }
    }
}

/// Says why not, as far as the socket takes it at once, and ends the connection.
pub(super) fn refuse(stream: &TcpStream, refusal: Refusal) {
    let mut bytes = Vec::new();
    wire::push_frame(&mut bytes, Kind::Error, 0, &wire::encode_refusal(refusal));
    let mut stream = stream;
    let _ = stream.write_all(&bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}
