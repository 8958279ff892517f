//! The life of a function's process: it joins, it serves, it ends with its supervisor.

use std::io;
use std::process::ExitCode;

use ramet_control::socket::{ControlError, ControlSocket};

use crate::context::Context;
use crate::control::{self, Next};
use crate::crew::{Crew, Threads};
use crate::error::Result;
use crate::incoming::StreamedRequest;
use crate::join::{self, JoinError};
use crate::rebirth;
use crate::request::Request;
use crate::response::Response;

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
    /// This is a copy of an instance, and what it was to do before its first request failed.
    #[error("a forked instance could not become its own: {0}")]
    Hook(String),
}

/// Whose process this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// The function's own, which may be copied.
    Own,
    /// Somebody else's, who knows nothing of copies.
    Shared,
}

/// Runs the function: joins the node over standard input, calls `handler` for each request, returns when the supervisor
/// is gone. Meant as the last thing that `main` does.
///
/// `handler` is called from as many threads at once as the manifest's `concurrency` says. Where the manifest says that
/// instances are forked, they are copies of this process: see [`after_fork`](crate::after_fork()).
pub fn serve<H>(handler: H) -> ExitCode
where
    H: Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
{
    serve_streamed(of_whole(handler))
}

/// As [`serve`], for a handler that reads a request's body while it comes. Where the manifest does not say
/// `requestBody: streamed`, or the function is not its chain's first, all of it is there already.
pub fn serve_streamed<H>(handler: H) -> ExitCode
where
    H: Fn(StreamedRequest, &Context) -> Result<Response> + Send + Sync + 'static,
{
    run(|control| live(control, &mut Threads::new(handler), Home::Own))
}

/// As [`serve`], with another way to the supervisor: for tests and for programs that embed a function.
///
/// # Errors
/// [`ServeError`]. A supervisor that is gone is none.
pub fn serve_on<H>(control: ControlSocket, handler: H) -> Result<(), ServeError>
where
    H: Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
{
    serve_streamed_on(control, of_whole(handler))
}

/// As [`serve_streamed`], with another way to the supervisor: for tests and for programs that embed a function.
///
/// # Errors
/// [`ServeError`]. A supervisor that is gone is none.
pub fn serve_streamed_on<H>(control: ControlSocket, handler: H) -> Result<(), ServeError>
where
    H: Fn(StreamedRequest, &Context) -> Result<Response> + Send + Sync + 'static,
{
    live(control, &mut Threads::new(handler), Home::Shared)
}

/// A handler of whole requests, for one that gets them as they come.
fn of_whole<H>(handler: H) -> impl Fn(StreamedRequest, &Context) -> Result<Response> + Send + Sync + 'static
where
    H: Fn(Request, &Context) -> Result<Response> + Send + Sync + 'static,
{
    move |request, context| handler(request.whole()?, context)
}

/// Joins, serves until the supervisor is gone, and does the same again in each copy of this process.
pub(crate) fn live(control: ControlSocket, crew: &mut impl Crew, home: Home) -> Result<(), ServeError> {
    join::greet(&control)?;
    let mut joined = join::join(control)?;
    crew.start(&joined.instance, &crew.seats(&joined.instance))?;
    loop {
        control::welcome(&joined.instance, joined.sequence)?;
        match control::follow(&joined.instance, crew, home)? {
            Next::End => return Ok(()),
            Next::Rebirth { sequence } => {
                // The other process's data plane is not mapped here, and its sockets lead nowhere.
                ramet_dataplane::begin_new_life();
                drop(joined);
                let control = ControlSocket::from_stdin()?;
                release_stdin()?;
                joined = join::join_again(control, sequence)?;
                rebirth::run_hooks(joined.instance.id, &joined.instance.name).map_err(ServeError::Hook)?;
                crew.start(&joined.instance, &crew.seats(&joined.instance))?;
            }
        }
    }
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
pub(crate) fn release_stdin() -> io::Result<()> {
    let null = std::fs::File::open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    Ok(())
}
