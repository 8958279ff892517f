//! The loaded short-cut: which sockets are the gateway's to functions that serve HTTP by themselves, and what went over
//! it.

use crate::maps::{Take, absent_is_fine};
use crate::sockets::accept_from;
use crate::sproxy::{map, prepare};
use crate::{LoaderError, cgroup};
use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuHashMap, PerCpuValues, SkStorage, SockHash};
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use aya::util::nr_cpus;
use ramet_common::FunctionId;
use ramet_common::shortcut::{
    ENDS, ESTABLISHED, GATEWAY_ENDS, GatewayEnd, Link, SHORTCUT, SHORTCUT_COUNTS, ShortcutCount,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// How long the self-test's bytes may take.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The name in errors.
const NAME: &str = "the short-cut past TCP";

type GatewayEndBytes = [u8; size_of::<GatewayEnd>()];
type LinkBytes = [u8; size_of::<Link>()];
type FunctionBytes = [u8; size_of::<FunctionId>()];
type CountBytes = [u8; size_of::<ShortcutCount>()];

/// The short-cut, loaded and attached. Dropping it detaches the programs; connections go on by TCP.
pub struct Shortcut {
    gateway_ends: SkStorage<MapData, GatewayEndBytes>,
    counts: PerCpuHashMap<MapData, FunctionBytes, CountBytes>,
    // They hold the programs and their attachments.
    _ends: SockHash<MapData, LinkBytes>,
    _ebpf: Ebpf,
}

impl fmt::Debug for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shortcut").finish_non_exhaustive()
    }
}

impl Shortcut {
    /// Loads both programs and attaches them: the first to this process's control group, for itself and the children
    /// that it will have, the second to the sockhash.
    ///
    /// # Errors
    /// As [`crate::Sproxy::load`]; and [`LoaderError::NoControlGroup`] where there is nothing to attach to.
    pub fn load(object: impl AsRef<Path>) -> Result<Self, LoaderError> {
        let path = object.as_ref();
        // SPROXY's own maps come with the object, as small as they can be.
        let mut ebpf = prepare(path, 1)?;
        let group = cgroup::own()?;
        let mut take = Take::new(&mut ebpf, path);
        let ends: SockHash<MapData, LinkBytes> = take.one(ENDS)?;
        let gateway_ends = take.one(GATEWAY_ENDS)?;
        let counts = take.one(SHORTCUT_COUNTS)?;
        let program = |name: &str| LoaderError::ObjectInvalid {
            path: path.to_owned(),
            reason: format!("it has no program {name} of the right type"),
        };
        let shortcut: &mut SkMsg =
            ebpf.program_mut(SHORTCUT).and_then(|p| p.try_into().ok()).ok_or_else(|| program(SHORTCUT))?;
        shortcut.load().map_err(|error| LoaderError::of_load(NAME, error))?;
        let ends_fd = ends.fd().try_clone().map_err(|error| LoaderError::of_attach(NAME, error.into()))?;
        shortcut.attach(&ends_fd).map_err(|error| LoaderError::of_attach(NAME, error))?;
        let established: &mut SockOps =
            ebpf.program_mut(ESTABLISHED).and_then(|p| p.try_into().ok()).ok_or_else(|| program(ESTABLISHED))?;
        established.load().map_err(|error| LoaderError::of_load(NAME, error))?;
        // A link needs no mode: others may be attached to the same group all the same.
        let mode = CgroupAttachMode::Single;
        established.attach(group, mode).map_err(|error| LoaderError::of_attach(NAME, error))?;
        Ok(Self { gateway_ends, counts, _ends: ends, _ebpf: ebpf })
    }

