//! Who asks, as the kernel says, and what they may.
//!
//! Who lets others than its own user connect lets them prepare what is theirs. They make no children: the keeper opens
//! the files of a child with its own rights, and anybody could write a descriptor that names any file.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

/// Who is at the other end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    uid: u32,
}

/// Somebody may not do that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user {uid} may not {what}; ask as root or as the user that the keeper runs as")]
pub(super) struct Forbidden {
    uid: u32,
    what: String,
}

impl Asker {
    pub(super) fn at_the_end_of(socket: impl AsFd) -> io::Result<Self> {
        Ok(Self { uid: socket_peercred(socket)?.uid.as_raw() })
    }

    pub(super) const fn uid(self) -> u32 {
        self.uid
    }

    /// Whether it could do by itself whatever the keeper does for it.
    pub(super) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    /// Whether a seed that somebody had prepared is its business.
    pub(super) fn may_see(self, owner: Option<u32>) -> bool {
        self.is_trusted() || owner == Some(self.uid)
    }

    /// Whether a process is its own, as far as that can be said of one that runs on.
    pub(super) fn may_copy(self, pid: i32) -> Result<(), Forbidden> {
        if self.is_trusted() || is_of_user(pid, self.uid) {
            Ok(())
        } else {
            Err(self.forbidden(format!("fork process {pid}, which is another user's or keeps its memory to itself")))
        }
    }

    pub(super) fn forbidden(self, what: impl fmt::Display) -> Forbidden {
        Forbidden { uid: self.uid, what: what.to_string() }
    }
}

/// Whether all user ids of a process are this one, and it may be looked into: otherwise its folder is root's (proc(5)).
fn is_of_user(pid: i32, uid: u32) -> bool {
    let folder = format!("/proc/{pid}");
    let is_owner = fs::metadata(&folder).is_ok_and(|folder| folder.uid() == uid);
    let status = fs::read_to_string(format!("{folder}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    let mut uids = uids.split_whitespace().peekable();
    is_owner && uids.peek().is_some() && uids.all(|one| one.parse() == Ok(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_its_users_only() {
        let (own, pid) = (geteuid().as_raw(), std::process::id().cast_signed());
        assert!(is_of_user(pid, own));
        assert!(!is_of_user(pid, own + 1));
        assert!(!is_of_user(i32::MAX, own));
        let stranger = Asker { uid: own + 1 };
        let why = stranger.may_copy(pid).expect_err("another's").to_string();
        assert!(why.starts_with(&format!("user {} may not fork process {pid}", own + 1)), "{why}");
        assert!(stranger.may_see(Some(own + 1)) && !stranger.may_see(Some(own)) && !stranger.may_see(None));
    }
}
