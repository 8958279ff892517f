//! Seeds that are read by RDMA, in an emulated guest that has a device, and between two of them.

#[path = "programs/hoard.rs"]
mod hoard;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::source::{self, READ_BYTES_MAX, RdmaSource, rdma};
use ramet_fork::{Agent, Family, ForkDescriptor, Given, Handle, Held, Host, Key, PageServer, Seeds, Terms};
use ramet_rdma::Device;
use ramet_sys::{End, Range};

use self::hoard::Hoard;

const PAGE_BYTES: u64 = 4096;
const LEASE: Duration = Duration::from_secs(600);
/// Guests are slow, and wait for each other.
const PATIENCE: Duration = Duration::from_secs(120);

/// Without a device there is nothing to test; in a guest there is one.
fn device() -> Option<Device> {
    let guests = std::env::var("RAMET_VM_DEVICE").ok();
    match Device::open(guests.as_deref()) {
        Ok(device) => Some(device),
        Err(error) => {
            assert!(guests.is_none(), "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// The seeds of a host, and who lets them be read.
struct Server {
    seeds: Arc<Seeds>,
    server: PageServer,
}

impl Server {
    fn start(device: &Device) -> Self {
        let host = std::env::var("RAMET_VM_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned());
        let listener = TcpListener::bind((host, 0)).expect("a listener");
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let agent = Arc::new(Agent::new(Some(device.name().to_owned())));
        let server = PageServer::start_with_agent(listener, Arc::clone(&seeds), agent).expect("a server");
        Self { seeds, server }
    }

    fn prepare(&self, pid: i32) -> Held {
        self.seeds.prepare(pid, Terms { lease: LEASE }).expect("prepared")
    }

    fn open(&self, device: &Device, held: &Held) -> (ForkDescriptor, RdmaSource) {
        rdma::connect(device, self.server.address(), held.handle, &held.key).expect("the seed")
    }

    /// Lines of the seed's `smaps_rollup`, in KiB.
    fn memory(&self, held: &Held) -> impl Fn(&str) -> u64 {
        let seed = self.seeds.list().iter().find(|seed| seed.handle == held.handle).expect("the seed").seed;
        let text = fs::read_to_string(format!("/proc/{seed}/smaps_rollup")).expect("its memory");
        move |key| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            let count = line.and_then(|line| line.trim().strip_suffix(" kB"));
            count.expect("a line").parse().expect("a number")
        }
    }
}

fn wait_until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // tidy: another process or guest is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_seeds_memory_is_read_by_the_device_and_stays_shared_where_it_pages_on_demand() {
    let Some(device) = device() else { return };
    let hoard = Hoard::start(32 << 20);
    let server = Server::start(&device);
    let held = server.prepare(hoard.pid());
    let before = server.memory(&held);
    let start = Instant::now();
    let (_, mut source) = server.open(&device, &held);
    eprintln!("reached in {:?}", start.elapsed());
    let mut bytes = vec![0xff; hoard.data.bytes as usize];
    // A part first, then all, so that what is pinned is pinned where it is read.
    let part = READ_BYTES_MAX as usize;
    source::read(&mut source, &[Range { bytes: READ_BYTES_MAX, ..hoard.data }], &mut bytes[..part]).expect("read");
    assert!(hoard.is_right(hoard.data.start, &bytes[..part]));
    let after_part = server.memory(&held);
    source::read(&mut source, &[hoard.data], &mut bytes).expect("read");
    assert!(hoard.is_right(hoard.data.start, &bytes));
    assert!(source.is_direct());
    assert_eq!(source.brought_bytes(), hoard.data.bytes + READ_BYTES_MAX, "all of it came by RDMA");
    let after = server.memory(&held);
    let private = |memory: &dyn Fn(&str) -> u64| memory("Private_Dirty") + memory("Private_Clean");
    eprintln!("private before {} KiB, after {} KiB", private(&before), private(&after));
    if device.pages_on_demand() {
        assert!(private(&after) <= private(&before) + 256, "registering has copied pages");
    } else {
        let pinned = private(&after_part).saturating_sub(private(&before));
        assert!(pinned < 4 << 10, "{pinned} KiB were copied for one MiB");
    }
}

#[test]
fn what_is_not_worth_registering_comes_over_the_connection() {
    let Some(device) = device() else { return };
    let hoard = Hoard::start(1 << 20);
    let server = Server::start(&device);
    let held = server.prepare(hoard.pid());
    let (descriptor, mut source) = server.open(&device, &held);
    let small = descriptor.areas.iter().flat_map(|area| area.own_ranges().next()).find(|own| own.bytes < 64 << 10);
    let small = Range { bytes: PAGE_BYTES, ..small.expect("a small part") };
    let (_, mut other) = ramet_fork::source::tcp::connect(server.server.address(), held.handle, &held.key).expect("it");
    let mut expected = vec![0; PAGE_BYTES as usize];
    source::read(&mut other, &[small], &mut expected).expect("read");
    // Both in one read: the device brings one, the connection the other.
    let ranges = [Range { bytes: PAGE_BYTES, ..hoard.data }, small, Range { bytes: 2 * PAGE_BYTES, ..hoard.data }];
    let mut bytes = vec![0xff; 4 * PAGE_BYTES as usize];
    source::read(&mut source, &ranges, &mut bytes).expect("read");
    let page = PAGE_BYTES as usize;
    assert!(hoard.is_right(hoard.data.start, &bytes[..page]));
    assert!(bytes[page..2 * page] == expected);
    assert!(hoard.is_right(hoard.data.start, &bytes[2 * page..]));
    assert_eq!(source.brought_bytes(), 3 * PAGE_BYTES);
}

#[test]
fn a_device_that_reads_wrongly_on_demand_is_made_to_pin() {
    let Some(device) = device() else { return };
    if std::env::var_os("RAMET_VM_DEVICE").is_none() || !device.pages_on_demand() {
        eprintln!("skipped: only soft-RoCE of Linux 6.18 reads wrongly");
        return;
    }
    let commands = "ip link add slim0 mtu 1500 type veth peer slim1 && ip addr add 10.79.0.1/24 dev slim0 \
         && ip link set slim0 up && ip link set slim1 up && rdma link add slim type rxe netdev slim0";
    assert!(Command::new("sh").args(["-c", commands]).status().expect("a shell").success());
    let slim = Device::open(Some("slim")).expect("it was just made");
    let hoard = Hoard::start(4 << 20);
    let server = Server::start(&slim);
    let held = server.prepare(hoard.pid());
    let (_, mut source) = server.open(&slim, &held);
    let mut bytes = vec![0xff; hoard.data.bytes as usize];
    source::read(&mut source, &[hoard.data], &mut bytes).expect("read");
    assert!(hoard.is_right(hoard.data.start, &bytes), "the canary was to find it out");
    assert!(source.is_direct());
}

/// Where a seed is, as one guest tells the other.
fn seed_file() -> PathBuf {
    PathBuf::from(std::env::var("RAMET_VM_OUT").expect("a guest's folder")).join("seed")
}

struct Obedient {
    process: Process,
    folder: PathBuf,
}

impl Obedient {
    fn start() -> Self {
        let folder = seed_file().with_file_name("talk");
        fs::create_dir_all(&folder).expect("a folder");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/obeys.py");
        let mut command = Command::new("/usr/bin/python3");
        // A stream of this guest's is not to be had in the other one.
        command.arg(program).arg(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().expect("python"), folder }
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }
}

impl Drop for Obedient {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Has a process run a line, and gives what it says.
fn tell(folder: &Path, pid: i32, code: &str) -> String {
    let file = |end: &str| folder.join(format!("{pid}.{end}"));
    fs::write(file("written"), code).expect("written");
    fs::rename(file("written"), file("ask")).expect("asked");
    let answer = wait_until("an answer", || fs::read_to_string(file("answer")).ok());
    fs::remove_file(file("answer")).expect("taken");
    answer
}

/// Has a process look at all of its memory, so that it needs nobody any more.
const LOOK_AT_ALL: &str = "
with open('/proc/self/maps') as maps:
    areas = maps.readlines()
for area in areas:
    place, rights = area.split()[:2]
    start, end = (int(number, 16) for number in place.split('-'))
    if rights[0] == 'r' and not area.rstrip().endswith(('[vvar]', '[vvar_vclock]', '[vsyscall]')):
        for at in range(start, end, 1 << 16):
            ctypes.string_at(at, min(end - at, 1 << 16))
";

/// The one guest of two: it keeps a seed until the other one ends the run.
#[test]
fn a_seed_is_kept_for_another_guest() {
    if std::env::var("RAMET_VM_ROLE").as_deref() != Ok("peer") {
        eprintln!("skipped: there is no other guest that wants a seed");
        return;
    }
    let device = device().expect("a guest's device");
    let python = Obedient::start();
    let made =
        tell(&python.folder, python.pid(), "import ctypes, hashlib\ndata = hashlib.shake_256(b'seed').digest(8 << 20)");
    assert_eq!(made, "None");
    let server = Server::start(&device);
    let held = server.prepare(python.pid());
    let key: String = held.key.reveal().iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("{} {} {key} {}", server.server.address(), held.handle, python.pid());
    fs::write(seed_file().with_extension("new"), text).expect("written");
    fs::rename(seed_file().with_extension("new"), seed_file()).expect("told");
    wait_until("the other guest to have seen the seed revoked", || {
        if seed_file().with_extension("revoke").exists() {
            let _ = server.seeds.revoke(held.handle);
            fs::write(seed_file().with_extension("revoked"), "").expect("told");
        }
        seed_file().with_extension("done").exists().then_some(())
    });
}

/// The other guest: a process of another host goes on here, with its memory read over there.
#[test]
fn a_python_process_goes_on_in_another_guest() {
    let is_one_of_two = std::env::var("RAMET_VM_PEER").is_ok_and(|peer| peer != "none");
    if !is_one_of_two || std::env::var("RAMET_VM_ROLE").as_deref() != Ok("command") {
        eprintln!("skipped: there is no other guest to fork from");
        return;
    }
    let device = device().expect("a guest's device");
    let told = wait_until("the other guest's seed", || fs::read_to_string(seed_file()).ok());
    let words: Vec<&str> = told.split(' ').collect();
    let (address, handle): (SocketAddr, Handle) = (words[0].parse().expect("it"), words[1].parse().expect("it"));
    let byte = |at: usize| u8::from_str_radix(&words[2][at * 2..at * 2 + 2], 16).expect("a byte");
    let key = Key::from_bytes(std::array::from_fn(byte));
    let (descriptor, source) = rdma::connect(&device, address, handle, &key).expect("the seed");
    assert!(source.is_direct());
    let host = Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host");
    let family = Family::start(Arc::new(host), descriptor, Box::new(source)).expect("a pager");
    let folder = seed_file().with_file_name("talk");
    let expected = "len(data), data == hashlib.shake_256(b'seed').digest(8 << 20), data.count(0)";
    let mut children = Vec::new();
    for _ in 0..2 {
        let child = family.child(&Given::own().expect("streams")).expect("resumed");
        eprintln!("{:?}", child.phases);
        let said = tell(&folder, child.pid, expected);
        assert!(said.starts_with("(8388608, True,"), "{said}");
        // What a child writes is its own.
        tell(&folder, child.pid, "data = bytearray(data)\ndata[0] ^= 0xff");
        assert!(tell(&folder, child.pid, expected).starts_with("(8388608, False,"));
        assert_eq!(tell(&folder, child.pid, LOOK_AT_ALL), "None");
        children.push(child);
    }
    // One more that is not asked for anything yet, when the seed is taken back.
    let late = family.child(&Given::own().expect("streams")).expect("resumed");
    fs::write(seed_file().with_extension("revoke"), "").expect("told");
    wait_until("the seed to be revoked", || seed_file().with_extension("revoked").exists().then_some(()));
    wait_until("the loss to be noticed", || family.is_lost().then_some(()));
    fs::write(folder.join(format!("{}.ask", late.pid)), expected).expect("asked");
    let status = late.pidfd.wait().expect("its end");
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(libc::SIGBUS), "what it does not have is not to be had: {status}");
    for child in children {
        assert!(tell(&folder, child.pid, "len(data)") == "8388608", "who has all goes on");
        child.pidfd.signal(End::Kill).expect("killed");
        child.pidfd.wait().expect("reaped");
    }
    fs::write(seed_file().with_extension("done"), "").expect("told");
}
