//! The bytes of an answer's head.

use std::time::SystemTime;

use http::StatusCode;
use tokio::time::{Duration, Instant};

use crate::http1::decimal;

/// How the client knows where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none, whatever the headers say (204, 304).
    NoBody,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

impl Framing {
    /// For an answer with that status, of a length that may be known.
    pub(super) fn of(status: StatusCode, bytes: Option<u64>) -> Self {
        match bytes {
            _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Self::NoBody,
            _ if status == StatusCode::RESET_CONTENT => Self::Length(0),
            Some(bytes) => Self::Length(bytes),
            None => Self::Chunked,
        }
    }
}

/// Builds a head in `out`.
pub(super) struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
    has_date: bool,
}

impl<'o> HeadWriter<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>, status: StatusCode) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out, has_date: false }
    }

    /// Adds a header that is known to be well-formed.
    pub(super) fn header(&mut self, name: &str, value: &[u8]) {
        self.has_date |= name == "date";
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    pub(super) fn finish(mut self, framing: Framing, date: &str, ends: Ends) {
        match framing {
            Framing::NoBody => {}
            Framing::Length(bytes) => self.header("content-length", decimal(bytes, &mut [0; 20])),
            Framing::Chunked => self.header("transfer-encoding", b"chunked"),
        }
        if ends == Ends::Connection {
            self.header("connection", b"close");
        }
        if !self.has_date {
            self.header("date", date.as_bytes());
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// What ends with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    Request,
    Connection,
}

/// The `date` header's value, made once a second.
#[derive(Debug)]
pub(crate) struct Date {
    text: String,
    until: Instant,
}

impl Default for Date {
    fn default() -> Self {
        Self { text: String::new(), until: Instant::now() }
    }
}

impl Date {
    pub(super) fn at(&mut self, now: Instant) -> &str {
        if now >= self.until || self.text.is_empty() {
            let time = SystemTime::now();
            self.text = httpdate::fmt_http_date(time);
            let into_second = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
            self.until = now + Duration::from_nanos(1_000_000_000 - u64::from(into_second));
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: StatusCode, bytes: Option<u64>, headers: &[(&str, &[u8])], ends: Ends) -> String {
        let mut out = Vec::new();
        let mut writer = HeadWriter::new(&mut out, status);
        headers.iter().for_each(|(name, value)| writer.header(name, value));
        writer.finish(Framing::of(status, bytes), "DATE", ends);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn heads_are_as_http_wants_them() {
        let ok = written(StatusCode::OK, Some(1_048_576), &[("a", b"b")], Ends::Request);
        assert_eq!(ok, "HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 1048576\r\ndate: DATE\r\n\r\n");
        let dated = written(StatusCode::OK, Some(0), &[("date", b"mine")], Ends::Connection);
        assert_eq!(dated, "HTTP/1.1 200 OK\r\ndate: mine\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let chunked = written(StatusCode::NOT_FOUND, None, &[], Ends::Request);
        assert_eq!(chunked, "HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\ndate: DATE\r\n\r\n");
        let empty = written(StatusCode::NO_CONTENT, Some(5), &[], Ends::Request);
        assert_eq!(empty, "HTTP/1.1 204 No Content\r\ndate: DATE\r\n\r\n");
    }

    #[test]
    fn the_date_is_made_anew_when_its_second_is_over() {
        let mut date = Date::default();
        let now = Instant::now();
        let first = date.at(now).to_owned();
        date.text = "old".to_owned();
        assert_eq!(date.at(now), "old", "within the second");
        assert_eq!(date.at(now + Duration::from_secs(1)).len(), first.len());
    }
}
