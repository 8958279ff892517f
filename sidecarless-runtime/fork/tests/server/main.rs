//! A page server gives nothing to who may not have it, whatever is said to it, and goes on serving who may.

#[path = "../programs/patterned.rs"]
mod patterned;
mod raw;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_fork::seeds::{Ending, Limits, Refusal};
use ramet_fork::server::{GREETING_TIMEOUT, GUESTS_MAX, LINKS_PER_SEED_MAX};
use ramet_fork::source::tcp::{self, ConnectError};
use ramet_fork::{Handle, Held, Key, PageServer, Seeds, Terms, source};
use ramet_sys::Range;

use self::patterned::{OWN, PAGE_BYTES, Target, pattern};
use self::raw::{KIND_ERROR, KIND_PAGES, KIND_READ, KIND_TEACH, KIND_WELCOME, Raw, frame, ranges};

const GROUPS: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(30);

struct Served {
    target: Target,
    seeds: Arc<Seeds>,
    held: Held,
    server: PageServer,
    /// What each group of pages holds.
    contents: Vec<Vec<u8>>,
}

impl Served {
    fn start() -> Self {
        let target = Target::start(GROUPS);
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let held = seeds.prepare(target.pid(), Terms { lease: Duration::from_secs(600) }).expect("prepared");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
        let contents = (0..GROUPS).map(|group| pattern(target.own(group))).collect();
        Self { target, seeds, held, server, contents }
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    fn enter(&self) -> Raw {
        Raw::enter(self.address(), self.held.handle, &self.held.key)
    }

    /// What is at a range of the target's own.
    fn content(&self, range: Range) -> &[u8] {
        let groups = (0..GROUPS).map(|group| self.target.own(group)).zip(&self.contents);
        let (own, content) = groups.into_iter().find(|(own, _)| own.contains(range.start)).expect("its own");
        let start = (range.start - own.start) as usize;
        &content[start..start + range.bytes as usize]
    }

    /// Whoever knows the key reads what is there.
    fn serves(&self) {
        let (_, mut source) = tcp::connect(self.address(), self.held.handle, &self.held.key).expect("the seed");
        let range = self.target.own(5);
        let mut pages = vec![0xff; range.bytes as usize];
        source::read(&mut source, &[range], &mut pages).expect("read");
        assert!(pages == pattern(range));
    }

    /// Waits until nobody but the one that asks is connected.
    fn is_left_alone(&self) {
        wait_until("the connections to end", || self.seeds.list()[0].readers == 0);
    }

    /// Whether all of a range is the target's own, and so may be read.
    fn is_own(&self, range: Range) -> bool {
        let Some(end) = range.start.checked_add(range.bytes) else { return false };
        let whole = range.bytes > 0 && (range.start | range.bytes).is_multiple_of(PAGE_BYTES);
        whole && (0..GROUPS).map(|group| self.target.own(group)).any(|own| own.start <= range.start && end <= own.end())
    }
}

fn wait_until(what: &str, mut attempt: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !attempt() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        // tidy: another process or thread is waited for, with a deadline.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A small generator of numbers that are the same in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What this process has in memory, and how many threads: the server is in it.
fn usage() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let number = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a line");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    };
    (number("VmRSS:"), number("Threads:"))
}

fn random_range(served: &Served, numbers: &mut Numbers) -> Range {
    let group = served.target.own(numbers.below(GROUPS));
    let start = group.start + numbers.below(OWN) * PAGE_BYTES;
    match numbers.below(100) {
        // What may be read.
        0..96 => Range { start, bytes: PAGE_BYTES * (1 + numbers.below(2)).min((group.end() - start) / PAGE_BYTES) },
        // What may be in part: it goes on into the page of a file.
        96 => Range { start, bytes: group.end() - start + PAGE_BYTES },
        97 => served.target.secret(numbers.below(GROUPS)),
        98 => Range { start: start + numbers.below(PAGE_BYTES), bytes: 1 + numbers.below(2 * PAGE_BYTES) },
        _ => Range { start: numbers.next(), bytes: numbers.next() },
    }
}

#[test]
fn a_million_random_requests_get_no_byte_that_is_not_granted() {
    const REQUESTS: u64 = 1_000_000;
    let served = Served::start();
    let mut numbers = Numbers(0x5eed_0001);
    let (mut asked, mut given, mut refused) = (0, 0, 0);
    let mut before = None;
    while asked < REQUESTS {
        let mut raw = served.enter();
        'connection: loop {
            let mut requests = Vec::new();
            let mut bytes = Vec::new();
            for token in 0..32 {
                let some: Vec<Range> = (0..1 + numbers.below(2)).map(|_| random_range(&served, &mut numbers)).collect();
                bytes.extend(frame(KIND_READ, token, &ranges(&some)));
                requests.push(some);
            }
            asked += requests.len() as u64;
            // The server may have ended the connection in the midst of it.
            let _ = raw.stream.write_all(&bytes);
            for (token, request) in (0..).zip(requests) {
                let answer = raw.next_frame().expect("a page or an error");
                if answer.kind == KIND_ERROR {
                    assert!(!request.iter().all(|range| served.is_own(*range)), "{request:x?} may be read");
                    refused += 1;
                    break 'connection;
                }
                assert_eq!((answer.kind, answer.token), (KIND_PAGES, token));
                assert!(request.iter().all(|range| served.is_own(*range)), "{request:x?} may not be read");
                let expected: Vec<&[u8]> = request.iter().map(|range| served.content(*range)).collect();
                let expected = expected.concat();
                assert!(raw::restored(&answer.payload, expected.len()) == expected, "{request:x?}");
                given += 1;
            }
            if asked >= REQUESTS {
                break;
            }
        }
        drop(raw);
        if before.is_none() && asked > REQUESTS / 10 {
            before = Some(usage());
        }
    }
    let (resident_before, _) = before.expect("a look");
    served.is_left_alone();
    let (resident, _) = usage();
    eprintln!("{given} given, {refused} connections refused; {resident_before} and {resident} KiB resident");
    assert!(given > REQUESTS / 20 && refused > 1000, "both happen");
    assert!(resident < resident_before + 32 * 1024, "{resident_before} KiB became {resident} KiB");
    served.serves();
}

