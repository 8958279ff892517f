//! The unix socket of the admin API: one node per path, and nobody else's business.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, chmod};
use rustix::process::umask;

/// The admin socket cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A node answers there.
    #[error("another node is running: it answers on {}; stop it, or set `socket` to another path", .0.display())]
    InUse(PathBuf),
    /// Something is there that is no socket.
    #[error("{} exists and is no socket; remove it, or set `socket` to another path", .0.display())]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot make the admin socket {}: {call} failed: {source}; `socket` sets another path", path.display())]
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
pub(crate) struct AdminSocket {
    path: PathBuf,
    identity: Identity,
}

/// Inode and time of change: an inode alone may be another file's by now.
type Identity = (u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.ino(), file.ctime(), file.ctime_nsec()))
}

impl AdminSocket {
    /// Binds the socket, with its folder where that is missing. Only the supervisor's user may connect.
    pub(crate) fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        let system = |call| move |source| SocketError::System { path: path.to_owned(), call, source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(system("mkdir"))?;
        }
        clear_stale(path)?;
        // The file must never be there with more rights than it keeps.
        let before = umask(Mode::RWXG | Mode::RWXO | Mode::XUSR);
        let bound = UnixListener::bind(path);
        umask(before);
        let listener = bound.map_err(system("bind"))?;
        chmod(path, Mode::RUSR | Mode::WUSR).map_err(io::Error::from).map_err(system("chmod"))?;
        listener.set_nonblocking(true).map_err(system("fcntl"))?;
        let identity = identity(path).map_err(system("stat"))?;
        Ok((Self { path: path.to_owned(), identity }, listener))
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Somebody may have put another node's socket there meanwhile.
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a node that is gone.
fn clear_stale(path: &Path) -> Result<(), SocketError> {
    let system = |call| move |source| SocketError::System { path: path.to_owned(), call, source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("stat")(error)),
        Ok(file) if !file.file_type().is_socket() => return Err(SocketError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the admin socket of a node that is gone");
            std::fs::remove_file(path).map_err(system("unlink"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(system("connect")(error)),
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
        let (socket, listener) = AdminSocket::bind(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::InUse(_))));
        drop(listener);
        let (newer, _listener) = AdminSocket::bind(&path).expect("the old one is stale");
        drop(socket);
        assert!(path.exists(), "it is another one's by now");
        drop(newer);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "precious").expect("written");
        assert!(matches!(AdminSocket::bind(&path), Err(SocketError::NoSocket(_))));
        assert!(path.exists());
    }
}
