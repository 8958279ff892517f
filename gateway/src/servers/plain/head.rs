//! The heads of plain requests and of their answers, as bytes.

use http::StatusCode;
use httparse::{Header, Response, Status};
use ramet_dataplane::message::{BlockWriter, HeadBlock};

use crate::http1::{decimal, is_name, is_target, is_value, length, once};

/// With this header an answer says where it goes, where the chain leaves it a choice.
pub(crate) const NEXT_HEADER: &str = "ramet-next";

/// How many headers a plain answer may have.
const HEADERS_MAX: usize = 64;

/// What a plain answer's head says, but for what it says of the connection.
#[derive(Debug)]
pub(crate) struct PlainHead {
    pub(crate) status: StatusCode,
    pub(crate) block: HeadBlock,
    /// Where the chain goes on, if it says that.
    pub(crate) decision: Option<String>,
}

/// What there is of an answer's head.
#[derive(Debug)]
pub(super) enum Parsed {
    Partial,
    Plain {
        head: PlainHead,
        head_bytes: usize,
        body_bytes: u64,
        /// The instance closes the connection after the answer.
        closes: bool,
    },
    /// It is wrong, or has a body whose length is not known from the beginning, or is no last answer.
    Unusual,
}

/// Writes the head of a request with a body of so many bytes. False: it is not plain, and what was written is of no
/// use.
pub(super) fn write(block: &HeadBlock, body_bytes: usize, out: &mut Vec<u8>) -> bool {
    let (method, target) = (block.method(), block.target());
    let has_body = matches!(method, "POST" | "PUT" | "PATCH");
    if !(has_body || matches!(method, "GET" | "DELETE")) || !is_target(target) {
        return false;
    }
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut has_host = false;
    for (name, value) in block.headers() {
        match name {
            "content-length" => continue,
            // Hyper knows what they mean for the body and for the connection.
            "transfer-encoding" | "connection" | "upgrade" | "expect" | "te" | "trailer" => return false,
            _ if !is_name(name) || !is_value(value) => return false,
            "host" => has_host = true,
            _ => {}
        }
        header(out, name, value);
    }
    if !has_host {
        header(out, "host", b"localhost");
    }
    if has_body || body_bytes > 0 {
        header(out, "content-length", decimal(body_bytes as u64, &mut [0; 20]));
    }
    out.extend_from_slice(b"\r\n");
    true
}

fn header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Reads the head at the start of `bytes`.
pub(super) fn parse(bytes: &[u8], head_bytes_max: usize) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(Status::Complete(head_bytes)) if head_bytes <= head_bytes_max => {
            plain(&response, head_bytes).unwrap_or(Parsed::Unusual)
        }
        Ok(Status::Partial) if bytes.len() < head_bytes_max => Parsed::Partial,
        Ok(_) | Err(_) => Parsed::Unusual,
    }
}

fn plain(response: &Response<'_, '_>, head_bytes: usize) -> Option<Parsed> {
    let status = StatusCode::from_u16(response.code?).ok()?;
    if response.version != Some(1) || status.is_informational() {
        return None;
    }
    let (mut block, mut decision, mut body_bytes, mut closes) = (BlockWriter::response(), None, None, false);
    for Header { name, value } in &*response.headers {
        // By length first: most names are none of these.
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => {
                closes |= value.eq_ignore_ascii_case(b"close");
                if !closes && !value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            10 if name.eq_ignore_ascii_case("keep-alive") => {}
            10 if name.eq_ignore_ascii_case(NEXT_HEADER) => {
                once(&mut decision, std::str::from_utf8(value).ok()?.to_owned())?;
            }
            14 if name.eq_ignore_ascii_case("content-length") => once(&mut body_bytes, length(value)?)?,
            17 if name.eq_ignore_ascii_case("transfer-encoding") => return None,
            _ => block.header(name, value).ok()?,
        }
    }
    let body_bytes = match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => 0,
        _ => body_bytes?,
    };
    let head = PlainHead { status, block: HeadBlock::parse(block.finish()).ok()?, decision };
    Some(Parsed::Plain { head, head_bytes, body_bytes, closes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(method: &str, target: &str, headers: &[(&str, &str)]) -> HeadBlock {
        let mut block = BlockWriter::request(method, target);
        headers.iter().for_each(|(name, value)| block.header(name, value.as_bytes()).expect("small"));
        HeadBlock::parse(block.finish()).expect("well-formed")
    }

    fn written(method: &str, target: &str, headers: &[(&str, &str)], body_bytes: usize) -> Option<String> {
        let mut out = Vec::new();
        write(&block(method, target, headers), body_bytes, &mut out).then(|| String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_request_is_written_as_http_wants_it() {
        assert_eq!(
            written("POST", "/a?b=c", &[("host", "h"), ("x", "y z"), ("content-length", "9")], 3).as_deref(),
            Some("POST /a?b=c HTTP/1.1\r\nhost: h\r\nx: y z\r\ncontent-length: 3\r\n\r\n")
        );
        assert_eq!(written("GET", "/", &[], 0).as_deref(), Some("GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"));
        let put = "PUT / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written("PUT", "/", &[], 0).as_deref(), Some(put));
    }

    #[test]
    fn what_could_be_taken_for_another_request_is_not_written() {
        for (method, target, headers) in [
            ("HEAD", "/", &[][..]),
            ("CONNECT", "/", &[]),
            ("GET", "/ HTTP/1.1\r\nx: y\r\n\r\nGET /", &[]),
            ("GET", "/a b", &[]),
            ("GET", "", &[]),
            ("GET", "*", &[]),
            ("GET", "/", &[("x", "y\r\nz: a")]),
            ("GET", "/", &[("x", "y\0")]),
            ("GET", "/", &[("x y", "z")]),
            ("GET", "/", &[("x\r\ny", "z")]),
            ("GET", "/", &[("transfer-encoding", "chunked")]),
            ("GET", "/", &[("connection", "upgrade")]),
            ("GET", "/", &[("expect", "100-continue")]),
        ] {
            assert_eq!(written(method, target, headers, 0), None, "{method} {target} {headers:?}");
        }
    }

    #[test]
    fn a_plain_answer_is_read() {
        let text =
            "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-A: b\r\nConnection: close\r\nRamet-Next: c\r\n\r\nhello";
        let Parsed::Plain { head, head_bytes, body_bytes, closes } = parse(text.as_bytes(), 8192) else {
            panic!("it is plain")
        };
        assert_eq!((head_bytes, body_bytes, closes), (text.len() - 5, 5, true));
        assert_eq!((head.status, head.decision.as_deref()), (StatusCode::CREATED, Some("c")));
        let headers: Vec<_> = head.block.headers().collect();
        assert_eq!(headers, [("x-a", &b"b"[..])]);
        for cut in 0..head_bytes {
            assert!(matches!(parse(&text.as_bytes()[..cut], 8192), Parsed::Partial), "{cut} bytes");
        }
    }

    #[test]
    fn an_answer_without_a_body_has_none_whatever_it_says() {
        for text in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"] {
            assert!(matches!(parse(text.as_bytes(), 8192), Parsed::Plain { body_bytes: 0, .. }), "{text}");
        }
    }

    #[test]
    fn everything_else_is_left_to_hyper() {
        for text in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: x-a\r\nx-a: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nramet-next: \u{fc}\r\nramet-next: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(matches!(parse(text.as_bytes(), 8192), Parsed::Unusual), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(100));
        assert!(matches!(parse(long.as_bytes(), 64), Parsed::Unusual), "its head is too long");
    }
}
