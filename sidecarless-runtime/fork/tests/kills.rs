//! Whatever a child loses while it still needs pages, it never sees a wrong one: it has all its bytes, or it ends by
//! `SIGBUS` and the reason is logged. It never waits for ever.

#[path = "programs/witness.rs"]
mod witness;

use std::io::{self, PipeReader, Read, pipe};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ramet_fork::seeds::Limits;
use ramet_fork::source::tcp;
use ramet_fork::{Child, Family, ForkDescriptor, Given, Held, Host, PageServer, PageSource, Seeds, Terms};
use ramet_sys::{End, Pidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::witness::Witness;

/// How many children are watched.
const CHILDREN: usize = 1000;
/// How many one seed has.
const SIBLINGS: usize = 25;
/// How long a child may take for everything, with others beside it.
const PATIENCE: Duration = Duration::from_secs(30);
/// The moment at which something is lost lies within this after the first child.
const WITHIN_US: u64 = 200_000;
/// About how long it takes until there is the first child.
const BEFORE_CHILDREN: Duration = Duration::from_millis(8);

/// What is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Nothing,
    /// The seed's process is killed.
    Seed,
    Revoked,
    /// Its lease ends.
    Expired,
    /// The page server ends.
    Server,
    /// The link to it breaks.
    Link,
}

/// The same numbers in every run (xorshift64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the log").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that one seed's children need.
struct Round {
    seeds: Arc<Seeds>,
    held: Held,
    server: Option<PageServer>,
    links: Option<Receiver<TcpStream>>,
    family: Family,
}

impl Round {
    /// None: it was lost before there could be a child.
    fn start(target: &Witness, is_local: bool, loss: Loss, moment: Duration) -> Option<Self> {
        let seeds = Arc::new(Seeds::new(Limits::default()));
        let lease = if loss == Loss::Expired { BEFORE_CHILDREN + moment } else { Duration::from_secs(600) };
        let held = seeds.prepare(target.pid(), Terms { lease }).expect("prepared");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let server = PageServer::start(listener, Arc::clone(&seeds)).expect("a server");
        let mut links = None;
        let (descriptor, source): (ForkDescriptor, Box<dyn PageSource>) = if is_local {
            let (descriptor, source) = seeds.open_local(held.handle, &held.key).ok()?;
            (ForkDescriptor::decode(&descriptor).expect("a descriptor"), Box::new(source))
        } else {
            let mut address = server.address();
            if loss == Loss::Link {
                links = Some(breakable(&mut address));
            }
            let (descriptor, source) = tcp::connect(address, held.handle, &held.key).ok()?;
            (descriptor, Box::new(source))
        };
        let host = Host::start(Command::new(env!("CARGO_BIN_EXE_ramet-fork-zygote"))).expect("a host");
        let family = Family::start(Arc::new(host), descriptor, source).ok()?;
        Some(Self { seeds, held, server: Some(server), links, family })
    }

    /// Forks children while something is lost, and gives those that were made and what they say.
    fn children_amid(&mut self, loss: Loss, moment: Duration) -> Vec<(Child, PipeReader)> {
        let Self { seeds, held, server, links, family } = self;
        let lose = move || {
            // tidy: the moment is the point.
            thread::sleep(moment);
            match loss {
                Loss::Nothing | Loss::Expired => {}
                Loss::Seed => {
                    let seed = seeds.list().first().map(|seed| seed.seed).expect("a seed");
                    let seed = Pidfd::of_child(seed.cast_unsigned()).expect("it");
                    seed.signal(End::Kill).expect("killed");
                }
                Loss::Revoked => seeds.revoke(held.handle).expect("revoked"),
                Loss::Server => *server = None,
                Loss::Link => links.iter().flat_map(Receiver::try_iter).for_each(|link| {
                    let _ = link.shutdown(Shutdown::Both);
                }),
            }
        };
        thread::scope(|scope| {
            scope.spawn(lose);
            let child = || {
                let (output, input) = pipe().expect("a pipe");
                let mut given = Given::own().expect("streams");
                given.streams[1] = input.into();
                family.child(&given).ok().map(|child| (child, output))
            };
            (0..SIBLINGS).map_while(|_| child()).collect()
        })
    }
}

/// How a child has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Right,
    Refused,
}

fn end_of(child: &Child, mut output: PipeReader, context: &str) -> Ended {
    let timeout = Timespec::try_from(PATIENCE).ok();
    let ready = poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], timeout.as_ref()).expect("poll");
    assert!(ready == 1, "child {} neither goes on nor ends: {context}", child.pid);
    let status = child.pidfd.wait().expect("its end");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("its words");
    match (said.as_str(), status.code(), status.signal()) {
        ("right\n", Some(0), None) => Ended::Right,
        // What it still needed to end may have been lost after it had looked at all.
        ("" | "right\n", None, Some(libc::SIGBUS)) => Ended::Refused,
        other => panic!("{other:?}: {context}"),
    }
}

/// A link to a server, which the address becomes, and the sockets whose end ends it.
fn breakable(address: &mut SocketAddr) -> Receiver<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let to = std::mem::replace(address, listener.local_addr().expect("an address"));
    let (tell, links) = channel();
    thread::spawn(move || {
        let (client, _) = listener.accept().expect("a client");
        let server = TcpStream::connect(to).expect("a server");
        for (from, into) in [(&client, &server), (&server, &client)] {
            let (mut from, mut into) = (from.try_clone().expect("it"), into.try_clone().expect("it"));
            let _ = tell.send(from.try_clone().expect("it"));
            thread::spawn(move || {
                let _ = io::copy(&mut from, &mut into);
                let _ = into.shutdown(Shutdown::Both);
            });
        }
    });
    links
}

#[test]
fn every_byte_of_a_thousand_children_is_right_or_refused() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).expect("the first");
    let target = Witness::start(&[]);
    let mut numbers = Numbers(0x5eed_0003);
    let ways = [
        (true, Loss::Nothing),
        (true, Loss::Seed),
        (true, Loss::Revoked),
        (true, Loss::Expired),
        (false, Loss::Nothing),
        (false, Loss::Seed),
        (false, Loss::Revoked),
        (false, Loss::Expired),
        (false, Loss::Server),
        (false, Loss::Link),
    ];
    let (mut right, mut refused) = (0, 0);
    for (round, &(is_local, loss)) in (0..).zip(ways.iter().cycle()) {
        let moment = Duration::from_micros(numbers.below(WITHIN_US));
        let context = format!("round {round}, local: {is_local}, {loss:?} after {moment:?}");
        let Some(mut made) = Round::start(&target, is_local, loss, moment) else { continue };
        let children = made.children_amid(loss, moment);
        let ends: Vec<Ended> = children.into_iter().map(|(child, output)| end_of(&child, output, &context)).collect();
        let here = ends.iter().filter(|end| **end == Ended::Refused).count();
        let logged = String::from_utf8(std::mem::take(&mut *log.0.lock().expect("the log"))).expect("text");
        if here > 0 {
            assert!(loss != Loss::Nothing, "nothing was lost: {context}");
            assert!(made.family.is_lost() && logged.contains("the seed is lost"), "{context}: {logged}");
        }
        refused += here;
        right += ends.len() - here;
        if right + refused >= CHILDREN {
            break;
        }
    }
    eprintln!("{right} children had all their bytes, {refused} were refused some");
    assert!(right > CHILDREN / 10 && refused > CHILDREN / 10, "{right} right and {refused} refused: both are tried");
}
