//! Bytes that have come over a socket, cut into frames.

use std::io::{self, Read};

use super::CHECKED_BYTES;
use super::{Frame, HEADER_BYTES, Kind, WireError};

/// How long the buffer is in the beginning: an answer of 32 pages, and the beginning of the next.
const BYTES_MIN: usize = 256 << 10;

/// What became of asking a socket for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Some have come.
    Some,
    /// There are none yet.
    NotYet,
    /// There will be none.
    End,
}

/// Bytes that were received and not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    payload_bytes_max: usize,
}

impl Inbox {
    /// One that takes no longer frame.
    pub(crate) fn new(payload_bytes_max: usize) -> Self {
        Self::with_room(BYTES_MIN, payload_bytes_max)
    }

    /// One that need not grow until so much has come.
    pub(crate) fn with_room(bytes: usize, payload_bytes_max: usize) -> Self {
        let bytes = vec![0; bytes.min(HEADER_BYTES + payload_bytes_max)];
        Self { bytes, start: 0, end: 0, payload_bytes_max }
    }

    /// Takes no longer frame from now on.
    pub(crate) fn limit(&mut self, payload_bytes_max: usize) {
        self.payload_bytes_max = payload_bytes_max;
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        self.bytes.truncate(self.end.max(BYTES_MIN));
        self.bytes.shrink_to_fit();
    }

    /// Receives once. The buffer grows with what has come, not with what was announced.
    pub(crate) fn fill(&mut self, from: &mut impl Read) -> io::Result<Filled> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.end == self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end * 2 > self.bytes.len() {
                let longest = HEADER_BYTES + self.payload_bytes_max;
                self.bytes.resize((self.bytes.len() * 2).min(longest.max(self.end + 1)), 0);
            }
        }
        loop {
            return match from.read(&mut self.bytes[self.end..]) {
                Ok(0) => Ok(Filled::End),
                Ok(count) => {
                    self.end += count;
                    Ok(Filled::Some)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Filled::NotYet),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Takes the next frame, if all of it has come.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, WireError> {
        let come = &self.bytes[self.start..self.end];
        let Some((header, rest)) = come.split_at_checked(HEADER_BYTES) else { return Ok(None) };
        let word = |at: usize| header[at..at + 4].try_into().map_or(0, u32::from_le_bytes);
        let bytes = word(4) as usize;
        if bytes > self.payload_bytes_max {
            return Err(WireError::TooLong(bytes as u64));
        }
        let Some(payload) = rest.get(..bytes) else { return Ok(None) };
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&header[..CHECKED_BYTES]);
        checksum.update(payload);
        if checksum.finalize() != word(CHECKED_BYTES) {
            return Err(WireError::Damaged);
        }
        let kind = Kind::of(header[0]).ok_or(WireError::Senseless("a frame of no known kind"))?;
        let token = u64::from(word(8)) | u64::from(word(12)) << 32;
        self.start += HEADER_BYTES + bytes;
        Ok(Some(Frame { kind, token, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::push_frame;
    use super::*;

    /// Gives a few bytes at a time.
    struct Trickle<'b>(&'b [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len());
            self.0.read(&mut into[..count])
        }
    }

    #[test]
    fn frames_come_whole_however_their_bytes_come() {
        let payloads: Vec<Vec<u8>> = (0..20_usize).map(|n| vec![n as u8; n * n * n * 97]).collect();
        let mut bytes = Vec::new();
        for (token, payload) in (0..).zip(&payloads) {
            push_frame(&mut bytes, Kind::Pages, token, payload);
        }
        for step in [1, 19, 20, 21, 4096, 1 << 20] {
            let (mut inbox, mut trickle) = (Inbox::new(1 << 20), Trickle(&bytes, step));
            let mut come = 0;
            while inbox.fill(&mut trickle).expect("bytes") == Filled::Some {
                while let Some(frame) = inbox.next().expect("a frame") {
                    assert_eq!((frame.kind, frame.token), (Kind::Pages, come as u64));
                    assert!(frame.payload == payloads[come], "frame {come} in steps of {step}");
                    come += 1;
                }
            }
            assert_eq!(come, payloads.len());
        }
    }

    #[test]
    fn a_damaged_frame_is_noticed_wherever_it_is_damaged() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Pages, 7, &[5; 100]);
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << (place % 8);
            let mut inbox = Inbox::new(1 << 20);
            inbox.fill(&mut &*damaged).expect("bytes");
            // One that says to be longer is waited for, and then its checksum is another's.
            let whole = matches!(inbox.next(), Ok(Some(_)));
            assert!(!whole, "byte {place}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_before_it_has_come() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Pages, 7, &[5; 100]);
        let mut inbox = Inbox::new(99);
        inbox.fill(&mut &bytes[..HEADER_BYTES]).expect("bytes");
        assert!(matches!(inbox.next(), Err(WireError::TooLong(100))));
    }
}
