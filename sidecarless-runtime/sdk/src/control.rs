//! The conversation with the supervisor after joining, and the watch over the threads that serve.
//!
//! Transitions: serving → stopping at `Stop`; in both, requests are served as they come. While stopping, each time that
//! nothing is left is reported by `Drained`. Serving → freezing at `Freeze` → frozen when every thread that serves has
//! ended → serving at `Thaw`; in a copy, frozen → joining at `Reborn`. End of file ends the process.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ramet_control::Numbered;
use ramet_control::instance::{Direction, FromInstance, Link, ToInstance};
use ramet_control::socket::{ControlError, ControlSocket};
use ramet_dataplane::endpoint::{LinkEnd, Links};

use crate::crew::Crew;
use crate::inbox::Rhythm;
use crate::instance::Instance;
use crate::serve::{Home, ServeError, release_stdin};

/// How often the watch looks while there is something to see. It bounds what a request can lose to a handler that is
/// unexpectedly slow.
const TICK: Duration = Duration::from_millis(10);

/// How long the supervisor may leave its socket unread before it counts as gone.
const CONGESTED_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Stopping,
}

/// Says that the place has been taken and that requests are welcome.
pub(crate) fn welcome(instance: &Instance, sequence: u64) -> Result<(), ControlError> {
    say(instance, &FromInstance::Applied { sequence })?;
    say(instance, &FromInstance::Ready)
}

/// What follows when the conversation is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The supervisor is gone.
    End,
    /// This is a copy of the process that was in conversation, as a message of that number on standard input says.
    Rebirth { sequence: u64 },
}

/// A conversation, and how far the instance is.
struct Following<'a, C> {
    instance: &'a Arc<Instance>,
    crew: &'a mut C,
    home: Home,
    phase: Phase,
    /// Until when everybody has to have left, in a recess.
    freezing: Option<Instant>,
}

/// Does what the supervisor says until it is gone, and watches meanwhile.
pub(crate) fn follow(instance: &Arc<Instance>, crew: &mut impl Crew, home: Home) -> Result<Next, ServeError> {
    Following { instance, crew, home, phase: Phase::Serving, freezing: None }.run()
}

