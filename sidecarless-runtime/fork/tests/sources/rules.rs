//! What every page source must do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ramet_fork::source::{READ_BYTES_MAX, READ_RANGES_MAX, READS_MAX, SourceError};
use ramet_fork::{PageSource, source};
use ramet_sys::Range;

use crate::fabric::{Fabric, GROUPS, PATIENCE, collect, read};
use crate::patterned::{OWN, PAGE_BYTES, pattern};

pub(crate) fn every_page_is_what_it_was(fabric: &Fabric) {
    let mut source = fabric.open();
    let ranges: Vec<Range> = (0..GROUPS).map(|group| fabric.target.own(group)).collect();
    let mut bytes = vec![0xff; (GROUPS * OWN * PAGE_BYTES) as usize];
    source::read(source.as_mut(), &ranges, &mut bytes).expect("read");
    let expected: Vec<u8> = ranges.iter().flat_map(|range| pattern(*range)).collect();
    assert!(bytes == expected);
    // And each page alone.
    for page in 0..4 * OWN {
        let group = fabric.target.own(page / OWN);
        let range = Range { start: group.start + page % OWN * PAGE_BYTES, bytes: PAGE_BYTES };
        assert!(read(source.as_mut(), range).expect("read") == pattern(range), "page {page}");
    }
}

pub(crate) fn reads_of_many_ranges_come_as_they_were_asked_for(fabric: &Fabric) {
    let mut source = fabric.open();
    // Backwards, of all lengths, one of them twice.
    let mut ranges: Vec<Range> = (0..200)
        .rev()
        .map(|group| {
            let own = fabric.target.own(group);
            let first = group % OWN;
            Range { start: own.start + first * PAGE_BYTES, bytes: 1.max((OWN - first) / 16) * PAGE_BYTES }
        })
        .collect();
    ranges.push(ranges[5]);
    source.begin(u64::MAX, &ranges).expect("begun");
    let answers = collect(source.as_mut(), 1).expect("answered");
    let expected: Vec<u8> = ranges.iter().flat_map(|range| pattern(*range)).collect();
    assert_eq!(answers[0].0, u64::MAX);
    assert!(answers[0].1 == expected);
}

pub(crate) fn many_reads_are_under_way_at_once(fabric: &Fabric) {
    let mut source = fabric.open();
    for round in 0..4 {
        for token in 0..READS_MAX as u64 {
            source.begin(token << 33 | round, &[fabric.target.own((token * 3 + round) % GROUPS)]).expect("begun");
        }
        let mut answers = collect(source.as_mut(), READS_MAX).expect("answered");
        answers.sort_by_key(|(token, _)| *token);
        for (token, (answered, pages)) in (0..).zip(answers) {
            assert_eq!(answered, token << 33 | round, "each once");
            assert!(pages == pattern(fabric.target.own((token * 3 + round) % GROUPS)), "read {token}");
        }
    }
}

pub(crate) fn a_read_that_is_too_large_is_refused_and_the_source_lives(fabric: &Fabric) {
    let mut source = fabric.open();
    let page = Range { bytes: PAGE_BYTES, ..fabric.target.own(0) };
    let refused = |outcome| assert!(matches!(outcome, Err(SourceError::TooMuch { .. })), "{outcome:?}");
    refused(source.begin(0, &vec![page; READ_RANGES_MAX + 1]));
    refused(source.begin(0, &[Range { bytes: READ_BYTES_MAX + PAGE_BYTES, ..page }]));
    refused(source.begin(0, &[Range { bytes: u64::MAX, ..page }, Range { bytes: 2, ..page }]));
    for token in 0..READS_MAX as u64 {
        source.begin(token, &[page]).expect("begun");
    }
    refused(source.begin(99, &[page]));
    assert_eq!(collect(source.as_mut(), READS_MAX).expect("answered").len(), READS_MAX);
    // The most that is allowed is.
    source.begin(0, &[page; (READ_BYTES_MAX / PAGE_BYTES) as usize]).expect("begun");
    assert_eq!(collect(source.as_mut(), 1).expect("answered")[0].1.len() as u64, READ_BYTES_MAX);
}

