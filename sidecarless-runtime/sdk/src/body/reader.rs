//! A body for code that reads a stream: parsers and decoders take `Read`, `BufRead` or `Seek`.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::{BodySlice, Chunks};

/// Reads the bytes of a body, each straight from its slot.
#[derive(Clone, Debug)]
pub struct BodyReader<'a> {
    slice: BodySlice<'a>,
    chunks: Chunks<'a>,
    rest: &'a [u8],
    position: u64,
}

impl<'a> BodyReader<'a> {
    pub(super) fn new(slice: BodySlice<'a>) -> Self {
        Self { slice, chunks: slice.chunks(), rest: &[], position: 0 }
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut from = self.fill_buf()?;
        let bytes = from.read(into)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

impl BufRead for BodyReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.rest = self.chunks.next().unwrap_or_default();
        }
        Ok(self.rest)
    }

    fn consume(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
        self.position += bytes as u64;
    }
}

impl Seek for BodyReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.slice.len().checked_add_signed(offset),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.chunks = self.slice.cut(position, u64::MAX).chunks();
        self.rest = &[];
        self.position = position;
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::Body;

    #[test]
    fn it_reads_seeks_and_ends() {
        let body = Body::from("first\nsecond\n");
        let mut reader = body.reader();
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert_eq!(line, "first\n");
        assert_eq!(reader.stream_position().expect("position"), 6);
        reader.seek(SeekFrom::End(-7)).expect("in the body");
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "second\n");
        assert!(reader.seek(SeekFrom::Current(-100)).is_err());
        reader.seek(SeekFrom::Start(100)).expect("past the end is allowed");
        assert_eq!(reader.read(&mut [0; 4]).expect("end"), 0);
        let mut middle = body.slice().cut(6, 3).reader();
        let mut text = String::new();
        middle.read_to_string(&mut text).expect("text");
        assert_eq!(text, "sec");
    }
}
