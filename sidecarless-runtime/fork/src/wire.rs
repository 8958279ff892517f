//! What a page server and who reads from it say to each other.
//!
//! ```text
//! client                                   server
//!   Hello: version, handle, nonce      →
//!                                      ←   Challenge: version, nonce
//!   proof of the key over both nonces  →
//!                                      ←   Welcome: proof, descriptor; or Error, and the end
//!                                      ←   Learned: ranges, and their pages as in Pages
//!   Read: token, ranges                →
//!                                      ←   Pages: token, bytes but for zero pages; or Error, and the end
//!   Teach: ranges                      →
//!   Renew: milliseconds                →
//!                                      ←   Renew: nothing; or Error, and the end
//!   SetUp: opaque                      →
//!                                      ←   SetUp: opaque
//!   LetGo: nothing is read any more    →
//!                                      ←   LetGo: milliseconds of the lease that are left; Error, when the seed
//!                                          ends, and the end
//! ```
//!
//! The key never travels. A checksum is on every frame, so that a link that damages bytes is an error and no wrong
//! page. It does not keep out who can change them on purpose: a network in which others can write needs a tunnel.

pub(crate) mod direct;

mod elided;
mod inbox;

use hmac::{Hmac, KeyInit, Mac};
use ramet_sys::Range;
use sha2::Sha256;
use zeroize::Zeroize;

use crate::descriptor::DESCRIPTOR_BYTES_MAX;
use crate::seeds::{Handle, KEY_BYTES, Key, LEARNED_PAGES_MAX, Refusal};
use crate::source::{READ_BYTES_MAX, READ_RANGES_MAX};

pub(crate) use self::elided::{Elided, is_zeros, restore, restore_owned};
pub(crate) use self::inbox::{Filled, Inbox};

/// What both sides must speak.
pub(crate) const VERSION: u16 = 1;
const MAGIC: [u8; 4] = *b"RFPS";

pub(crate) const NONCE_BYTES: usize = 32;
pub(crate) const PROOF_BYTES: usize = 32;
/// Magic, version, nothing.
const GREETING_BYTES: usize = 8;
pub(crate) const HELLO_BYTES: usize = GREETING_BYTES + 16 + NONCE_BYTES;
pub(crate) const CHALLENGE_BYTES: usize = GREETING_BYTES + NONCE_BYTES;

/// Kind, nothing, length of what follows, token, checksum.
pub(crate) const HEADER_BYTES: usize = 20;
const CHECKED_BYTES: usize = HEADER_BYTES - 4;
const RANGE_BYTES: usize = 16;

/// What one side may ask the other to set up, or answer to that.
pub(crate) const SET_UP_BYTES_MAX: usize = 1 << 20;
const RANGES_BYTES_MAX: usize = READ_RANGES_MAX * RANGE_BYTES;
/// The most that follows a header from a client.
pub(crate) const REQUEST_BYTES_MAX: usize =
    if SET_UP_BYTES_MAX > RANGES_BYTES_MAX { SET_UP_BYTES_MAX } else { RANGES_BYTES_MAX };
/// The most that follows the header of an answer but for the first.
pub(crate) const ANSWER_BYTES_MAX: usize = READ_BYTES_MAX as usize + 64;
/// The most that follows the header of the first, and of the pages that come with it.
pub(crate) const WELCOME_BYTES_MAX: usize =
    DESCRIPTOR_BYTES_MAX + LEARNED_PAGES_MAX * (ramet_sys::pagemap::PAGE_BYTES as usize + RANGE_BYTES + 1) + 64;

/// Why what the other side says cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is something else, or another version.
    #[error("it does not speak version {VERSION} of the page protocol; both hosts must run the same release")]
    Version,
    /// Bytes are changed.
    #[error("a frame was damaged on its way; try again")]
    Damaged,
    /// A frame is longer than any is.
    #[error("a frame of {0} bytes is longer than any is")]
    TooLong(u64),
    /// It makes no sense.
    #[error("it says what makes no sense: {0}")]
    Senseless(&'static str),
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Read = 1,
    Teach = 2,
    SetUp = 3,
    Renew = 4,
    LetGo = 5,
    Welcome = 16,
    Pages = 17,
    Error = 18,
    Learned = 19,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Read,
            2 => Self::Teach,
            3 => Self::SetUp,
            4 => Self::Renew,
            5 => Self::LetGo,
            16 => Self::Welcome,
            17 => Self::Pages,
            18 => Self::Error,
            19 => Self::Learned,
            _ => return None,
        })
    }
}

