//! A seed that has ended is taken away by the process that it was a copy of, which does not know of it: it is stopped
//! for a moment and made to wait for that child.

use std::thread;
use std::time::{Duration, Instant};

use libc::SYS_wait4;
use ramet_sys::ptrace::{Filters, Tracee};

use super::inject::Injection;
use super::space::Space;
use super::stop::{Held, USER_CS};
use super::{BEGINNING_STEP, PrepareError, status};

/// For how long that is tried. A process that cannot be stopped keeps an entry in the table of processes until it ends.
const TIMEOUT: Duration = Duration::from_millis(500);

/// Has a process take away a copy of it that has ended, if that is its child.
pub(super) fn by(original: i32, copy: i32) {
    let deadline = Instant::now() + TIMEOUT;
    // Who has ended has left its children to others, who wait for them.
    while let Ok(status) = status::of_thread(copy, copy)
        && status.has_ended
        && status.parent == original
    {
        match attempt(original, status.number, deadline) {
            Err(error) if error.may_pass(None) && Instant::now() < deadline => thread::sleep(BEGINNING_STEP),
            Err(error) => return tracing::debug!(pid = original, copy, %error, "a seed that has ended is left there"),
            Ok(()) => return,
        }
    }
}

fn attempt(pid: i32, copy: i32, deadline: Instant) -> Result<(), PrepareError> {
    let space = Space::find(pid)?;
    let own = status::of_thread(pid, pid).map_err(|source| PrepareError::Proc { pid, source })?;
    let tracee = Tracee::seize(pid).map_err(|source| PrepareError::not_seized(pid, pid, source))?;
    let held = Held(vec![tracee]);
    let tracee = &held.0[0];
    tracee.interrupt()?;
    tracee.wait_until_asked_or(deadline)?;
    space.expect(pid)?;
    let registers = tracee.registers()?;
    // Its filters would have to be asked, or it runs other code than this can speak to.
    if registers.cs != USER_CS || own.seccomp != 0 && tracee.set_filters(Filters::Suspended).is_err() {
        return Ok(());
    }
    let injection = Injection::begin(tracee, registers, space.instruction)?;
    let options = (libc::WNOHANG | libc::__WALL) as u64;
    injection.call(SYS_wait4, [copy as u64, 0, options, 0, 0, 0])?;
    Ok(injection.end()?)
}
