//! The unix sockets on which people's commands are answered: one process per path, and nobody else's business.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, chmod, fstat, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with};
use rustix::process::umask;

/// How many may wait to be let in.
const BACKLOG: i32 = 128;

/// A socket for commands cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers there.
    #[error(
        "another node is running, or `ramet fork serve`: it answers on {}; stop it, or set `socket` to another path",
        .0.display()
    )]
    InUse(PathBuf),
    /// Something is there that is no socket.
    #[error("{} exists and is no socket; remove it, or set `socket` to another path", .0.display())]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot make the socket {}: {call} failed: {source}; `socket` sets another path", path.display())]
    System {
        /// The socket's path.
        path: PathBuf,
        /// The call.
        call: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// The bound socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// The file, held so that its number does not come to be another one's.
    file: OwnedFd,
    _folders: Folders,
}

/// The folders that were made for a socket, the innermost first. They go when this is dropped, if they are empty.
#[derive(Debug)]
struct Folders(Vec<PathBuf>);

impl Folders {
    fn make(innermost: &Path) -> io::Result<Self> {
        let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
        let missing = Self(innermost.ancestors().take_while(is_missing).map(Path::to_owned).collect());
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(innermost).map(|()| missing)
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        // One that is not empty is somebody's by now, and so are those around it.
        let _ = self.0.iter().try_for_each(std::fs::remove_dir);
    }
}

impl SocketFile {
    /// Binds a socket and listens without blocking. Only this process's user may connect. A folder that is missing is
    /// made, and goes with the socket.
    pub(crate) fn bind(path: &Path, kind: SocketType) -> Result<(Self, OwnedFd), SocketError> {
        let system = |call| move |source: io::Error| SocketError::System { path: path.to_owned(), call, source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folders = folder.map_or(Ok(Folders(Vec::new())), Folders::make).map_err(system("mkdir"))?;
        let socket = make(kind).map_err(system("socket"))?;
        let address = SocketAddrUnix::new(path).map_err(|errno| system("bind")(errno.into()))?;
        clear_stale(path, kind)?;
        // The file must never be there with more rights than it keeps.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = bind(&socket, &address);
        umask(before);
        bound.map_err(|errno| system("bind")(errno.into()))?;
        chmod(path, Mode::RUSR | Mode::WUSR).map_err(io::Error::from).map_err(system("chmod"))?;
        listen(&socket, BACKLOG).map_err(|errno| system("listen")(errno.into()))?;
        let file = look_at(path).map_err(|errno| system("open")(errno.into()))?;
        Ok((Self { path: path.to_owned(), file, _folders: folders }, socket))
    }

    /// Whether the file is still there. Somebody may have put another node's socket in its place, or have changed who
    /// may connect.
    fn is_there(&self) -> Result<bool, Errno> {
        let (own, found) = (fstat(&self.file)?, fstat(&look_at(&self.path)?)?);
        Ok((own.st_dev, own.st_ino) == (found.st_dev, found.st_ino))
    }
}

fn look_at(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() == Ok(true) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn make(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

/// Removes the socket of a process that is gone.
fn clear_stale(path: &Path, kind: SocketType) -> Result<(), SocketError> {
    let system = |call| move |source: io::Error| SocketError::System { path: path.to_owned(), call, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("stat")(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    let socket = make(kind).map_err(system("socket"))?;
    let address = SocketAddrUnix::new(path).map_err(|errno| system("connect")(errno.into()))?;
    match connect(&socket, &address) {
        // One that cannot let in more is there, and so is one that speaks otherwise.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(SocketError::InUse(path.to_owned())),
        Err(Errno::CONNREFUSED) => {
            tracing::info!(path = %path.display(), "removing the socket of a process that is gone");
            std::fs::remove_file(path).map_err(system("unlink"))
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(system("connect")(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_living_node_keeps_its_socket_and_a_dead_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/ramet.sock");
        let (socket, listener) = SocketFile::bind(&path, SocketType::STREAM).expect("bound");
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(SocketFile::bind(&path, SocketType::STREAM), Err(SocketError::InUse(_))));
        drop(listener);
        let (newer, _listener) = SocketFile::bind(&path, SocketType::STREAM).expect("the old one is stale");
        drop(socket);
        assert!(path.exists(), "it is another one's by now");
        drop(newer);
        assert!(!path.exists());
    }

    #[test]
    fn it_goes_whoever_was_let_in_meanwhile() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ramet.sock");
        let (socket, _listener) = SocketFile::bind(&path, SocketType::STREAM).expect("bound");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("chmod");
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn one_that_is_spoken_to_otherwise_is_alive_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ramet.sock.fork");
        let (_socket, listener) = SocketFile::bind(&path, SocketType::SEQPACKET).expect("bound");
        assert!(matches!(SocketFile::bind(&path, SocketType::STREAM), Err(SocketError::InUse(_))));
        drop(listener);
        SocketFile::bind(&path, SocketType::STREAM).expect("the old one is stale");
    }

    #[test]
    fn folders_that_were_made_for_it_go_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (outer, path) = (folder.path().join("new"), folder.path().join("new/inner/ramet.sock"));
        let bind = |path: &Path| SocketFile::bind(path, SocketType::STREAM);
        let (socket, listener) = bind(&path).expect("bound");
        let (beside, _listener) = bind(&path.with_extension("fork")).expect("bound");
        drop(beside);
        assert!(path.exists(), "they are the first one's");
        drop((socket, listener));
        assert!(!outer.exists());

        bind(&outer.join("x".repeat(200))).expect_err("that is too long for a socket");
        assert!(!outer.exists());
        let (socket, _listener) = bind(&path).expect("bound");
        std::fs::write(outer.join("file"), "precious").expect("written");
        drop(socket);
        assert!(outer.join("file").exists() && !outer.join("inner").exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(SocketFile::bind(&path, SocketType::STREAM), Err(SocketError::NoSocket(_))));
        assert!(path.exists());
    }
}
