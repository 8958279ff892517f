//! What names a seed, and what proves the right to read it.

use std::fmt;
use std::io;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// How long a key is.
pub const KEY_BYTES: usize = 16;

/// The name of a seed. It says nothing about it, and cannot be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle(u128);

/// What must be known to read a seed. It never travels, is never printed, and is wiped when it is dropped.
#[derive(Clone)]
pub struct Key([u8; KEY_BYTES]);

/// It is no handle: 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a seed has 32 hexadecimal digits, as the prepare of the seed printed it")]
pub struct NoHandle;

impl Handle {
    /// The handle with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_le_bytes(bytes))
    }

    /// Its bytes, as they travel.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }

    pub(super) fn random() -> io::Result<Self> {
        Ok(Self::from_bytes(random()?))
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", self.0)
    }
}

impl FromStr for Handle {
    type Err = NoHandle;

    fn from_str(text: &str) -> Result<Self, NoHandle> {
        let is_hexadecimal = text.len() == 32 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        if is_hexadecimal { u128::from_str_radix(text, 16).map(Self).map_err(|_| NoHandle) } else { Err(NoHandle) }
    }
}

impl Key {
    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for whoever passes it on to another host over a channel of its own.
    #[must_use]
    pub const fn reveal(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Whether it is the same, found out in the same time whatever they are.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// What tells keys apart and says nothing about them.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    pub(crate) fn random() -> io::Result<Self> {
        random().map(Self)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Key(..)")
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_read_as_it_is_printed() {
        let handle = Handle::random().expect("random bytes");
        assert_eq!(handle.to_string().parse(), Ok(handle));
        assert_eq!(Handle::from_bytes(handle.to_bytes()), handle);
        assert_ne!(handle, Handle::random().expect("random bytes"));
        for bad in ["", "1", "+0000000000000000000000000000001", "0000000000000000000000000000000g"] {
            assert_eq!(bad.parse::<Handle>(), Err(NoHandle), "{bad}");
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = Key::from_bytes([0xab; KEY_BYTES]);
        let printed = format!("{key:?} {key:#?}");
        assert!(!printed.contains("ab") && !printed.contains("171"), "{printed}");
        assert!(key.is(&Key::from_bytes([0xab; KEY_BYTES])));
        assert!(!key.is(&Key::from_bytes([0xac; KEY_BYTES])));
    }
}
