//! What is asked of who keeps seeds, and how a refusal is told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use ramet_control::fork::{Answer, Problem, ProblemKind, Question, socket_beside};
use ramet_control::socket::ControlSocket;

use crate::arguments::NodeArguments;
use crate::client::Node;
use crate::exit::Failure;

/// A conversation with a node, or with `ramet fork serve`.
#[derive(Debug)]
pub(super) struct Keeper {
    socket: ControlSocket,
}

impl Keeper {
    /// Reaches whom the arguments or the settings name.
    pub(super) fn reach(node: &NodeArguments) -> Result<Self, Failure> {
        let path = socket_beside(Node::of(node)?.socket());
        let socket = open(&path).map_err(|errno| match errno {
            Errno::EACCES | Errno::EPERM => Failure::Failed(format!(
                "may not ask on {}: it is for root and for the user who keeps seeds there; run this as one of them",
                path.display()
            )),
            errno => Failure::NoNode(format!(
                "nobody keeps seeds here: nothing answers on {} ({}); start a node with `ramet up`, or `ramet fork \
                 serve`, or name its socket with --socket",
                path.display(),
                errno.desc()
            )),
        })?;
        Ok(Self { socket: ControlSocket::from_fd(socket) })
    }

    /// Asks and waits for the answer.
    pub(super) fn ask(&self, question: &Question, fds: &[BorrowedFd<'_>]) -> Result<Answer, Failure> {
        self.say(question, fds)?;
        match self.hear()? {
            Answer::Refused(problem) => Err(failure(problem)),
            answer => Ok(answer),
        }
    }

    /// Says something to which there is no answer of its own.
    pub(super) fn say(&self, question: &Question, fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        self.socket.send(question, fds).map_err(|error| Failure::Failed(error.to_string()))
    }

    /// Waits for what is said next.
    pub(super) fn hear(&self) -> Result<Answer, Failure> {
        let (answer, _) = self.socket.receive().map_err(|error| {
            Failure::Failed(format!("no answer from who keeps seeds: {error}; its log may say why"))
        })?;
        Ok(answer)
    }
}

/// Readable when something was said.
impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(path: &PathBuf) -> Result<OwnedFd, Errno> {
    let address = UnixAddr::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
    Ok(socket)
}

/// A refusal with its exit code.
pub(super) fn failure(problem: Problem) -> Failure {
    match problem.kind {
        ProblemKind::NotFound => Failure::NotFound(problem.detail),
        ProblemKind::Invalid => Failure::Invalid(problem.detail),
        ProblemKind::Failed => Failure::Failed(problem.detail),
    }
}

/// An answer to another question.
pub(super) fn unexpected() -> Failure {
    io::Error::other("who keeps seeds has answered another question; is it of the same release?").into()
}
