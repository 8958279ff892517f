//! `resume`: children of a seed, and with `--wait` their ends.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ramet_control::fork::{self, Answer, Ending, Life, Pages, Question};
use serde::Serialize;

use super::arguments::Resume;
use super::key;
use super::question::{Keeper, failure, unexpected};
use crate::arguments::{Format, NodeArguments};
use crate::exit::Failure;
use crate::output;

/// How many ends an error names.
const ENDS_SHOWN: usize = 4;

/// A child as programs read it; times are in microseconds.
#[derive(Serialize)]
struct Row {
    pid: i32,
    /// What was only done because it is the first of its seed on this host.
    first: Option<First>,
    open_us: u128,
    fork_us: u128,
    start_us: u128,
}

#[derive(Serialize)]
struct First {
    connect_us: u128,
    plan_us: u128,
    copy_us: u128,
    map_us: u128,
    register_us: u128,
    push_us: u128,
}

/// `ramet fork resume`.
pub(super) fn resume(node: &NodeArguments, options: &Resume) -> Result<(), Failure> {
    let question = Question::Resume(fork::Resume {
        address: options.address,
        handle: options.handle.to_bytes(),
        key: key::read(options.key.as_ref(), options.key_file.as_deref())?,
        children: options.children,
        source: options.source.map(Into::into),
        pages: if options.pull { Pages::All } else { Pages::Touched },
        life: if options.wait { Life::Askers } else { Life::Keepers },
    });
    let keeper = Keeper::reach(node)?;
    // From before there are children: a signal must not leave them behind.
    let signals = options.wait.then(Signals::take).transpose()?;
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [input.as_fd(), output.as_fd(), error.as_fd()];
    let Answer::Resumed(children, problem) = keeper.ask(&question, &streams)? else { return Err(unexpected()) };
    let told = print(options.output.output, &children);
    // Those of `--wait` end with this command.
    told.map_err(|error| if options.wait { error } else { told_here(error, &children) })?;
    let ended = match signals {
        Some(signals) => follow(&keeper, &signals, children.len()),
        None => Ok(()),
    };
    match problem {
        Some(mut problem) => {
            problem.detail = format!("{} of {} children: {}", children.len(), options.children, problem.detail);
            Err(failure(problem))
        }
        None => ended,
    }
}

fn print(format: Format, children: &[fork::Child]) -> Result<(), Failure> {
    let rows: Vec<Row> = children.iter().map(row).collect();
    let header = ["PID", "CONNECT", "PLAN", "COPY", "MAP", "REGISTER", "PUSH", "OPEN", "FORK", "START"];
    output::rows(format, &rows, &header, |row| {
        let first = row.first.as_ref().map_or([None; 6], |first| {
            let First { connect_us, plan_us, copy_us, map_us, register_us, push_us } = *first;
            [connect_us, plan_us, copy_us, map_us, register_us, push_us].map(Some)
        });
        let all = first.into_iter().chain([row.open_us, row.fork_us, row.start_us].map(Some));
        let cells = all.map(|time| time.map_or_else(|| "-".to_owned(), |time| format!("{time}µs")));
        std::iter::once(row.pid.to_string()).chain(cells).collect()
    })
}

/// An answer could not be written: whose children nobody knows would never be ended.
fn told_here(error: Failure, children: &[fork::Child]) -> Failure {
    let numbers: Vec<String> = children.iter().map(|child| child.pid.to_string()).collect();
    match error {
        Failure::Failed(why) if !numbers.is_empty() => {
            Failure::Failed(format!("{why}; the children go on, as processes {}", numbers.join(", ")))
        }
        error => error,
    }
}

fn row(child: &fork::Child) -> Row {
    let first = child.first.as_ref().map(|first| First {
        connect_us: first.connect.as_micros(),
        plan_us: first.plan.as_micros(),
        copy_us: first.copy.as_micros(),
        map_us: first.map.as_micros(),
        register_us: first.register.as_micros(),
        push_us: first.push.as_micros(),
    });
    let us = |time: Duration| time.as_micros();
    Row { pid: child.pid, first, open_us: us(child.open), fork_us: us(child.fork), start_us: us(child.start) }
}

/// The signals by which somebody wants this command to end.
struct Signals(SignalFd);

impl Signals {
    fn take() -> Result<Self, Failure> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block().map_err(io::Error::from)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self(SignalFd::with_flags(&set, flags).map_err(io::Error::from)?))
    }
}

/// Waits for the end of so many children. The first signal asks them to end; at the second this ends, and they with it.
fn follow(keeper: &Keeper, signals: &Signals, children: usize) -> Result<(), Failure> {
    let mut badly = Vec::new();
    let (mut left, mut asked) = (children, false);
    while left > 0 {
        let mut ready =
            [PollFd::new(keeper.as_fd(), PollFlags::POLLIN), PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result.map_err(io::Error::from)?,
        };
        if ready[1].any().unwrap_or(true) && signals.0.read_signal().map_err(io::Error::from)?.is_some() {
            if asked {
                return Err(Failure::Failed(format!("interrupted; {left} children were killed")));
            }
            asked = true;
            keeper.say(&Question::End, &[])?;
        }
        if ready[0].any().unwrap_or(true) {
            let Answer::Ended { pid, how } = keeper.hear()? else { return Err(unexpected()) };
            left -= 1;
            badly.extend(bad(pid, how));
        }
    }
    if badly.is_empty() {
        return Ok(());
    }
    let more = badly.len().saturating_sub(ENDS_SHOWN);
    badly.truncate(ENDS_SHOWN);
    let more = if more == 0 { String::new() } else { format!("; and so did {more} others") };
    Err(Failure::Failed(format!("{}{more}", badly.join("; "))))
}

/// What to say of a child that did not end well.
fn bad(pid: i32, how: Ending) -> Option<String> {
    match how {
        Ending::Exited(0) => None,
        Ending::Exited(code) => Some(format!("child {pid} ended with exit code {code}")),
        Ending::Signalled(signal) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            Some(format!("child {pid} was ended by {name}"))
        }
        Ending::SeedLost => {
            Some(format!("child {pid} was ended by SIGBUS: its seed was lost before it had all of its memory"))
        }
    }
}