    /// Counts what goes to and from a function. One that is counted already goes on.
    ///
    /// # Errors
    /// A failed map update.
    pub fn count(&mut self, function: FunctionId) -> Result<(), LoaderError> {
        const NO_EXIST: u64 = 1;
        let action = "count what goes to a function";
        let failed = |error| LoaderError::Map { action, source: MapError::IoError(error) };
        let cpus = nr_cpus().map_err(|(_, error)| failed(error))?;
        let zeros = PerCpuValues::try_from(vec![CountBytes::default(); cpus]).map_err(failed)?;
        let key: FunctionBytes = zerocopy::transmute!(function);
        match self.counts.insert(key, zeros, NO_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(map(action)),
        }
    }

    /// Counts what goes to a function no more.
    ///
    /// # Errors
    /// A failed map update.
    pub fn forget(&mut self, function: FunctionId) -> Result<(), LoaderError> {
        let key: FunctionBytes = zerocopy::transmute!(function);
        absent_is_fine(self.counts.remove(&key)).map_err(map("forget what went to a function"))
    }

    /// Says where an unconnected socket of the gateway's will lead. From its connection on it is short-cut.
    ///
    /// # Errors
    /// A failed map update.
    pub fn adopt(&mut self, socket: BorrowedFd<'_>, end: GatewayEnd) -> Result<(), LoaderError> {
        let bytes: GatewayEndBytes = zerocopy::transmute!(end);
        self.gateway_ends.insert(&socket, bytes, 0).map_err(map("tie a function to a socket of the gateway's"))
    }

    /// Sends a few bytes over a connection of its own, both ways, and sees that they were redirected.
    ///
    /// # Errors
    /// What did not happen, and what to do.
    pub fn test(&mut self) -> Result<(), String> {
        let text = |error: LoaderError| error.to_string();
        let of_nobody = GatewayEnd::default();
        self.count(of_nobody.function).map_err(text)?;
        let failed =
            |error: io::Error| format!("{NAME} was tried and does not work: {error}; use `shortcut = \"off\"`");
        let (mut near, mut far) = self.pair(of_nobody).map_err(failed)?;
        let mut bytes = [0; 4];
        near.write_all(b"ping").and_then(|()| far.read_exact(&mut bytes)).map_err(failed)?;
        far.write_all(&bytes).and_then(|()| near.read_exact(&mut bytes)).map_err(failed)?;
        let counts = self.counts().map_err(text)?;
        let count = counts.iter().find(|(function, _)| *function == of_nobody.function).map(|(_, count)| *count);
        self.forget(of_nobody.function).map_err(text)?;
        match count {
            Some(ShortcutCount { redirected: 2, .. }) if &bytes == b"ping" => Ok(()),
            _ => Err(format!(
                "{NAME} was tried, and not all went over it: {count:?}, {bytes:?}; use `shortcut = \"off\"`"
            )),
        }
    }

    /// A connection over the loopback device, the gateway's end first.
    fn pair(&mut self, end: GatewayEnd) -> io::Result<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let near = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        self.adopt(near.as_fd(), end).map_err(io::Error::other)?;
        connect(&near, &listener.local_addr()?)?;
        let near = TcpStream::from(near);
        let far = accept_from(&listener, near.local_addr()?).map_err(io::Error::other)?;
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(ARRIVAL_TIMEOUT))?;
        }
        Ok((near, far))
    }

    /// What went between the gateway and each function that is counted.
    ///
    /// # Errors
    /// A failed map look-up.
    pub fn counts(&self) -> Result<Vec<(FunctionId, ShortcutCount)>, LoaderError> {
        let mut counts = Vec::new();
        for entry in self.counts.iter() {
            let (key, per_cpu) = entry.map_err(map("read the short-cut's counters"))?;
            let mut total = ShortcutCount::default();
            for bytes in per_cpu.iter() {
                let one: ShortcutCount = zerocopy::transmute!(*bytes);
                total.redirected += one.redirected;
                total.redirected_bytes += one.redirected_bytes;
                total.passed += one.passed;
                total.passed_bytes += one.passed_bytes;
            }
            counts.push((zerocopy::transmute!(key), total));
        }
        Ok(counts)
    }
}
