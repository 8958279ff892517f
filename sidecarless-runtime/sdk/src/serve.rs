//! The life of a function's process: it joins, it serves, it ends with its supervisor.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;

use ramet_control::socket::{ControlError, ControlSocket};

use crate::context::Context;
use crate::control;
use crate::error::Result;
use crate::inbox::Seat;
use crate::instance::Instance;
use crate::join::{self, JoinError};
use crate::request::Request;
use crate::response::Response;
use crate::worker;

/// The exit code of a program that was started in a way it was not made for (`EX_USAGE` of `sysexits.h`).
const EXIT_USAGE: u8 = 64;

/// Why a function's process ended in a way that nobody asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// It did not get as far as serving.
    #[error("could not join the node: {0}")]
    Join(#[from] JoinError),
    /// A thread could not be started, or a runtime.
    #[error("could not start serving: {0}")]
    Start(#[from] io::Error),
    /// The conversation with the supervisor broke.
    #[error("the conversation with the supervisor failed: {0}")]
    Control(#[from] ControlError),
    /// This instance was taken off the data plane while its supervisor still lives.
    #[error("this instance is no longer part of the data plane")]
    Closed,
}

/// Runs the function: joins the node over standard input, calls `handler` for each request, returns when the supervisor
/// is gone. Meant as the last thing that `main` does.
///
/// `handler` is called from as many threads at once as the manifest's `concurrency` says.
pub fn serve<H>(handler: H) -> ExitCode
where
    H: Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
{
    run(|control| serve_on(control, handler))
}

/// As [`serve`], with another way to the supervisor: for tests and for programs that embed a function.
///
/// # Errors
/// [`ServeError`]. A supervisor that is gone is none.
pub fn serve_on<H>(control: ControlSocket, handler: H) -> Result<(), ServeError>
where
    H: Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
{
    let joined = join::join(control)?;
    let handler = Arc::new(handler);
    for seat in 0..joined.instance.concurrency {
        let (instance, handler) = (Arc::clone(&joined.instance), Arc::clone(&handler));
        thread(format!("serve-{seat}"), move || worker::work(&instance, Seat(seat), &*handler))?;
    }
    converse(&joined.instance, joined.sequence)
}

/// Says that requests are welcome, and follows the supervisor until it is gone.
pub(crate) fn converse(instance: &Instance, joined_sequence: u64) -> Result<(), ServeError> {
    control::welcome(instance, joined_sequence)?;
    control::follow(instance)
}

pub(crate) fn thread(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}

/// Takes standard input for the control socket and turns the end into an exit code.
pub(crate) fn run(serve: impl FnOnce(ControlSocket) -> Result<(), ServeError>) -> ExitCode {
    let Ok(control) = ControlSocket::from_stdin() else {
        eprintln!(
            "this program is a ramet function; it is started by `ramet up`, which hands it its control socket as \
             standard input"
        );
        return ExitCode::from(EXIT_USAGE);
    };
    // What a request leaves in memory is for no other process of the same user (ptrace(2), prctl(2)).
    let private = nix::sys::prctl::set_dumpable(false).map_err(io::Error::from);
    match private.and_then(|()| release_stdin()).map_err(ServeError::Start).and_then(|()| serve(control)) {
        // A supervisor that is gone is the normal end, also before the first request.
        Ok(()) | Err(ServeError::Join(JoinError::Control(ControlError::Closed))) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ramet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Puts `/dev/null` in place of the control socket, so that no library reads from it.
fn release_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(())
}
