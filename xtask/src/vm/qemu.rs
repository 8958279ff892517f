//! One emulated machine: QEMU's command line, and its process.
//!
//! QEMU has no descriptor to spare but its standard ones, and needs none: the two ports on which the command's output
//! leaves the guest are sockets at descriptors 0 and 1, and what kernel and QEMU have to say comes from its standard
//! error.

use super::cache::Kernel;
use super::series::Series;
use anyhow::{Context, Result};
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

/// The emulator.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// What a guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// It runs the command whose exit code is the run's.
    Command,
    /// It runs the other side.
    Peer,
}

impl Role {
    /// How the guest itself calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Peer => "peer",
        }
    }

    /// Its address on the link between the guests.
    pub(super) fn address(self) -> &'static str {
        match self {
            Self::Command => "10.77.0.1",
            Self::Peer => "10.77.0.2",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Command => Self::Peer,
            Self::Peer => Self::Command,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command => f.write_str("guest"),
            Self::Peer => f.write_str("peer"),
        }
    }
}

/// The network that a guest is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Its own, with nobody else.
    Alone,
    /// Between the two guests; the command's guest opens it.
    Pair,
}

/// Everything that QEMU is told.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) role: Role,
    pub(super) link: Link,
    pub(super) series: Series,
    pub(super) kernel: &'a Kernel,
    pub(super) memory_mib: u32,
    /// The folder that only this run has; the guests see its `shared`.
    pub(super) folder: &'a Path,
    /// The folder for results.
    pub(super) out: &'a Path,
}

/// A machine that runs, with our ends of its three streams.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) process: Child,
    pub(super) out: UnixStream,
    pub(super) err: UnixStream,
    pub(super) console: ChildStderr,
}

impl Machine<'_> {
    /// Starts it. It ends when this thread does, however that comes about.
    pub(super) fn start(&self) -> Result<Running> {
        let (out, guest_out) = UnixStream::pair().context("socketpair failed")?;
        let (err, guest_err) = UnixStream::pair().context("socketpair failed")?;
        // `setpriv` is a part of util-linux, which every Debian has.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PROGRAM]).args(self.arguments());
        command.stdin(OwnedFd::from(guest_out)).stdout(OwnedFd::from(guest_err)).stderr(Stdio::piped());
        let mut process = command.spawn().context("cannot run setpriv")?;
        let console = process.stderr.take().context("QEMU has no standard error")?;
        Ok(Running { process, out, err, console })
    }

    /// Where the link is, if it is one between guests.
    pub(super) fn link_socket(&self) -> PathBuf {
        self.folder.join("link")
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2"]
            .into_iter()
            .chain(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
            .map(OsString::from)
            .collect();
        let mut add = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
        add("-m", self.memory_mib.to_string().into());
        add("-kernel", self.kernel.image.clone().into());
        add("-initrd", self.kernel.initramfs.clone().into());
        add("-append", self.kernel_arguments().into());
        add("-chardev", "file,id=console,path=/proc/self/fd/2,append=on".into());
        add("-serial", "chardev:console".into());
        add("-device", "isa-debug-exit,iobase=0x501,iosize=0x01".into());
        add("-device", "virtio-serial-pci".into());
        for (name, descriptor) in [("out", 0), ("err", 1)] {
            add("-chardev", format!("socket,id={name},fd={descriptor}").into());
            add("-device", format!("virtserialport,chardev={name},name={name}").into());
        }
        let shared = self.folder.join("shared");
        for (name, path, more) in
            [("root", Path::new("/"), ",readonly=on"), ("run", shared.as_path(), ""), ("out", self.out, "")]
        {
            let path = path_in_option(path);
            add("-fsdev", with(&format!("local,id={name},security_model=none,multidevs=remap{more},path="), &path));
            add("-device", format!("virtio-9p-pci,fsdev={name},mount_tag={name}").into());
        }
        add("-netdev", self.link_argument());
        let mac = match self.role {
            Role::Command => "52:54:00:12:34:01",
            Role::Peer => "52:54:00:12:34:02",
        };
        add("-device", format!("virtio-net-pci,netdev=link,mac={mac},romfile=").into());
        arguments
    }

    /// A guest that is alone has the same link, and nobody at its other end.
    fn link_argument(&self) -> OsString {
        let server = match self.role {
            Role::Command => "on",
            Role::Peer => "off",
        };
        let path = path_in_option(&self.link_socket());
        with(&format!("stream,id=link,server={server},addr.type=unix,addr.path="), &path)
    }

    /// What the kernel does not know becomes a variable in the environment of its first process.
    fn kernel_arguments(&self) -> String {
        let role = self.role;
        let peer = match self.link {
            Link::Alone => "none",
            Link::Pair => role.other().address(),
        };
        format!(
            "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nowatchdog no_timer_check net.ifnames=0 \
             XTASK_VM_ROLE={} XTASK_VM_ADDRESS={} XTASK_VM_PEER={peer} XTASK_VM_KERNEL={}",
            role.name(),
            role.address(),
            self.series
        )
    }
}

/// In QEMU's options a comma ends a value unless it is doubled.
fn path_in_option(path: &Path) -> OsString {
    path.to_string_lossy().replace(',', ",,").into()
}

fn with(text: &str, end: &OsString) -> OsString {
    let mut whole = OsString::from(text);
    whole.push(end);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(role: Role, link: Link) -> String {
        let kernel = Kernel { image: "/k".into(), modules: "/m".into(), initramfs: "/i".into() };
        let folder = Path::new("/tmp/a,b");
        let series = Series::V6_12;
        let machine = Machine { role, link, series, kernel: &kernel, memory_mib: 512, folder, out: Path::new("/out") };
        machine.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_hosts_tree_can_only_be_read() {
        let line = line(Role::Command, Link::Alone);
        assert!(line.contains("id=root,security_model=none,multidevs=remap,readonly=on,path=/ "), "{line}");
        assert!(line.contains("id=run,security_model=none,multidevs=remap,path=/tmp/a,,b/shared "), "{line}");
        assert!(line.contains("XTASK_VM_PEER=none"), "{line}");
        assert!(!line.contains("RAMET_"), "ramet takes its settings from variables that begin so: {line}");
    }

    #[test]
    fn two_guests_have_one_link_and_two_addresses() {
        let (first, second) = (line(Role::Command, Link::Pair), line(Role::Peer, Link::Pair));
        assert!(first.contains("server=on,addr.type=unix,addr.path=/tmp/a,,b/link"), "{first}");
        assert!(second.contains("server=off,addr.type=unix,addr.path=/tmp/a,,b/link"), "{second}");
        assert!(first.contains("XTASK_VM_ADDRESS=10.77.0.1 XTASK_VM_PEER=10.77.0.2"), "{first}");
        assert!(second.contains("XTASK_VM_ADDRESS=10.77.0.2 XTASK_VM_PEER=10.77.0.1"), "{second}");
    }
}