pub(crate) fn what_is_not_granted_is_not_read(fabric: &Fabric) {
    let own = fabric.target.own(3);
    for range in [
        fabric.target.secret(3),
        Range { start: own.start, bytes: own.bytes + PAGE_BYTES },
        Range { start: own.start + 1, bytes: PAGE_BYTES },
        Range { start: own.start, bytes: 1 },
        Range { start: own.start, bytes: 0 },
        Range { start: u64::MAX - PAGE_BYTES + 1, bytes: PAGE_BYTES },
        Range { start: PAGE_BYTES, bytes: PAGE_BYTES },
    ] {
        let mut source = fabric.open();
        let outcome = source.begin(7, &[own, range]).and_then(|()| collect(source.as_mut(), 1));
        assert!(matches!(outcome, Err(SourceError::Refused(_))), "{range:x?}: {outcome:?}");
        let mut source = fabric.open();
        let outcome = source.at_once(range);
        assert!(matches!(outcome, Ok(None) | Err(SourceError::Refused(_))), "{range:x?}: {outcome:?}");
    }
}

/// The source refuses within a time, and gives nothing but what is right until then.
fn ends(fabric: &Fabric, source: &mut dyn PageSource, within: Duration) -> SourceError {
    let start = Instant::now();
    loop {
        match read(source, fabric.target.own(1)) {
            Ok(pages) => assert!(pages == pattern(fabric.target.own(1))),
            Err(error) => return error,
        }
        assert!(start.elapsed() < within, "it is still read");
    }
}

pub(crate) fn a_seed_that_is_revoked_is_not_read_any_more(fabric: &Fabric) {
    let mut source = fabric.open();
    assert!(read(source.as_mut(), fabric.target.own(0)).expect("read") == pattern(fabric.target.own(0)));
    fabric.seeds.revoke(fabric.held.handle).expect("revoked");
    let error = source.begin(7, &[fabric.target.own(0)]).and_then(|()| collect(source.as_mut(), 1));
    let error = error.expect_err("nothing is read after it was revoked").to_string();
    assert!(error.contains("it was revoked"), "{error}");
}

/// Many times, because it must hit a read.
pub(crate) fn a_seed_that_is_revoked_amid_reads_gives_no_wrong_byte(fabric: &Fabric) {
    let ranges: Vec<Range> = (0..8).map(|group| fabric.target.own(group)).collect();
    let expected: Vec<u8> = ranges.iter().flat_map(|range| pattern(*range)).collect();
    for _ in 0..20 {
        let held = fabric.prepare_for(PATIENCE);
        let mut source = fabric.open_other(&held);
        let reads = AtomicU64::new(0);
        let revoke = || {
            while reads.load(Ordering::Relaxed) < 3 {
                thread::yield_now();
            }
            fabric.seeds.revoke(held.handle).expect("revoked");
        };
        let mut read_on = || {
            let start = Instant::now();
            let mut bytes = vec![0xff; expected.len()];
            while start.elapsed() < PATIENCE {
                source::read(source.as_mut(), &ranges, &mut bytes)?;
                assert!(bytes == expected);
                bytes.fill(0xff);
                reads.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, SourceError>(())
        };
        let error = thread::scope(|scope| {
            scope.spawn(revoke);
            read_on().expect_err("it is not read any more").to_string()
        });
        assert!(error.contains("it was revoked"), "{error}");
    }
}

pub(crate) fn a_seed_whose_lease_ends_is_not_read_any_more(fabric: &Fabric) {
    let held = fabric.prepare_for(Duration::from_millis(300));
    let mut source = fabric.open_other(&held);
    let error = ends(fabric, source.as_mut(), PATIENCE).to_string();
    assert!(error.contains("its lease has expired"), "{error}");
}

pub(crate) fn a_seed_whose_process_is_killed_is_not_read_any_more(fabric: &Fabric) {
    let mut source = fabric.open();
    let seed = fabric.seeds.list()[0].seed;
    assert!(
        ramet_sys::Pidfd::of_child(seed.cast_unsigned()).is_ok_and(|seed| seed.signal(ramet_sys::End::Kill).is_ok())
    );
    let error = ends(fabric, source.as_mut(), PATIENCE);
    assert!(matches!(error, SourceError::Refused(_)), "{error}");
}

pub(crate) fn what_was_taught_is_given_to_the_next(fabric: &Fabric) {
    let mut first = fabric.open();
    // Where every child begins is known from the beginning.
    let beginning = first.take_learned().expect("learned pages").ranges;
    let page =
        |group: u64, page: u64| Range { start: fabric.target.own(group).start + page * PAGE_BYTES, bytes: PAGE_BYTES };
    let taught = [page(9, 3), page(2, 0), page(2, 1), page(2, 2), page(9, 3)];
    first.teach(&taught).expect("taught");
    let expected = [page(9, 3), Range { bytes: 3 * PAGE_BYTES, ..page(2, 0) }];
    // Not every read goes the way that what is taught goes, so that it may come sooner.
    let (mut next, deadline) = (fabric.open(), Instant::now() + PATIENCE);
    let mut learned = next.take_learned().expect("learned pages");
    while learned.ranges.len() < beginning.len() + expected.len() {
        assert!(Instant::now() < deadline, "it is not learned: {:?}", learned.ranges);
        next = fabric.open();
        learned = next.take_learned().expect("learned pages");
    }
    let mut all = [&beginning[..], &expected].concat();
    all.sort_unstable_by_key(|range| range.start);
    assert_eq!(learned.ranges, all);
    let mut pages = &learned.pages[..];
    for range in &learned.ranges {
        let (these, rest) = pages.split_at(range.bytes as usize);
        assert!(!expected.contains(range) || these == pattern(*range), "{range:?}");
        pages = rest;
    }
    let again = next.take_learned().expect("no learned pages");
    assert_eq!(again, source::Learned::default(), "they are given once");
    if first.teach(&[fabric.target.secret(0)]).is_ok() {
        // What is not the seed's is not learned: who says it is believed nothing more.
        ends(fabric, first.as_mut(), PATIENCE);
    }
}

pub(crate) fn a_server_that_stops_says_so(fabric: &Fabric) {
    let mut source = fabric.open();
    read(source.as_mut(), fabric.target.own(0)).expect("read");
    fabric.stop_server();
    let error = ends(fabric, source.as_mut(), PATIENCE).to_string();
    assert!(error.contains("its host has stopped"), "{error}");
}

/// What a proxy does to what it passes on to the client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    Cut,
    Stop,
    /// One byte of all that comes at once, first about so far behind its beginning.
    Change(usize),
}