impl<C: Crew> Following<'_, C> {
    fn run(mut self) -> Result<Next, ServeError> {
        let instance = self.instance;
        let mut rhythm = Rhythm::Tick;
        loop {
            let rang = wait(instance, rhythm)?;
            if rang.control {
                match instance.control.try_receive::<Numbered<ToInstance>>() {
                    Ok(Some((numbered, fds))) => self.take(numbered, fds)?,
                    Ok(None) => {}
                    Err(ControlError::Closed) => return Ok(Next::End),
                    Err(error) => return Err(error.into()),
                }
            }
            if rang.bell {
                // Reading it silences it; an error means that it was not ringing.
                let _ = instance.bell.read();
            }
            if instance.is_closed() {
                return Err(ServeError::Closed);
            }
            rhythm = instance.watch();
            if let Some(deadline) = self.freezing {
                rhythm = Rhythm::Tick;
                if let Some(next) = self.advance_freezing(deadline)? {
                    return Ok(next);
                }
            }
            if self.phase == Phase::Stopping {
                rhythm = Rhythm::Tick;
                if instance.has_drained() {
                    say(instance, &FromInstance::Drained)?;
                }
            }
        }
    }

    /// Does what one message says.
    fn take(&mut self, numbered: Numbered<ToInstance>, fds: Vec<OwnedFd>) -> Result<(), ServeError> {
        let Numbered { sequence, message } = numbered;
        match message {
            ToInstance::Stop => self.phase = Phase::Stopping,
            ToInstance::Freeze { patience } => {
                say(self.instance, &FromInstance::Applied { sequence })?;
                return self.begin_freezing(patience, fds);
            }
            message => apply(self.instance, message, fds),
        }
        Ok(say(self.instance, &FromInstance::Applied { sequence })?)
    }

    fn begin_freezing(&mut self, patience: Duration, fds: Vec<OwnedFd>) -> Result<(), ServeError> {
        let refusal = match (self.home, self.phase) {
            (Home::Shared, _) => "it is not alone in its process",
            (Home::Own, Phase::Stopping) => "it is ending",
            (Home::Own, Phase::Serving) => {
                self.freezing = Some(Instant::now() + patience);
                self.instance.call_recess(fds.into_iter().next());
                return Ok(());
            }
        };
        Ok(say(self.instance, &FromInstance::Unfrozen { why: refusal.to_owned() })?)
    }

    /// Freezes once everybody has left, or gives up.
    fn advance_freezing(&mut self, deadline: Instant) -> Result<Option<Next>, ServeError> {
        let instance = self.instance;
        let is_empty = instance.left_seats() == self.crew.seats(instance).len();
        if !is_empty && Instant::now() < deadline {
            return Ok(None);
        }
        self.freezing = None;
        // What the control thread itself could not send waits for a thread that can be patient.
        if !is_empty || !instance.outbox.is_empty() {
            self.resume()?;
            let why = if is_empty { "an answer could not be sent" } else { "a request is still in service" };
            say(instance, &FromInstance::Unfrozen { why: why.to_owned() })?;
            return Ok(None);
        }
        let left = self.crew.seats(instance);
        self.crew.part(&left)?;
        self.freeze()
    }

    /// Lets those who have left come back.
    fn resume(&mut self) -> Result<(), ServeError> {
        let left = self.instance.end_recess();
        self.crew.part(&left)?;
        Ok(self.crew.start(self.instance, &left)?)
    }

    /// Nobody serves. Waits for what comes next in this process, and in each copy of it, where standard input is
    /// another one. `None`: this process goes on.
    fn freeze(&mut self) -> Result<Option<Next>, ServeError> {
        let instance = self.instance;
        // What was printed is said here, and not once more in each copy.
        let _ = io::stdout().flush();
        nix::unistd::dup2_stdin(&instance.control).map_err(io::Error::from)?;
        let stdin = ControlSocket::at_stdin();
        say(instance, &FromInstance::Frozen)?;
        loop {
            match stdin.receive::<Numbered<ToInstance>>() {
                Ok((Numbered { sequence, message: ToInstance::Reborn }, _)) => {
                    return Ok(Some(Next::Rebirth { sequence }));
                }
                Ok((Numbered { sequence, message: ToInstance::Thaw }, _)) => {
                    release_stdin()?;
                    self.resume()?;
                    say(instance, &FromInstance::Applied { sequence })?;
                    return Ok(None);
                }
                Ok((numbered, fds)) => self.take(numbered, fds)?,
                Err(ControlError::Closed) => return Ok(Some(Next::End)),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn apply(instance: &Instance, message: ToInstance, fds: Vec<OwnedFd>) {
    let applied = match message {
        ToInstance::Link(link) => match &instance.links {
            Some(links) => add_link(&**links, link, LinkEnd(fds)),
            None => Err(io::Error::other("this transport has no lanes")),
        },
        ToInstance::Unlink { peer } => {
            if let Some(links) = &instance.links {
                links.remove(peer);
            }
            Ok(())
        }
        ToInstance::Routes { added, retired } => {
            instance.change_routes(added, &retired);
            Ok(())
        }
        ToInstance::Refusal { reason } => {
            instance.refusals.answered(reason);
            Ok(())
        }
        // Said of a recess, these have been taken before.
        ToInstance::Stop | ToInstance::Freeze { .. } | ToInstance::Thaw => Ok(()),
        ToInstance::Join(_) | ToInstance::Reborn => Err(io::Error::other("this instance has joined already")),
    };
    if let Err(error) = applied {
        instance.log(format_args!("the supervisor's message had no effect: {error}"));
    }
}

fn add_link(links: &dyn Links, link: Link, end: LinkEnd) -> io::Result<()> {
    match link.direction {
        Direction::Outgoing { capacity } => links.add_outgoing(link.peer, link.function, capacity, end),
        Direction::Incoming => links.add_incoming(link.peer, link.function, end),
        Direction::Retiring => {
            links.retire(link.peer);
            Ok(())
        }
        Direction::Closed => {
            links.close(link.peer);
            Ok(())
        }
    }
}

/// Sends, waiting for a supervisor that is slow to read.
fn say(instance: &Instance, message: &FromInstance) -> Result<(), ControlError> {
    match instance.control.send(message, &[]) {
        Err(ControlError::Congested) => {
            let mut fds = [PollFd::new(instance.control.as_fd(), PollFlags::POLLOUT)];
            // Whatever this wait says, the second send knows better.
            let _ = poll(&mut fds, timeout(CONGESTED_MAX));
            instance.control.send(message, &[])
        }
        sent => sent,
    }
}

struct Rang {
    control: bool,
    bell: bool,
}

fn wait(instance: &Instance, rhythm: Rhythm) -> Result<Rang, ServeError> {
    let mut fds = [
        PollFd::new(instance.control.as_fd(), PollFlags::POLLIN),
        PollFd::new(instance.bell.as_fd(), PollFlags::POLLIN),
    ];
    let patience = match rhythm {
        Rhythm::Tick => timeout(TICK),
        Rhythm::Sleep => PollTimeout::NONE,
    };
    match poll(&mut fds, patience) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(ServeError::Start(errno.into())),
    }
    let has_come = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    Ok(Rang { control: has_come(&fds[0]), bell: has_come(&fds[1]) })
}

fn timeout(time: Duration) -> PollTimeout {
    PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
}
