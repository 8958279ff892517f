//! The zygote of the tests.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

fn main() -> io::Result<()> {
    ramet_fork::zygote::run(io::stdin().as_fd().try_clone_to_owned()?)
}