/// A link that becomes harmful when it is told to.
struct Proxy {
    address: SocketAddr,
    is_harmful: Arc<AtomicBool>,
}

impl Proxy {
    fn start(to: SocketAddr, harm: Harm) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let is_harmful = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_harmful);
        thread::spawn(move || {
            let (client, _) = listener.accept().expect("a client");
            let server = TcpStream::connect(to).expect("the server");
            let (mut from_client, mut to_server) = (client.try_clone().expect("it"), server.try_clone().expect("it"));
            thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
            pass_on(server, client, harm, &told);
        });
        Self { address, is_harmful }
    }

    fn harm(&self) {
        self.is_harmful.store(true, Ordering::Relaxed);
    }
}

fn pass_on(mut server: TcpStream, mut client: TcpStream, harm: Harm, told: &AtomicBool) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = server.read(&mut bytes) {
        if told.load(Ordering::Relaxed) {
            match harm {
                Harm::Cut => break,
                Harm::Stop => continue,
                Harm::Change(at) => bytes[at % count] ^= 0x10,
            }
        }
        if client.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = server.shutdown(std::net::Shutdown::Both);
}

fn harmed(fabric: &Fabric, harm: Harm) -> SourceError {
    let proxy = Proxy::start(fabric.address(), harm);
    let mut source = fabric.connect(proxy.address);
    assert!(read(source.as_mut(), fabric.target.own(0)).expect("read") == pattern(fabric.target.own(0)));
    proxy.harm();
    ends(fabric, source.as_mut(), PATIENCE)
}

pub(crate) fn a_link_that_is_cut_is_noticed(fabric: &Fabric) {
    let error = harmed(fabric, Harm::Cut);
    assert!(matches!(error, SourceError::Link(_)), "{error}");
}

pub(crate) fn a_link_that_falls_silent_is_noticed(fabric: &Fabric) {
    let error = harmed(fabric, Harm::Stop);
    assert!(matches!(error, SourceError::Silent(_)), "{error}");
}

pub(crate) fn a_link_that_changes_bytes_gives_no_wrong_byte(fabric: &Fabric) {
    for round in 0..20 {
        let error = harmed(fabric, Harm::Change(round * 7919));
        assert!(matches!(error, SourceError::Wire(_) | SourceError::Silent(_)), "{error}");
    }
}
