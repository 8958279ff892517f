//! One child ahead: it is forked before it is asked for, and waits to be told who it is.
//!
//! Most of what a request for a child waits for is the fork, which is the same for every child. So the next one is
//! forked while the last begins. A family has one at most, and none before a second child was asked for: who wants one
//! process gets one.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use ramet_sys::Pidfd;

use super::template::end;
use super::{Habitat, Heard, ResumeError, hear_up_to};
use crate::interpreter::FAILURE_BYTES;

/// A child that is not a process of its own yet. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Unborn {
    pub(super) control: UnixStream,
    pub(super) habitat: Habitat,
    /// What the pager knows it by.
    pub(super) space: u64,
    /// The number of the template that forked it.
    template: i32,
    /// What that has said of it.
    told: Vec<u8>,
    /// Whether it was waited for.
    is_known: bool,
    /// Known once it waits, or has ended before.
    pidfd: Option<Pidfd>,
}

impl Unborn {
    pub(super) const fn new(control: UnixStream, habitat: Habitat, space: u64, template: i32) -> Self {
        Self { control, habitat, space, template, told: Vec::new(), is_known: false, pidfd: None }
    }

    /// What it says next, of which so much is heard at most. What its template says of it is kept.
    pub(super) fn hear(&mut self, most: usize) -> io::Result<Heard> {
        loop {
            let heard = hear_up_to(&self.control, most)?;
            if heard.count == 0 || heard.pid != Some(self.template) {
                return Ok(heard);
            }
            self.told.extend_from_slice(&heard.bytes[..heard.count]);
        }
    }

    /// Waits until it waits. What it says instead is why it does not.
    pub(super) fn arrive(&mut self) -> Result<Option<Heard>, ResumeError> {
        if self.pidfd.is_some() {
            return Ok(None);
        }
        self.is_known = true;
        let silent = |_| ResumeError::Silent("the end of its fork");
        let heard = self.hear(1).ok().and_then(|heard| Some((heard.pid.filter(|_| heard.count > 0)?, heard)));
        let Some((pid, mut heard)) = heard else {
            // Its template knows its number, too.
            let number = self.told.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
            self.pidfd = number.and_then(|number| Pidfd::of_child(u32::try_from(number).ok()?).ok());
            return Err(ResumeError::Silent("the end of its fork"));
        };
        // Our child: until it is reaped the number is its own.
        self.pidfd = Some(Pidfd::of_child(pid.cast_unsigned())?);
        if heard.bytes[0] == ARRIVED {
            return Ok(None);
        }
        let rest = self.hear(FAILURE_BYTES - 1).map_err(silent)?;
        heard.bytes[1..].copy_from_slice(&rest.bytes[..FAILURE_BYTES - 1]);
        heard.count += rest.count;
        Ok(Some(heard))
    }

    /// The same, of one that must.
    pub(super) fn arrived(mut self) -> Result<Self, ResumeError> {
        match self.arrive()? {
            None => Ok(self),
            Some(_) => Err(ResumeError::Silent("where it waits")),
        }
    }

    /// Its number, once it waits.
    pub(super) fn pid(&self) -> Option<i32> {
        self.pidfd.as_ref().map(Pidfd::pid)
    }

    /// What ends and reaps it, which is the caller's from now on.
    pub(super) const fn take_pidfd(&mut self) -> Option<Pidfd> {
        self.pidfd.take()
    }
}

/// What a child says when it waits. A failure begins with an address of words.
pub(super) const ARRIVED: u8 = 1;

impl Drop for Unborn {
    fn drop(&mut self) {
        if !self.is_known {
            let _ = self.arrive();
        }
        self.pidfd.iter().for_each(end);
    }
}

/// Who forks one ahead, here or of the zygote. None is forked any more when this has been dropped.
#[derive(Debug)]
pub(super) struct Ahead {
    wanted: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// `fork` is done each time that one is wanted.
    pub(super) fn start(fork: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (wanted, wants) = sync_channel(1);
        let serve = move || wants.iter().for_each(|()| fork());
        let thread = thread::Builder::new().name("ramet-ahead".to_owned()).spawn(serve)?;
        Ok(Self { wanted: Some(wanted), thread: Some(thread) })
    }

    pub(super) fn want(&self) {
        // One that is wanted already is enough.
        let _ = self.wanted.as_ref().map(|wanted| wanted.try_send(()));
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.wanted = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use super::super::control_pair;
    use super::*;

    #[test]
    fn one_that_ends_before_it_says_anything_is_reaped() {
        let (control, mut theirs) = control_pair().expect("a control socket");
        let child = Command::new("true").stdin(Stdio::null()).spawn().expect("a child").id();
        // This process is the template.
        theirs.write_all(&u64::from(child).to_ne_bytes()).expect("said");
        drop(theirs);
        let this = std::process::id().cast_signed();
        let mut unborn = Unborn::new(control, Habitat::default(), 0, this);
        assert!(unborn.arrive().is_err(), "it has not arrived");
        drop(unborn);
        assert!(!PathBuf::from(format!("/proc/{child}")).exists(), "it waits to be reaped");
    }
}
