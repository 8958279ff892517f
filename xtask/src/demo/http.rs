//! One HTTP/1.1 request on a connection of its own; more is not needed to show a node.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any deadline of the demo's chain.
const PATIENCE: Duration = Duration::from_secs(30);

/// A status and a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Sends a request and reads the answer.
pub(super) fn request(to: SocketAddr, method: &str, path: &str, body: &[u8]) -> Result<Answer> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let bytes = exchange().with_context(|| format!("{method} http://{to}{path} failed"))?;
    parse(&bytes).with_context(|| format!("{method} http://{to}{path} was answered with something else than HTTP"))
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").context("the head has no end")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let status = status.context("there is no status")?;
    let body = &bytes[end + 4..];
    let header =
        |name: &str| head.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()));
    if header("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        return Ok(Answer { status, body: join_chunks(body)? });
    }
    let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length != body.len()) {
        bail!("the body has {} bytes, its head says otherwise", body.len());
    }
    Ok(Answer { status, body: body.to_vec() })
}

fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n").context("a chunk has no length")?;
        let digits = String::from_utf8_lossy(&rest[..end]);
        let length = usize::from_str_radix(digits.trim(), 16).context("a chunk's length is no number")?;
        let chunk = rest.get(end + 2..).and_then(|rest| rest.get(..length)).context("a chunk is cut off")?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(chunk);
        rest = rest.get(end + 2 + length + 2..).context("the last chunk is missing")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_a_length_are_read() {
        let answer = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").expect("an answer");
        assert_eq!(answer, Answer { status: 200, body: b"abc".to_vec() });
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").is_err());
    }

    #[test]
    fn answers_in_chunks_are_read() {
        let head = b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = parse(&[&head[..], b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"].concat()).expect("an answer");
        assert_eq!(answer, Answer { status: 502, body: b"abc0123456789".to_vec() });
        for cut in [&b"3\r\nab"[..], b"3\r\nabc\r\n", b"x\r\n", b""] {
            assert!(parse(&[&head[..], cut].concat()).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn anything_else_is_an_error() {
        assert!(parse(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse(b"").is_err());
    }
}
