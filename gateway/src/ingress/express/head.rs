//! Which requests take the express lane: those that need no more of HTTP/1.1 than a head and a body of known length.

use httparse::{Header, Request, Status};

use crate::http1::{is_target, length, once};
use crate::ingress::request::{Head, is_host};

/// How many headers an express request may have.
pub(super) const HEADERS_MAX: usize = 64;

/// A request for the express lane.
#[derive(Debug)]
pub(super) struct Plain<'b> {
    pub(super) head: Head<'b>,
    pub(super) head_bytes: usize,
    pub(super) body_bytes: u64,
    /// The client wants the connection closed after the answer.
    pub(super) closes: bool,
}

/// Reads the head at the start of `bytes`. `None`: it is incomplete, unusual or wrong, so hyper shall see it.
pub(super) fn parse<'b>(bytes: &'b [u8], headers: &'b mut [Header<'b>]) -> Option<Plain<'b>> {
    let mut request = Request::new(headers);
    let Ok(Status::Complete(head_bytes)) = request.parse(bytes) else { return None };
    let (method, target) = (request.method?, request.path?);
    let is_usual = matches!(method, "GET" | "POST" | "PUT" | "PATCH" | "DELETE") && request.version == Some(1);
    if !is_usual || !is_target(target) {
        return None;
    }
    let headers: &'b [Header<'b>] = request.headers;
    let (mut host, mut body_bytes, mut closes) = (None, None, false);
    for Header { name, value } in headers {
        // By length first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                let text = std::str::from_utf8(value).ok().filter(|text| is_host(text));
                once(&mut host, text?)?;
            }
            6 if name.eq_ignore_ascii_case("expect") => return None,
            7 if name.eq_ignore_ascii_case("upgrade") => return None,
            10 if name.eq_ignore_ascii_case("connection") => {
                closes |= value.eq_ignore_ascii_case(b"close");
                if !closes && !value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            14 if name.eq_ignore_ascii_case("content-length") => once(&mut body_bytes, length(value)?)?,
            17 if name.eq_ignore_ascii_case("transfer-encoding") => return None,
            _ => {}
        }
    }
    let host = host.filter(|host| !host.is_empty())?;
    let head = Head { method, target, host, headers };
    Some(Plain { head, head_bytes, body_bytes: body_bytes.unwrap_or(0), closes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(text: &str) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        parse(text.as_bytes(), &mut headers).is_some()
    }

    #[test]
    fn an_ordinary_request_is_taken() {
        let text = "POST /a/b?c=d HTTP/1.1\r\nHost: h:80\r\nContent-Length: 12\r\nConnection: Close\r\n\r\nbody";
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let plain = parse(text.as_bytes(), &mut headers).expect("plain");
        assert_eq!((plain.head.method, plain.head.target, plain.head.host), ("POST", "/a/b?c=d", "h:80"));
        assert_eq!((plain.head_bytes, plain.body_bytes, plain.closes), (text.len() - 4, 12, true));
        assert_eq!(plain.head.headers.len(), 3);
    }

    #[test]
    fn everything_else_is_left_to_hyper() {
        assert!(is_plain("GET / HTTP/1.1\r\nhost: h\r\n\r\n"));
        for special in [
            "GET / HTTP/1.1\r\nhost: h\r\n",
            "GET / HTTP/1.0\r\nhost: h\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "HEAD / HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET /<> HTTP/1.1\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nhost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, upgrade\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: +1\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nbad header\r\n\r\n",
        ] {
            assert!(!is_plain(special), "{special:?}");
        }
    }
}