#[test]
fn a_stranger_is_told_the_same_whatever_it_does_not_know() {
    let served = Served::start();
    let known = Key::from_bytes(*served.held.key.reveal());
    let wrong = Key::from_bytes([7; 16]);
    let unknown = Handle::from_bytes([9; 16]);
    let heard: Vec<Vec<u8>> = [(served.held.handle, &wrong), (unknown, &known), (unknown, &wrong)]
        .into_iter()
        .map(|(handle, key)| {
            let mut raw = Raw::ask(served.address(), handle, key);
            let mut heard = Vec::new();
            raw.stream.read_to_end(&mut heard).expect("an answer, and the end");
            heard
        })
        .collect();
    assert!(heard.windows(2).all(|pair| pair[0] == pair[1]), "{heard:?}");
    let refusal = |outcome: Result<(_, _), ConnectError>| match outcome.map(|_| ()) {
        Err(ConnectError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(tcp::connect(served.address(), served.held.handle, &wrong)), Refusal::Stranger);
    assert_eq!(refusal(tcp::connect(served.address(), unknown, &known)), Refusal::Stranger);
    // Why a seed has ended only who knows its key is told.
    served.seeds.revoke(served.held.handle).expect("revoked");
    let ended = Refusal::Ended(Ending::Revoked);
    assert_eq!(refusal(tcp::connect(served.address(), served.held.handle, &known)), ended);
    assert_eq!(refusal(tcp::connect(served.address(), served.held.handle, &wrong)), Refusal::Stranger);
}

#[test]
fn a_recorded_conversation_opens_nothing() {
    let served = Served::start();
    let raw = served.enter();
    let said = raw.said.clone();
    for _ in 0..50 {
        let mut stream = TcpStream::connect(served.address()).expect("connected");
        stream.write_all(&said).expect("said again");
        let heard = Raw::listen(stream).next_frame().expect("an answer");
        assert_eq!(heard.kind, KIND_ERROR);
    }
    served.serves();
}

/// Who answers with another's words does not know the key.
#[test]
fn an_impostor_is_found_out() {
    let served = Served::start();
    let heard = served.enter().heard;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let impostor = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(&heard).expect("said again");
        let _ = client.read_to_end(&mut Vec::new());
    });
    let outcome = tcp::connect(address, served.held.handle, &served.held.key).map(|_| ());
    assert!(matches!(outcome, Err(ConnectError::Impostor(_))), "{outcome:?}");
    impostor.join().expect("an end");
}

