//! Seeds that are read by RDMA, in an emulated guest that has a device. Two guests do it in `tests/tests/fork/pair.rs`.

#[path = "programs/hoard.rs"]
mod hoard;

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_fork::seeds::Limits;
use ramet_fork::source::{self, READ_BYTES_MAX, RdmaSource, rdma};
use ramet_fork::{Agent, ForkDescriptor, Held, PageServer, Seeds, Terms};
use ramet_rdma::Device;
use ramet_sys::Range;

use self::hoard::Hoard;

const PAGE_BYTES: u64 = 4096;
const LEASE: Duration = Duration::from_secs(600);

/// Without a device there is nothing to test; in a guest there is one.
fn device() -> Option<Device> {
    let guests = std::env::var("XTASK_VM_DEVICE").ok();
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
        let host = std::env::var("XTASK_VM_ADDRESS").unwrap_or_else(|_| "127.0.0.1".to_owned());
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
    if std::env::var_os("XTASK_VM_DEVICE").is_none() || !device.pages_on_demand() {
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
