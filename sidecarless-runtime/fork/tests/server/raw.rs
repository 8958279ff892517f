//! The page protocol from its description, so that a test can say what no reader of the project would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use ramet_fork::{Handle, Key};
use ramet_sys::Range;
use sha2::Sha256;

pub(crate) const KIND_READ: u8 = 1;
pub(crate) const KIND_TEACH: u8 = 2;
pub(crate) const KIND_WELCOME: u8 = 16;
pub(crate) const KIND_LEARNED: u8 = 19;
pub(crate) const KIND_PAGES: u8 = 17;
pub(crate) const KIND_ERROR: u8 = 18;
const HEADER_BYTES: usize = 20;
const PAGE_BYTES: usize = 4096;

/// A connection, and what was said over it.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    /// All that the client said to be let in.
    pub(crate) said: Vec<u8>,
    /// All that the server said meanwhile.
    pub(crate) heard: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) kind: u8,
    pub(crate) token: u64,
    pub(crate) payload: Vec<u8>,
    bytes: Vec<u8>,
}

impl Raw {
    pub(crate) fn listen(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Self { stream, said: Vec::new(), heard: Vec::new() }
    }

    /// Says what a client says that knows a key.
    pub(crate) fn ask(address: SocketAddr, handle: Handle, key: &Key) -> Self {
        let mut raw = Self::listen(TcpStream::connect(address).expect("connected"));
        let nonce = [3; 32];
        let hello = [&b"RFPS\x01\0\0\0"[..], &handle.to_bytes(), &nonce].concat();
        raw.stream.write_all(&hello).expect("said");
        let mut challenge = [0; 40];
        raw.stream.read_exact(&mut challenge).expect("a challenge");
        let mut mac = Hmac::<Sha256>::new_from_slice(key.reveal()).expect("a key");
        for part in [b"ramet page client", &[1, 0][..], &handle.to_bytes(), &nonce, &challenge[8..]] {
            mac.update(part);
        }
        let proof: [u8; 32] = mac.finalize().into_bytes().into();
        raw.stream.write_all(&proof).expect("said");
        raw.said = [&hello[..], &proof].concat();
        raw.heard = challenge.to_vec();
        raw
    }

    /// Is let in.
    pub(crate) fn enter(address: SocketAddr, handle: Handle, key: &Key) -> Self {
        let mut raw = Self::ask(address, handle, key);
        let welcome = raw.next_frame().expect("a welcome");
        assert_eq!(welcome.kind, KIND_WELCOME);
        raw.heard.extend(welcome.bytes);
        let learned = raw.next_frame().expect("learned pages");
        assert_eq!(learned.kind, KIND_LEARNED);
        raw.heard.extend(learned.bytes);
        raw
    }

    /// What the server says next. `None`: nothing more. Whoever was answered by another server's challenge hears that
    /// first.
    pub(crate) fn next_frame(&mut self) -> Option<Answer> {
        let mut bytes = vec![0; HEADER_BYTES];
        self.stream.read_exact(&mut bytes).ok()?;
        if bytes.starts_with(b"RFPS") {
            self.stream.read_exact(&mut [0; 20]).ok()?;
            return self.next_frame();
        }
        let length = u32::from_le_bytes(bytes[4..8].try_into().expect("four bytes")) as usize;
        bytes.resize(HEADER_BYTES + length, 0);
        self.stream.read_exact(&mut bytes[HEADER_BYTES..]).ok()?;
        let token = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let answer = Answer { kind: bytes[0], token, payload: bytes[HEADER_BYTES..].to_vec(), bytes };
        assert_eq!(frame(answer.kind, token, &answer.payload), answer.bytes, "the checksum");
        Some(answer)
    }
}

pub(crate) fn frame(kind: u8, token: u64, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let checked = [&[kind, 0, 0, 0][..], &length, &token.to_le_bytes()].concat();
    let checksum = crc32fast::hash(&[&checked[..], payload].concat());
    [&checked[..], &checksum.to_le_bytes(), payload].concat()
}

pub(crate) fn ranges(ranges: &[Range]) -> Vec<u8> {
    ranges.iter().flat_map(|range| [range.start.to_le_bytes(), range.bytes.to_le_bytes()].concat()).collect()
}

/// The pages of an answer, with those that are zeros and did not travel.
pub(crate) fn restored(payload: &[u8], bytes: usize) -> Vec<u8> {
    let pages = bytes / PAGE_BYTES;
    let (zeros, mut rest) = payload.split_at(pages.div_ceil(8));
    let mut restored = Vec::with_capacity(bytes);
    for page in 0..pages {
        if zeros[page / 8] & 1 << (page % 8) != 0 {
            restored.resize(restored.len() + PAGE_BYTES, 0);
        } else {
            let (page, others) = rest.split_at(PAGE_BYTES);
            assert!(page.iter().any(|byte| *byte != 0), "pages of zeros do not travel");
            restored.extend(page);
            rest = others;
        }
    }
    assert!(rest.is_empty());
    restored
}