/// A frame that has come whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'b> {
    pub(crate) kind: Kind,
    pub(crate) token: u64,
    pub(crate) payload: &'b [u8],
}

/// The first that a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) handle: Handle,
    pub(crate) nonce: [u8; NONCE_BYTES],
}

/// What a proof is made of, by whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Challenge {
    pub(crate) hello: Hello,
    pub(crate) nonce: [u8; NONCE_BYTES],
}

/// Who proves that it knows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

fn greeting() -> [u8; GREETING_BYTES] {
    let mut bytes = [0; GREETING_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
    bytes
}

fn after_greeting(bytes: &[u8]) -> Result<&[u8], WireError> {
    bytes.strip_prefix(&greeting()).ok_or(WireError::Version)
}

impl Hello {
    pub(crate) fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..GREETING_BYTES].copy_from_slice(&greeting());
        bytes[GREETING_BYTES..GREETING_BYTES + 16].copy_from_slice(&self.handle.to_bytes());
        bytes[GREETING_BYTES + 16..].copy_from_slice(&self.nonce);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, WireError> {
        let (handle, nonce) = after_greeting(bytes)?.split_first_chunk().ok_or(WireError::Version)?;
        let nonce = nonce.try_into().map_err(|_| WireError::Version)?;
        Ok(Self { handle: Handle::from_bytes(*handle), nonce })
    }
}

impl Challenge {
    pub(crate) fn encode(&self) -> [u8; CHALLENGE_BYTES] {
        let mut bytes = [0; CHALLENGE_BYTES];
        bytes[..GREETING_BYTES].copy_from_slice(&greeting());
        bytes[GREETING_BYTES..].copy_from_slice(&self.nonce);
        bytes
    }

    pub(crate) fn decode(hello: Hello, bytes: &[u8; CHALLENGE_BYTES]) -> Result<Self, WireError> {
        let nonce = after_greeting(bytes)?.try_into().map_err(|_| WireError::Version)?;
        Ok(Self { hello, nonce })
    }

    /// What only who knows the key can say, and only in this conversation and this role.
    pub(crate) fn proof(&self, key: &Key, role: Role) -> [u8; PROOF_BYTES] {
        self.mac(key, role).finalize().into_bytes().into()
    }

    /// Whether it was said by who knows the key, found out in the same time whatever it is.
    pub(crate) fn is_proof(&self, key: &Key, role: Role, proof: &[u8; PROOF_BYTES]) -> bool {
        self.mac(key, role).verify_slice(proof).is_ok()
    }

    fn mac(&self, key: &Key, role: Role) -> Hmac<Sha256> {
        let role: &[u8] = match role {
            Role::Client => b"ramet page client",
            Role::Server => b"ramet page server",
        };
        // A key that is shorter than a block is the block that begins with it (RFC 2104).
        let mut block = [0; 64];
        block[..KEY_BYTES].copy_from_slice(key.reveal());
        let mut mac = Hmac::new(&block.into());
        block.zeroize();
        for part in [role, &VERSION.to_le_bytes(), &self.hello.handle.to_bytes(), &self.hello.nonce, &self.nonce] {
            mac.update(part);
        }
        mac
    }
}

/// The header of a frame whose payload comes in parts.
pub(crate) fn header(kind: Kind, token: u64, parts: &[&[u8]]) -> [u8; HEADER_BYTES] {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let mut header = [0; HEADER_BYTES];
    header[0] = kind as u8;
    header[4..8].copy_from_slice(&(bytes as u32).to_le_bytes());
    header[8..16].copy_from_slice(&token.to_le_bytes());
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(&header[..CHECKED_BYTES]);
    parts.iter().for_each(|part| checksum.update(part));
    header[CHECKED_BYTES..].copy_from_slice(&checksum.finalize().to_le_bytes());
    header
}

