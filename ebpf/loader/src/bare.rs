//! A redirect from TCP to unix sockets with none of SPROXY's checks, to measure what those cost.

use crate::LoaderError;
use crate::maps::Take;
use aya::maps::{MapData, SockMap};
use aya::programs::SkMsg;
use aya::{Ebpf, EbpfError, EbpfLoader};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::{fmt, fs};

/// The object's file name; it lies beside SPROXY's.
pub const OBJECT_NAME: &str = "bare.bpf.o";

/// The name in errors.
const NAME: &str = "the bare redirect";

/// The program, loaded and attached. Dropping it detaches it.
pub struct Bare {
    senders: SockMap<MapData>,
    receivers: SockMap<MapData>,
    // Holds the program and its attachment.
    _ebpf: Ebpf,
}

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bare").finish_non_exhaustive()
    }
}

impl Bare {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// As [`crate::Sproxy::load`].
    pub fn load(object: impl AsRef<Path>) -> Result<Self, LoaderError> {
        let path = object.as_ref();
        let bytes = fs::read(path).map_err(|source| LoaderError::ObjectUnreadable { path: path.to_owned(), source })?;
        let invalid = |reason: String| LoaderError::ObjectInvalid { path: path.to_owned(), reason };
        let mut ebpf = EbpfLoader::new().load(&bytes).map_err(|error| match error {
            EbpfError::ParseError(_) | EbpfError::RelocationError(_) => invalid(error.to_string()),
            error => LoaderError::of_maps(error),
        })?;
        let mut take = Take::new(&mut ebpf, path);
        let senders: SockMap<MapData> = take.one("BARE_SENDERS")?;
        let receivers = take.one("BARE_RECEIVERS")?;
        let program = ebpf.program_mut("bare").ok_or_else(|| invalid("it has no program bare".to_owned()))?;
        let program: &mut SkMsg =
            program.try_into().map_err(|_| invalid("its program bare is not an sk_msg program".to_owned()))?;
        program.load().map_err(|error| LoaderError::of_load(NAME, error))?;
        let map = senders.fd().try_clone().map_err(|error| LoaderError::of_attach(NAME, error.into()))?;
        program.attach(&map).map_err(|error| LoaderError::of_attach(NAME, error))?;
        Ok(Self { senders, receivers, _ebpf: ebpf })
    }

    /// Lets what is sent on `sender` be redirected, and what is sent to `place` arrive at `receiver`.
    ///
    /// # Errors
    ///
    /// A failed map update.
    pub fn join(&mut self, place: u32, sender: BorrowedFd<'_>, receiver: BorrowedFd<'_>) -> Result<(), LoaderError> {
        let error = |source| LoaderError::Map { action: "put a socket into a sockmap", source };
        self.receivers.set(place, &receiver, 0).map_err(error)?;
        self.senders.set(place, &sender, 0).map_err(error)
    }
}