#[test]
fn a_damaged_greeting_is_no_stranger() {
    let served = Served::start();
    let mut heard = served.enter().heard;
    // Behind the challenge and the head of the frame that welcomes.
    heard[100] ^= 1;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("an address");
    let other = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        client.write_all(&heard).expect("said again");
        let _ = client.read_to_end(&mut Vec::new());
    });
    let error = tcp::connect(address, served.held.handle, &served.held.key).map(|_| ()).expect_err("it is damaged");
    assert_eq!(error.to_string(), format!("what {address} has sent was damaged on its way; try again"));
    other.join().expect("an end");
}

#[test]
fn who_is_no_page_server_is_said_to_be_none() {
    let key = Key::from_bytes([1; 16]);
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a listener").local_addr().expect("an address");
    let outcome = tcp::connect(nobody, Handle::from_bytes([1; 16]), &key).map(|_| ());
    assert!(matches!(outcome, Err(ConnectError::Unreachable { .. })), "{outcome:?}");
    for answer in [&b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n"[..], b""] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let other = std::thread::spawn(move || listener.accept().expect("a client").0.write_all(answer));
        let outcome = tcp::connect(address, Handle::from_bytes([1; 16]), &key).map(|_| ());
        assert!(matches!(outcome, Err(ConnectError::Wire { .. } | ConnectError::Link { .. })), "{outcome:?}");
        other.join().expect("an end").expect("said");
    }
}

#[test]
fn garbage_at_the_door_keeps_nobody_else_out() {
    let served = Served::start();
    let mut numbers = Numbers(0x5eed_0002);
    let hello = served.enter().said;
    let mut held = Vec::new();
    for round in 0..2000 {
        let mut stream = TcpStream::connect(served.address()).expect("connected");
        let length = numbers.below(hello.len() as u64 + 40) as usize;
        let mut bytes: Vec<u8> = hello.iter().copied().chain(std::iter::repeat(7)).take(length).collect();
        for _ in 0..numbers.below(4) {
            if let Some(byte) = bytes.get_mut(numbers.below(length.max(1) as u64) as usize) {
                *byte = numbers.next() as u8;
            }
        }
        let _ = stream.write_all(&bytes);
        // Most stay and say no more.
        if numbers.below(4) > 0 {
            held.push(stream);
        }
        if round % 100 == 0 {
            served.serves();
        }
        if held.len() > GUESTS_MAX + 100 {
            held.drain(..100);
        }
    }
    served.serves();
}

#[test]
fn who_says_its_greeting_byte_by_byte_is_shown_out() {
    let served = Served::start();
    let hello = served.enter().said;
    let mut stream = TcpStream::connect(served.address()).expect("connected");
    let start = Instant::now();
    for byte in hello {
        if stream.write_all(&[byte]).is_err() {
            break;
        }
        assert!(start.elapsed() < GREETING_TIMEOUT * 2, "{:?}", start.elapsed());
        // tidy: the client is a slow one.
        std::thread::sleep(GREETING_TIMEOUT / 20);
    }
    assert!(start.elapsed() > GREETING_TIMEOUT / 2, "{:?}", start.elapsed());
    served.serves();
}

