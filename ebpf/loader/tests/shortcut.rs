//! The short-cut delivers what TCP would have delivered, and says which of the two it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

#[path = "support/rig.rs"]
mod rig;

use ramet_common::shortcut::{GatewayEnd, SHORTCUT_BYTES_MAX, ShortcutCount};
use ramet_common::{FunctionId, InstanceId};
use ramet_loader::{LoaderError, Shortcut, find_object};
use rig::skip;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

const FUNCTION: FunctionId = FunctionId(7);

struct Way {
    shortcut: Shortcut,
    listener: TcpListener,
}

impl Way {
    fn new() -> Option<Self> {
        let mut shortcut = match find_object().and_then(Shortcut::load) {
            Ok(shortcut) => shortcut,
            Err(error @ (LoaderError::NotPermitted { .. } | LoaderError::ObjectNotFound { .. })) => {
                skip(&error.to_string());
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        shortcut.count(FUNCTION).unwrap();
        Some(Self { shortcut, listener: TcpListener::bind("127.0.0.1:0").unwrap() })
    }

    /// An unconnected socket, as an instance makes them.
    fn socket(&mut self) -> OwnedFd {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        self.shortcut.adopt(socket.as_fd(), GatewayEnd { function: FUNCTION, instance: InstanceId(1) }).unwrap();
        socket
    }

    fn connect(&mut self, socket: OwnedFd) -> (TcpStream, TcpStream) {
        rustix::net::connect(&socket, &self.listener.local_addr().unwrap()).unwrap();
        let (far, _) = self.listener.accept().unwrap();
        let near = TcpStream::from(socket);
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        (near, far)
    }

    fn count(&self) -> ShortcutCount {
        self.shortcut.counts().unwrap().into_iter().find(|(function, _)| *function == FUNCTION).unwrap().1
    }
}

/// Numbers that look random, the same each time.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn both_ways_bytes_come_as_they_were_sent_and_go_short() {
    let Some(mut way) = Way::new() else { return };
    let socket = way.socket();
    let (mut near, mut far) = way.connect(socket);
    let mut sends = 0;
    for (round, bytes) in [1, 2, 100, 4096, 65_536, 300_000].into_iter().enumerate() {
        for is_forth in [true, false] {
            let (from, to) = if is_forth { (&mut near, &mut far) } else { (&mut far, &mut near) };
            let sent = noise(bytes, round as u64);
            let mut received = vec![0; bytes];
            from.write_all(&sent).unwrap();
            to.read_exact(&mut received).unwrap();
            assert!(received == sent, "{bytes} bytes");
            sends += 1;
        }
    }
    let count = way.count();
    assert!(count.redirected >= sends && count.passed == 0, "{count:?}");
    near.write_all(b"the last word").unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut last = Vec::new();
    far.read_to_end(&mut last).unwrap();
    assert_eq!(last, b"the last word");
    far.write_all(b"after that").unwrap();
    drop(far);
    let mut after = Vec::new();
    near.read_to_end(&mut after).unwrap();
    assert_eq!(after, b"after that", "half a connection is open for as long as it is");
}

/// What is too much goes by TCP, in its order, and stops a sender whose receiver does not read.
#[test]
fn more_than_the_limit_is_tcps_and_nothing_overtakes() {
    let Some(mut way) = Way::new() else { return };
    let socket = way.socket();
    let (mut near, mut far) = way.connect(socket);
    let sent = noise(3 * SHORTCUT_BYTES_MAX as usize, 5);
    near.set_nonblocking(true).unwrap();
    let mut at = 0;
    // Nobody reads, so it comes to a stop, soon after the limit.
    while let Ok(bytes) = near.write(&sent[at..sent.len().min(at + 50_000)]) {
        at += bytes;
        if at == sent.len() {
            break;
        }
    }
    let count = way.count();
    assert!(count.redirected_bytes <= SHORTCUT_BYTES_MAX && count.passed > 0, "{count:?}");
    near.set_nonblocking(false).unwrap();
    let mut received = vec![0; sent.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| near.write_all(&sent[at..]).unwrap());
        far.read_exact(&mut received).unwrap();
    });
    assert!(received == sent, "what was redirected is read before what came by TCP");
}

#[test]
fn a_socket_that_is_connected_again_begins_anew() {
    let Some(mut way) = Way::new() else { return };
    let socket = way.socket();
    for round in 1..4 {
        let (mut near, mut far) = way.connect(socket.try_clone().unwrap());
        near.write_all(&noise(1000, round)).unwrap();
        let mut received = [0; 1000];
        far.read_exact(&mut received).unwrap();
        assert!(received[..] == noise(1000, round));
        far.write_all(b"x").unwrap();
        near.read_exact(&mut received[..1]).unwrap();
        assert_eq!(way.count().redirected, 2 * round);
        rustix::net::connect_unspec(&near).unwrap();
        let _ = rustix::net::sockopt::socket_error(&near);
    }
}

#[test]
fn other_connections_are_left_alone() {
    let Some(mut way) = Way::new() else { return };
    let socket = way.socket();
    let (mut own, mut own_far) = way.connect(socket);
    own.write_all(b"x").unwrap();
    own_far.read_exact(&mut [0]).unwrap();
    let before = way.count();
    let mut stranger = TcpStream::connect(way.listener.local_addr().unwrap()).unwrap();
    let (mut far, _) = way.listener.accept().unwrap();
    stranger.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!((&bytes, way.count()), (b"hello", before));
}
