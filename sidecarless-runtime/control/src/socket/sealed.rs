//! A message too long for a packet, in a memfd that nobody can change any more.
//!
//! The seals are what makes it safe to read: without `F_SEAL_WRITE` the sender could change bytes that were checked,
//! without `F_SEAL_SHRINK` take them away (memfd_create(2)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use memfd::{FileSeal, Memfd, MemfdOptions};

use super::{ControlError, MESSAGE_BYTES_MAX};

/// The name that `/proc` shows.
const NAME: &str = "ramet-message";

/// What a message must have, so that it is tomorrow what it is today.
const SEALS: [FileSeal; 3] = [FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealWrite];

/// Puts a message into a memfd of its own.
pub(super) fn seal(message: &[u8]) -> Result<OwnedFd, ControlError> {
    let system = |error: memfd::Error| ControlError::System(io::Error::other(error));
    let memfd = MemfdOptions::default().allow_sealing(true).close_on_exec(true).create(NAME).map_err(system)?;
    memfd.as_file().write_all(message)?;
    memfd.add_seals(&SEALS).map_err(system)?;
    memfd.add_seal(FileSeal::SealSeal).map_err(system)?;
    Ok(memfd.into_file().into())
}

/// The message in a peer's memfd that was announced with a length in bytes.
pub(super) fn open(fd: OwnedFd, announced: u64) -> Result<Vec<u8>, ControlError> {
    let malformed = |why: String| ControlError::Malformed(why);
    let bytes = usize::try_from(announced).ok().filter(|bytes| *bytes <= MESSAGE_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| malformed(format!("{announced} bytes, more than {MESSAGE_BYTES_MAX}")))?;
    let memfd = Memfd::try_from_fd(fd).map_err(|_| malformed("its long part is no memfd".to_owned()))?;
    let seals = memfd.seals().map_err(|error| ControlError::System(io::Error::other(error)))?;
    if let Some(missing) = SEALS.iter().find(|seal| !seals.contains(seal)) {
        return Err(malformed(format!("its memfd can still be changed, {missing:?} is missing")));
    }
    let file: File = memfd.into_file();
    let found = file.metadata()?.len();
    if found != announced {
        return Err(malformed(format!("its memfd has {found} bytes where {announced} were announced")));
    }
    let mut message = vec![0; bytes];
    file.read_exact_at(&mut message, 0)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memfd with some seals.
    fn memfd(bytes: u64, seals: &[FileSeal]) -> OwnedFd {
        let memfd = MemfdOptions::default().allow_sealing(true).create("test").expect("a memfd");
        memfd.as_file().set_len(bytes).expect("a size");
        memfd.add_seals(seals).expect("sealed");
        memfd.into_file().into()
    }

    fn why(fd: OwnedFd, announced: u64) -> String {
        match open(fd, announced) {
            Err(ControlError::Malformed(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_sealed_is_read() {
        let message: Vec<u8> = (0..200_000u32).map(|byte| byte as u8).collect();
        let fd = seal(&message).expect("sealed");
        assert!(File::from(fd.try_clone().expect("dup")).write_at(b"x", 0).is_err(), "it is final");
        assert_eq!(open(fd, 200_000).expect("read"), message);
    }

    #[test]
    fn each_seal_is_asked_for() {
        open(memfd(10, &SEALS), 10).expect("all three are enough");
        for missing in SEALS {
            let others: Vec<_> = SEALS.into_iter().filter(|seal| *seal != missing).collect();
            let why = why(memfd(10, &others), 10);
            assert!(why.contains(&format!("{missing:?}")), "{why}");
        }
    }

    #[test]
    fn a_length_that_lies_is_refused() {
        for announced in [0, 9, 11, MESSAGE_BYTES_MAX as u64] {
            assert!(why(memfd(10, &SEALS), announced).contains("has 10 bytes"), "{announced}");
        }
        for announced in [MESSAGE_BYTES_MAX as u64 + 1, u64::MAX] {
            assert!(why(memfd(announced.min(1 << 40), &SEALS), announced).contains("more than"), "{announced}");
        }
    }

    #[test]
    fn another_kind_of_file_is_refused() {
        let (reader, _writer) = io::pipe().expect("a pipe");
        assert!(why(reader.into(), 10).contains("no memfd"));
        let device = File::open("/dev/zero").expect("a device");
        assert!(why(device.into(), 0).contains("no memfd"));
    }
}
