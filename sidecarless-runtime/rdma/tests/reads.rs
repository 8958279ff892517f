//! Reads over a real device, or soft-RoCE in an emulated guest: the right bytes, or an error and no byte.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use ramet_rdma::canary::{self, CANARY_BYTES};
use ramet_rdma::endpoint::Address;
use ramet_rdma::reader::PIECES_MAX;
use ramet_rdma::{Device, Domain, Paging, Piece, ReadError, Reader, Region, Registration, Responder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PATIENCE: Duration = Duration::from_secs(30);
const BUFFER_BYTES: usize = 1 << 20;
/// What is in a buffer that nothing was read to.
const UNTOUCHED: u8 = 0xa5;

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

fn address(device: &Device) -> Address {
    let ip = std::env::var("XTASK_VM_ADDRESS").ok().and_then(|ip| ip.parse().ok());
    device.address(ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// Both ends of a connection.
struct Rig {
    device: Device,
    domain: Domain,
    responder: Responder,
    reader: Reader,
}

impl Rig {
    fn new(device: &Device) -> Self {
        Self::in_domain(device, &Domain::new(device).expect("a domain"))
    }

    fn in_domain(device: &Device, domain: &Domain) -> Self {
        let mut responder = Responder::new(domain, address(device)).expect("a responder");
        let mut reader = Reader::new(device, address(device), BUFFER_BYTES).expect("a reader");
        reader.bytes_mut(0, BUFFER_BYTES).fill(UNTOUCHED);
        responder.connect(reader.local()).expect("connected");
        reader.connect(responder.local()).expect("connected");
        Self { device: device.clone(), domain: domain.clone(), responder, reader }
    }

    fn read(&mut self, pieces: &[Piece]) -> Result<(), ReadError> {
        self.reader.post(1, pieces)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<(), ReadError> {
        let deadline = Instant::now() + PATIENCE;
        let mut is_done = false;
        while !is_done {
            self.reader.poll(|_| is_done = true)?;
            assert!(Instant::now() < deadline, "a read is neither done nor failed");
            std::thread::yield_now();
        }
        Ok(())
    }

    fn assert_untouched(&self) {
        let touched = self.reader.bytes(0, BUFFER_BYTES).iter().filter(|byte| **byte != UNTOUCHED).count();
        assert_eq!(touched, 0, "bytes of the buffer were written to");
    }
}

/// Whole pages in which every word differs.
fn memory(bytes: usize) -> &'static [u8] {
    const PAGE_BYTES: usize = 4096;
    let room = vec![0; bytes + PAGE_BYTES].leak();
    let start = room.as_ptr().align_offset(PAGE_BYTES);
    let memory = &mut room[start..start + bytes];
    for (place, word) in memory.as_chunks_mut().0.iter_mut().enumerate() {
        *word = ((place as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).to_ne_bytes();
    }
    memory
}

/// In which ways memory is registered here.
fn pagings(device: &Device) -> Vec<Paging> {
    if !device.pages_on_demand() {
        eprintln!("skipped: paging on demand, which this device does not do");
        return vec![Paging::Pinned];
    }
    if !sings(&mut Rig::new(device), Paging::OnDemand) {
        assert!(std::env::var_os("XTASK_VM_DEVICE").is_none(), "a guest's packets have room for a page");
        eprintln!("skipped: paging on demand, which this device does wrongly with packets shorter than a page");
        return vec![Paging::Pinned];
    }
    vec![Paging::Pinned, Paging::OnDemand]
}

/// Whether the canary is read as it is.
fn sings(rig: &mut Rig, paging: Paging) -> bool {
    let canary = canary::register(&rig.domain, paging).expect("registered");
    rig.read(&canary::pieces(canary.region())).expect("read");
    let is_intact = canary::is_intact(rig.reader.bytes(0, CANARY_BYTES));
    rig.reader.bytes_mut(0, CANARY_BYTES).fill(UNTOUCHED);
    is_intact
}

fn piece(region: Region, offset: u64, to: usize, bytes: u32) -> Piece {
    Piece { from: region.start + offset, key: region.key, to, bytes }
}

#[test]
fn bytes_are_read_where_they_are_and_put_where_they_go() {
    let Some(device) = device() else { return };
    let memory = memory(1 << 20);
    for paging in pagings(&device) {
        let mut rig = Rig::new(&device);
        let registration = Registration::own(&rig.domain, paging, memory).expect("registered");
        let region = registration.region();
        rig.read(&[piece(region, 0, 0, 1 << 20)]).expect("read");
        assert!(rig.reader.bytes(0, 1 << 20) == memory, "all of it, {paging:?}");
        // The last page first, single bytes between whole pages, up to the most pieces.
        let pieces: Vec<Piece> = (0..PIECES_MAX)
            .map(|at| {
                piece(region, ((PIECES_MAX - 1 - at) * 4096) as u64, at * 4096, if at % 3 == 0 { 1 } else { 4096 })
            })
            .collect();
        rig.reader.bytes_mut(0, BUFFER_BYTES).fill(UNTOUCHED);
        rig.read(&pieces).expect("read");
        for piece in pieces {
            let from = (piece.from - region.start) as usize;
            let bytes = piece.bytes as usize;
            assert_eq!(rig.reader.bytes(piece.to, bytes), &memory[from..from + bytes]);
            assert!(rig.reader.bytes(piece.to + bytes, 4096 - bytes).iter().all(|byte| *byte == UNTOUCHED));
        }
    }
}

#[test]
fn many_reads_are_under_way_and_end_in_order() {
    let Some(device) = device() else { return };
    let memory = memory(1 << 20);
    let mut rig = Rig::new(&device);
    let registration = Registration::own(&rig.domain, Paging::Pinned, memory).expect("registered");
    let region = registration.region();
    for token in 0..64 {
        rig.reader.post(token, &[piece(region, token * 4096, token as usize * 4096, 4096)]).expect("posted");
    }
    assert_eq!(rig.reader.room(), PIECES_MAX - 64);
    let (mut done, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while done.len() < 64 {
        rig.reader.poll(|token| done.push(token)).expect("polled");
        assert!(Instant::now() < deadline, "only {} reads are done", done.len());
    }
    assert!(done.iter().copied().eq(0..64), "{done:?}");
    assert!(rig.reader.bytes(0, 64 * 4096) == &memory[..64 * 4096]);
    let too_many = vec![piece(region, 0, 0, 0); PIECES_MAX + 1];
    assert!(matches!(rig.reader.post(0, &too_many), Err(ReadError::Full { .. })));
    rig.read(&[piece(region, 4096, 0, 4096)]).expect("what was refused has ended nothing");
}

#[test]
fn the_channel_tells_of_completions() {
    let Some(device) = device() else { return };
    let memory = memory(4096);
    let mut rig = Rig::new(&device);
    let registration = Registration::own(&rig.domain, Paging::Pinned, memory).expect("registered");
    for token in 0..20 {
        rig.reader.take(|_| panic!("nothing is under way")).expect("armed");
        rig.reader.post(token, &[piece(registration.region(), 0, 0, 4096)]).expect("posted");
        let readiness = rig.reader.readiness().expect("connected");
        let patience = Timespec::try_from(PATIENCE).expect("a time");
        let ready = poll(&mut [PollFd::from_borrowed_fd(readiness, PollFlags::IN)], Some(&patience));
        assert_eq!(ready.expect("waited"), 1, "nothing was told of read {token}");
        rig.wait().expect("read");
    }
}

#[test]
fn what_is_not_registered_is_refused_and_nothing_is_written() {
    let Some(device) = device() else { return };
    let memory = memory(1 << 16);
    for paging in pagings(&device) {
        let domain = Domain::new(&device).expect("a domain");
        let registration = Registration::own(&domain, paging, memory).expect("registered");
        let region = registration.region();
        let wrong = [
            Piece { key: region.key ^ 0x100, ..piece(region, 0, 0, 4096) },
            Piece { key: region.key ^ 1, ..piece(region, 0, 0, 4096) },
            Piece { from: region.start - 1, ..piece(region, 0, 0, 4096) },
            Piece { from: region.start + (1 << 16) - 4095, ..piece(region, 0, 0, 4096) },
            Piece { from: 0, ..piece(region, 0, 0, 4096) },
            Piece { from: u64::MAX - 8191, ..piece(region, 0, 0, 4096) },
        ];
        for piece in wrong {
            let mut rig = Rig::in_domain(&device, &domain);
            let outcome = rig.read(&[piece]);
            let Err(error) = outcome else { panic!("{piece:?} of {region:?} was read, {paging:?}") };
            assert!(matches!(error, ReadError::Refused), "{error:?} for {piece:?}");
            rig.assert_untouched();
            assert!(matches!(rig.read(&[piece]), Err(ReadError::Ended)), "the connection has ended");
        }
    }
}

#[test]
fn keys_of_another_domain_and_guessed_ones_give_no_byte() {
    let Some(device) = device() else { return };
    let (owner, other) = (Domain::new(&device).expect("a domain"), Domain::new(&device).expect("another"));
    let registration = Registration::own(&owner, Paging::Pinned, memory(4096)).expect("registered");
    let region = registration.region();
    // The key itself is among those that are tried.
    let mut tried = 0;
    for guess in region.key.saturating_sub(64)..=region.key.saturating_add(64) {
        let mut rig = Rig::in_domain(&device, &other);
        let error = rig.read(&[Piece { key: guess, ..piece(region, 0, 0, 4096) }]).expect_err("not this domain's");
        assert!(matches!(error, ReadError::Refused), "{error:?}");
        rig.assert_untouched();
        tried += 1;
    }
    assert_eq!(tried, 129);
    Rig::in_domain(&device, &owner).read(&[piece(region, 0, 0, 4096)]).expect("its own domain reads it");
}

#[test]
fn revocation_while_reads_are_under_way_gives_the_right_bytes_or_none() {
    let Some(device) = device() else { return };
    let memory = memory(1 << 20);
    let pagings = pagings(&device);
    for race in 0..20_u32 {
        let mut rig = Rig::new(&device);
        let paging = pagings[race as usize % pagings.len()];
        let registration = Registration::own(&rig.domain, paging, memory).expect("registered");
        let region = registration.region();
        for token in 0..16 {
            rig.reader.post(token, &[piece(region, token << 16, (token as usize) << 16, 1 << 16)]).expect("posted");
        }
        // So many are awaited before the rest is raced.
        let (mut done, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        while done.len() < race as usize % 16 {
            rig.reader.poll(|token| done.push(token)).expect("nothing is revoked yet");
            assert!(Instant::now() < deadline, "a read is neither done nor failed");
        }
        drop(registration);
        let mut outcome = Ok(());
        while done.len() < 16 && outcome.is_ok() {
            outcome = rig.reader.poll(|token| done.push(token)).map(drop);
            assert!(Instant::now() < deadline, "a read is neither done nor failed");
        }
        for token in &done {
            let at = (*token as usize) << 16;
            assert!(rig.reader.bytes(at, 1 << 16) == &memory[at..at + (1 << 16)], "race {race}, read {token}");
        }
        // One that comes too late in any case.
        rig.reader.bytes_mut(0, BUFFER_BYTES).fill(UNTOUCHED);
        let outcome = outcome.and_then(|()| rig.read(&[piece(region, 0, 0, 1 << 16)]));
        assert!(matches!(outcome, Err(ReadError::Refused)), "{outcome:?}");
        rig.assert_untouched();
    }
}

#[test]
fn what_a_device_reads_wrongly_is_found_out() {
    let Some(device) = device() else { return };
    assert!(sings(&mut Rig::new(&device), Paging::Pinned), "pinned pages are read as they are");
    if std::env::var_os("XTASK_VM_DEVICE").is_none() {
        eprintln!("skipped: only in a guest is a device with short packets made");
        return;
    }
    let made = [
        "ip link add narrow0 mtu 1500 type veth peer narrow1",
        "ip addr add 10.78.0.1/24 dev narrow0",
        "ip link set narrow0 up",
        "ip link set narrow1 up",
        "rdma link add narrow type rxe netdev narrow0",
    ];
    for command in made {
        assert!(Command::new("sh").args(["-c", command]).status().expect("a shell").success(), "{command}");
    }
    let narrow = Device::open(Some("narrow")).expect("it was just made");
    assert!(sings(&mut Rig::new(&narrow), Paging::Pinned), "pinned pages are read as they are");
    if narrow.pages_on_demand() {
        assert!(!sings(&mut Rig::new(&narrow), Paging::OnDemand), "this kernel is right: the canary is of no more use");
    }
}

#[test]
fn a_peer_that_is_gone_is_noticed() {
    let Some(device) = device() else { return };
    let mut rig = Rig::new(&device);
    let registration = Registration::own(&rig.domain, Paging::Pinned, memory(4096)).expect("registered");
    let region = registration.region();
    rig.read(&[Piece { from: 0, key: 0, to: 0, bytes: 0 }]).expect("a peer that is there answers");
    let gone = Responder::new(&rig.domain, address(&rig.device)).expect("another end");
    drop(std::mem::replace(&mut rig.responder, gone));
    let start = Instant::now();
    let error = rig.read(&[piece(region, 0, 0, 4096)]).expect_err("nobody answers");
    assert!(matches!(error, ReadError::NoAnswer), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
    rig.assert_untouched();
}

#[test]
fn what_is_missing_is_said() {
    let error = Device::open(Some("no-such-device")).expect_err("there is none of this name");
    let text = error.to_string();
    assert!(["no libibverbs: install", "no RDMA device"].iter().any(|start| text.starts_with(start)), "{text}");
}
