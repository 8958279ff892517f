//! The conversation with the supervisor after joining, and the watch over the threads that serve.
//!
//! Transitions: serving → stopping at `Stop`; in both, requests are served as they come. While stopping, each time that
//! nothing is left is reported by `Drained`. End of file ends the process.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ramet_control::Numbered;
use ramet_control::instance::{Direction, FromInstance, Link, ToInstance};
use ramet_control::socket::ControlError;
use ramet_dataplane::endpoint::{LinkEnd, Links};

use crate::inbox::Rhythm;
use crate::instance::Instance;
use crate::serve::ServeError;

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

/// Does what the supervisor says until it is gone, and watches meanwhile.
pub(crate) fn follow(instance: &Instance) -> Result<(), ServeError> {
    let mut phase = Phase::Serving;
    let mut rhythm = Rhythm::Tick;
    loop {
        let rang = wait(instance, rhythm)?;
        if rang.control {
            match instance.control.try_receive::<Numbered<ToInstance>>() {
                Ok(Some((Numbered { sequence, message }, fds))) => {
                    if message == ToInstance::Stop {
                        phase = Phase::Stopping;
                    }
                    apply(instance, message, fds);
                    say(instance, &FromInstance::Applied { sequence })?;
                }
                Ok(None) => {}
                Err(ControlError::Closed) => return Ok(()),
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
        if phase == Phase::Stopping {
            rhythm = Rhythm::Tick;
            if instance.has_drained() {
                say(instance, &FromInstance::Drained)?;
            }
        }
    }
}

fn apply(instance: &Instance, message: ToInstance, fds: Vec<std::os::fd::OwnedFd>) {
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
        ToInstance::Stop => Ok(()),
        ToInstance::Join(_) => Err(io::Error::other("this instance has joined already")),
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
