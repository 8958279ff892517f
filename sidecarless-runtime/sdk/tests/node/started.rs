//! An instance as its supervisor sees it.

use std::os::fd::{AsFd, BorrowedFd};
use std::thread::JoinHandle;
use std::time::Instant;

use ramet_common::{FunctionId, InstanceId};
use ramet_control::Numbered;
use ramet_control::instance::{Direction, FromInstance, Link, ToInstance};
use ramet_control::socket::ControlSocket;
use ramet_dataplane::endpoint::LinkEnd;
use ramet_sdk::ServeError;

use super::PATIENCE;

/// A function to start.
pub(crate) struct Plan {
    pub(crate) function: u32,
    pub(crate) concurrency: u32,
    pub(crate) callable: Vec<(String, FunctionId)>,
}

pub(crate) fn function(number: u32) -> Plan {
    Plan { function: number, concurrency: 1, callable: Vec::new() }
}

impl Plan {
    pub(crate) fn concurrency(self, concurrency: u32) -> Self {
        Self { concurrency, ..self }
    }

    pub(crate) fn calls(mut self, name: &str, function: u32) -> Self {
        self.callable.push((name.to_owned(), FunctionId(function)));
        self
    }
}

/// A function's instance as its supervisor sees it.
pub(crate) struct Started {
    pub(crate) id: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) control: ControlSocket,
    pub(crate) sequence: u64,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Started {
    /// Runs `serve` as an instance's process would.
    pub(crate) fn new(
        id: InstanceId,
        function: FunctionId,
        serve: impl FnOnce(ControlSocket) -> Result<(), ServeError> + Send + 'static,
    ) -> Self {
        let (control, far) = ControlSocket::pair().expect("pair");
        let thread = std::thread::spawn(move || serve(far));
        Self { id, function, control, sequence: 0, thread: Some(thread) }
    }

    /// The instance's next word.
    pub(crate) fn hear(&self) -> FromInstance {
        let deadline = Instant::now() + PATIENCE;
        loop {
            use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::try_from(left).expect("short")).expect("poll");
            match self.control.try_receive() {
                Ok(Some((message, _))) => return message,
                Ok(None) => assert!(!left.is_zero(), "the instance said nothing"),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn say(&mut self, message: ToInstance, fds: &[BorrowedFd<'_>]) {
        self.sequence += 1;
        self.control.send(&Numbered { sequence: self.sequence, message }, fds).expect("said");
    }

    pub(crate) fn heard_applied(&self) {
        assert_eq!(self.hear(), FromInstance::Applied { sequence: self.sequence });
    }

    /// Says something and waits until it has taken effect.
    pub(crate) fn tell(&mut self, message: ToInstance) {
        self.say(message, &[]);
        self.heard_applied();
    }

    pub(crate) fn link(&mut self, peer: InstanceId, function: FunctionId, direction: Direction, end: LinkEnd) {
        let fds: Vec<_> = end.0.iter().map(AsFd::as_fd).collect();
        self.say(ToInstance::Link(Link { peer, function, direction }), &fds);
        self.heard_applied();
    }

    /// Hangs up and waits for the process to end.
    pub(crate) fn end(mut self) -> Result<(), ServeError> {
        let thread = self.thread.take().expect("runs");
        drop(self);
        thread.join().expect("serving does not panic")
    }
}