#[test]
fn a_reader_that_says_what_makes_no_sense_is_shown_out() {
    let served = Served::start();
    let page = Range { bytes: PAGE_BYTES, ..served.target.own(0) };
    let read = frame(KIND_READ, 1, &ranges(&[page]));
    let too_many = frame(KIND_READ, 1, &ranges(&vec![page; 1025]));
    let too_much = frame(KIND_READ, 1, &ranges(&[Range { bytes: (1 << 20) + PAGE_BYTES, ..page }]));
    let much_too_much = frame(KIND_READ, 1, &ranges(&[Range { bytes: u64::MAX, ..page }; 2]));
    let mut too_long = read.clone();
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let no_ranges = frame(KIND_READ, 1, &[1, 2, 3]);
    let not_own = frame(KIND_TEACH, 1, &ranges(&[served.target.secret(0)]));
    let servers_own = [KIND_WELCOME, KIND_PAGES, KIND_ERROR, 0, 99, 255].map(|kind| frame(kind, 1, &[]));
    let mut bad = vec![too_many, too_much, much_too_much, too_long, no_ranges, not_own];
    bad.extend(servers_own);
    for place in 0..read.len() {
        let mut damaged = read.clone();
        damaged[place] ^= 0x40;
        bad.push(damaged);
    }
    for bytes in bad {
        let mut raw = served.enter();
        raw.stream.write_all(&bytes).expect("said");
        raw.stream.shutdown(std::net::Shutdown::Write).expect("no more");
        match raw.next_frame() {
            Some(answer) => assert_eq!(answer.kind, KIND_ERROR, "{bytes:x?}"),
            // What seems to be part of a longer frame.
            None => assert!(bytes[4..8] != read[4..8], "{bytes:x?}"),
        }
    }
    served.is_left_alone();
    served.serves();
}

#[test]
fn who_takes_nothing_of_what_it_asked_for_holds_up_nobody() {
    let served = Served::start();
    let mut raw = served.enter();
    raw.stream.set_nonblocking(true).expect("a socket");
    let all: Vec<Range> = (0..GROUPS / 4).map(|group| served.target.own(group)).collect();
    let request = frame(KIND_READ, 1, &ranges(&all));
    let (resident_before, _) = usage();
    let start = Instant::now();
    let mut said = 0;
    wait_until("the server to end it", || {
        served.serves();
        match raw.stream.write(&request[said % request.len()..]) {
            Ok(more) => {
                said += more;
                false
            }
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    });
    let (resident, _) = usage();
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    assert!(resident < resident_before + 16 * 1024, "{resident_before} KiB became {resident} KiB");
}

#[test]
fn connections_to_a_seed_are_bounded_and_come_back() {
    let served = Served::start();
    let (_, threads_before) = usage();
    for _ in 0..2 {
        let links: Vec<Raw> = (0..LINKS_PER_SEED_MAX).map(|_| served.enter()).collect();
        let outcome = tcp::connect(served.address(), served.held.handle, &served.held.key).map(|_| ());
        assert!(matches!(outcome, Err(ConnectError::Refused { refusal: Refusal::Busy, .. })), "{outcome:?}");
        drop(links);
        served.is_left_alone();
        wait_until("the threads to end", || usage().1 <= threads_before);
    }
    served.serves();
}

#[test]
fn a_server_that_ends_leaves_nothing_behind() {
    let mut served = Served::start();
    let mut links: Vec<Raw> = (0..8).map(|_| served.enter()).collect();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let server = PageServer::start(listener, Arc::clone(&served.seeds)).expect("a server");
    let address = std::mem::replace(&mut served.server, server).address();
    for link in &mut links {
        assert_eq!(link.next_frame().expect("an end").kind, KIND_ERROR);
        assert!(link.next_frame().is_none());
    }
    assert!(TcpStream::connect(address).is_err(), "nobody listens there");
    served.is_left_alone();
    served.serves();
}
