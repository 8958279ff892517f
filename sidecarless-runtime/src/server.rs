//! The way to an instance that serves HTTP by itself: a port in a network of its own, or a unix socket in a folder of
//! its own.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ramet_common::InstanceId;
use ramet_control::gateway::Address;
use ramet_manifest::{Http, NodeSettings};
use rustix::fs::{Mode, chmod, chown};
use rustix::process::{Gid, Uid, geteuid};

/// What an instance's socket is called in its folder.
const SOCKET_NAME: &str = "http.sock";

/// The longest path of a unix socket, in bytes (unix(7), with the zero at its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// An instance cannot be given a place for its unix socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("cannot make the folder {} for its unix socket: {source}", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error(
        "its unix socket would be in {}, which only some users can enter; let all enter it (chmod o+x), or set \
         `socket` in the node's settings to a path in a folder that all can enter",
        .0.display()
    )]
    Closed(PathBuf),
    #[error(
        "the path of its unix socket, {}, is longer than {SOCKET_PATH_BYTES_MAX} bytes; set `socket` in the node's \
         settings to a shorter path",
        .0.display()
    )]
    TooLong(PathBuf),
}

/// Where an instance listens.
#[derive(Debug)]
pub(crate) enum Way {
    Port(u16),
    Folder(Folder),
}

/// An instance's folder, which goes with it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    user: Option<u32>,
}

impl Way {
    /// Makes what a new instance needs to be reached.
    pub(crate) fn new(http: &Http, instance: InstanceId, settings: &NodeSettings) -> Result<Self, FolderError> {
        match http.port() {
            Some(port) => Ok(Self::Port(port)),
            None => Folder::new(instance, settings).map(Self::Folder),
        }
    }

    /// The variable that tells an instance where to listen.
    pub(crate) fn variable(&self) -> (&'static str, String) {
        match self {
            Self::Port(port) => ("PORT", port.to_string()),
            Self::Folder(folder) => ("RAMET_HTTP_SOCKET", folder.socket().display().to_string()),
        }
    }

    /// The way as the gateway goes it.
    pub(crate) fn address(&self) -> Address {
        match self {
            Self::Port(port) => Address::Port(*port),
            Self::Folder(folder) => Address::Socket { path: folder.socket(), user: folder.user },
        }
    }
}

impl Folder {
    /// Makes a folder that the instance writes in and the gateway can enter, beside the admin socket.
    fn new(instance: InstanceId, settings: &NodeSettings) -> Result<Self, FolderError> {
        let all = folder_of_all(settings);
        let path = all.join(instance.to_string());
        if path.join(SOCKET_NAME).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(FolderError::TooLong(path.join(SOCKET_NAME)));
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| FolderError::Make { path, source }
        };
        let make = |path: &Path, mode| match std::fs::DirBuilder::new().mode(mode).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made.map_err(failed(path)),
        };
        make(&all, 0o711)?;
        // Of an instance of that number whose node was killed.
        let _ = std::fs::remove_dir_all(&path);
        make(&path, 0o700)?;
        let user = geteuid().is_root().then_some(settings.uid_base + instance.index());
        let folder = Self { path, user };
        if let Some(user) = user {
            if let Some(closed) = closed_ancestor(&all) {
                return Err(FolderError::Closed(closed));
            }
            // What is made in it belongs to the gateway's group, which therefore can connect.
            let (user, gateway) = (Uid::from_raw(user), Gid::from_raw(settings.uid_base));
            let opened = chown(&folder.path, Some(user), Some(gateway))
                .and_then(|()| chmod(&folder.path, Mode::RWXU | Mode::XGRP | Mode::SGID));
            opened.map_err(|errno| failed(&folder.path)(errno.into()))?;
        }
        Ok(folder)
    }

    fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        // The last one takes the folder of all with it.
        let _ = self.path.parent().map(std::fs::remove_dir);
    }
}

fn folder_of_all(settings: &NodeSettings) -> PathBuf {
    let mut path = settings.socket.clone().into_os_string();
    path.push(".http");
    path.into()
}

/// The folder on the way to `path` that not everybody can enter.
fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    let is_open = |path: &Path| path.metadata().is_ok_and(|file| file.mode() & 0o001 != 0);
    path.ancestors().filter(|path| !path.as_os_str().is_empty()).find(|path| !is_open(path)).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_closed_to_others_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let set = |mode| chmod(folder.path(), Mode::from_bits_truncate(mode)).expect("chmod");
        set(0o700);
        assert_eq!(closed_ancestor(folder.path()), Some(folder.path().to_owned()));
        set(0o711);
        assert_eq!(closed_ancestor(folder.path()), None);
        assert_eq!(closed_ancestor(&folder.path().join("not-there")), Some(folder.path().join("not-there")));
        assert_eq!(closed_ancestor(Path::new("/usr/bin")), None);
    }
}
