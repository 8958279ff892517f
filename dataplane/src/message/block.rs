//! The head block: request line and headers, length-prefixed, so that reading them is bounds checks and no parsing.
//!
//! Little-endian: `u16 method length, u32 target length, u16 header count`, method, target, then for each header
//! `u16 name length, u32 value length`, name, value. An answer has an empty method and target. Names are lower case.

use super::{BLOCK_BYTES_MAX, MessageError};

const PREFIX_BYTES: usize = 8;
const HEADER_PREFIX_BYTES: usize = 6;

/// How many headers a block may have.
pub(super) const HEADERS_MAX: u16 = 256;

/// Builds a head block.
#[derive(Clone, Debug)]
pub struct BlockWriter {
    bytes: Vec<u8>,
    headers: u16,
}

impl Default for BlockWriter {
    fn default() -> Self {
        Self::response()
    }
}

impl BlockWriter {
    /// A block that starts with a request line. `target` is path and query.
    #[must_use]
    pub fn request(method: &str, target: &str) -> Self {
        let mut bytes = Vec::with_capacity(512 + target.len());
        let method_bytes = u16::try_from(method.len()).unwrap_or(u16::MAX);
        let target_bytes = u32::try_from(target.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&method_bytes.to_le_bytes());
        bytes.extend_from_slice(&target_bytes.to_le_bytes());
        bytes.extend_from_slice(&0u16.to_le_bytes());
        bytes.extend_from_slice(method.as_bytes());
        bytes.extend_from_slice(target.as_bytes());
        Self { bytes, headers: 0 }
    }

    /// A block of headers alone.
    #[must_use]
    pub fn response() -> Self {
        Self { bytes: vec![0; PREFIX_BYTES], headers: 0 }
    }

    /// Adds a header. Its name is kept in lower case.
    ///
    /// # Errors
    /// More headers or bytes than a block may have.
    pub fn header(&mut self, name: &str, value: &[u8]) -> Result<(), MessageError> {
        let needed = self.bytes.len() + HEADER_PREFIX_BYTES + name.len() + value.len();
        let (Ok(name_bytes), Ok(value_bytes)) = (u16::try_from(name.len()), u32::try_from(value.len())) else {
            return Err(MessageError::TooLarge { needed, available: BLOCK_BYTES_MAX });
        };
        if needed > BLOCK_BYTES_MAX || self.headers == HEADERS_MAX {
            return Err(MessageError::TooLarge { needed, available: BLOCK_BYTES_MAX });
        }
        self.headers += 1;
        self.bytes.extend_from_slice(&name_bytes.to_le_bytes());
        self.bytes.extend_from_slice(&value_bytes.to_le_bytes());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes[start..].make_ascii_lowercase();
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    /// The finished block.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[6..8].copy_from_slice(&self.headers.to_le_bytes());
        self.bytes
    }
}

/// A checked head block in private memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadBlock {
    bytes: Vec<u8>,
    method_bytes: usize,
    target_bytes: usize,
    headers: u16,
}

impl HeadBlock {
    /// Checks every length and that method, target and names are text.
    ///
    /// # Errors
    /// [`MessageError::Malformed`].
    pub fn parse(bytes: Vec<u8>) -> Result<Self, MessageError> {
        let prefix =
            bytes.first_chunk::<PREFIX_BYTES>().ok_or(MessageError::Malformed("the head block is cut short"))?;
        let [m0, m1, t0, t1, t2, t3, h0, h1] = *prefix;
        let method_bytes = usize::from(u16::from_le_bytes([m0, m1]));
        let target_bytes = u32::from_le_bytes([t0, t1, t2, t3]) as usize;
        let headers = u16::from_le_bytes([h0, h1]);
        if headers > HEADERS_MAX {
            return Err(MessageError::Malformed("too many headers"));
        }
        let headers_start = PREFIX_BYTES + method_bytes + target_bytes;
        let line =
            bytes.get(PREFIX_BYTES..headers_start).ok_or(MessageError::Malformed("the request line is cut short"))?;
        let is_text = |bytes: &[u8]| bytes.is_ascii() || std::str::from_utf8(bytes).is_ok();
        if !is_text(&line[..method_bytes]) || !is_text(&line[method_bytes..]) {
            return Err(MessageError::Malformed("the request line is not text"));
        }
        let mut rest = &bytes[headers_start..];
        for _ in 0..headers {
            let (name, _, after) = split_header(rest).ok_or(MessageError::Malformed("a header is cut short"))?;
            if name.is_empty() || !name.is_ascii() {
                return Err(MessageError::Malformed("a header's name is not text"));
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(MessageError::Malformed("bytes after the last header"));
        }
        Ok(Self { bytes, method_bytes, target_bytes, headers })
    }

    /// The request's method; empty in an answer.
    #[must_use]
    pub fn method(&self) -> &str {
        text(&self.bytes[PREFIX_BYTES..PREFIX_BYTES + self.method_bytes])
    }

    /// The request's path and query; empty in an answer.
    #[must_use]
    pub fn target(&self) -> &str {
        let start = PREFIX_BYTES + self.method_bytes;
        text(&self.bytes[start..start + self.target_bytes])
    }

    /// All headers in their order: lower-case names, raw values.
    #[must_use]
    pub fn headers(&self) -> HeadersIter<'_> {
        HeadersIter { rest: &self.bytes[PREFIX_BYTES + self.method_bytes + self.target_bytes..], left: self.headers }
    }

    /// The first header of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The block's bytes, to pass on unchanged.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many headers there are.
    #[must_use]
    pub fn header_count(&self) -> usize {
        usize::from(self.headers)
    }
}

/// Iterates over (name, value).
#[derive(Clone, Debug)]
pub struct HeadersIter<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let (name, value, rest) = split_header(self.rest)?;
        self.rest = rest;
        Some((text(name), value))
    }
}

fn split_header(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let [n0, n1, v0, v1, v2, v3] = *bytes.first_chunk::<HEADER_PREFIX_BYTES>()?;
    let name_bytes = usize::from(u16::from_le_bytes([n0, n1]));
    let value_bytes = u32::from_le_bytes([v0, v1, v2, v3]) as usize;
    let rest = &bytes[HEADER_PREFIX_BYTES..];
    let (name, rest) = rest.split_at_checked(name_bytes)?;
    let (value, rest) = rest.split_at_checked(value_bytes)?;
    Some((name, value, rest))
}

/// Bytes that `parse` has found to be text.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