/// Appends a frame.
pub(crate) fn push_frame(to: &mut Vec<u8>, kind: Kind, token: u64, payload: &[u8]) {
    to.extend(header(kind, token, &[payload]));
    to.extend(payload);
}

/// Appends a frame of ranges.
pub(crate) fn push_ranges_frame(to: &mut Vec<u8>, kind: Kind, token: u64, ranges: &[Range]) {
    let start = to.len();
    to.resize(start + HEADER_BYTES, 0);
    push_ranges(to, ranges);
    let header = header(kind, token, &[&to[start + HEADER_BYTES..]]);
    to[start..start + HEADER_BYTES].copy_from_slice(&header);
}

pub(crate) fn push_ranges(to: &mut Vec<u8>, ranges: &[Range]) {
    for range in ranges {
        to.extend(range.start.to_le_bytes());
        to.extend(range.bytes.to_le_bytes());
    }
}

/// Reads ranges that a peer has named. They may be any.
pub(crate) fn ranges(payload: &[u8], into: &mut Vec<Range>) -> Result<(), WireError> {
    let (words, rest) = payload.as_chunks::<RANGE_BYTES>();
    if !rest.is_empty() || words.len() > READ_RANGES_MAX {
        return Err(WireError::Senseless("a list of ranges"));
    }
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    into.clear();
    into.extend(words.iter().map(|range| Range { start: word(&range[..8]), bytes: word(&range[8..]) }));
    Ok(())
}

/// The payload of an error.
pub(crate) fn encode_refusal(refusal: Refusal) -> Vec<u8> {
    // Writing into a vector does not fail, and all refusals have a representation.
    postcard::to_allocvec(&refusal).unwrap_or_default()
}

/// What an error says.
pub(crate) fn decode_refusal(payload: &[u8]) -> Result<Refusal, WireError> {
    postcard::from_bytes(payload).map_err(|_| WireError::Senseless("an error"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge() -> Challenge {
        let hello = Hello { handle: Handle::from_bytes([1; 16]), nonce: [2; NONCE_BYTES] };
        Challenge { hello, nonce: [3; NONCE_BYTES] }
    }

    #[test]
    fn a_proof_is_of_one_key_conversation_and_role() {
        let key = Key::from_bytes([7; KEY_BYTES]);
        let challenge = challenge();
        let proof = challenge.proof(&key, Role::Client);
        assert!(challenge.is_proof(&key, Role::Client, &proof));
        assert!(!challenge.is_proof(&key, Role::Server, &proof));
        assert!(!challenge.is_proof(&Key::from_bytes([8; KEY_BYTES]), Role::Client, &proof));
        let hello = challenge.hello;
        for other in [
            Challenge { nonce: [4; NONCE_BYTES], ..challenge },
            Challenge { hello: Hello { nonce: [4; NONCE_BYTES], ..hello }, ..challenge },
            Challenge { hello: Hello { handle: Handle::from_bytes([4; 16]), ..hello }, ..challenge },
        ] {
            assert!(!other.is_proof(&key, Role::Client, &proof));
        }
    }

    #[test]
    fn greetings_are_read_as_they_were_written_and_of_one_version_only() {
        let challenge = challenge();
        let hello = challenge.hello.encode();
        assert_eq!(Hello::decode(&hello).expect("a hello"), challenge.hello);
        let encoded = challenge.encode();
        assert_eq!(Challenge::decode(challenge.hello, &encoded).expect("a challenge").nonce, challenge.nonce);
        for place in 0..6 {
            let mut other = hello;
            other[place] ^= 1;
            assert!(matches!(Hello::decode(&other), Err(WireError::Version)), "byte {place}");
        }
    }

    #[test]
    fn ranges_are_read_as_they_were_written() {
        let written: Vec<Range> = (1..40).map(|n| Range { start: n << 12, bytes: n << 20 }).collect();
        let (mut bytes, mut read) = (Vec::new(), Vec::new());
        push_ranges(&mut bytes, &written);
        ranges(&bytes, &mut read).expect("ranges");
        assert_eq!(read, written);
        assert!(ranges(&bytes[1..], &mut read).is_err());
        assert!(ranges(&vec![0; RANGES_BYTES_MAX + RANGE_BYTES], &mut read).is_err());
    }
}
