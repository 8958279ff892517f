//! The parser finds the same answer however the bytes are cut, and refuses what it cannot be sure of.

use super::*;

/// Status, body, what is left over, and whether the connection is kept.
type Read = (u16, Vec<u8>, Vec<u8>, bool);

/// Feeds `input` in pieces of `piece_bytes`, as a connection would, and returns what was read.
fn read(input: &[u8], piece_bytes: usize) -> Result<Option<Read>, BadResponse> {
    let mut parser = ResponseParser::new();
    let (mut buffer, mut body) = (Vec::new(), Vec::new());
    let mut pieces = input.chunks(piece_bytes);
    while let Some(piece) = pieces.next() {
        buffer.extend_from_slice(piece);
        let progress = parser.feed(&buffer, |data| body.extend_from_slice(data))?;
        buffer.drain(..progress.consumed_bytes);
        if progress.complete {
            buffer.extend(pieces.flatten());
            return Ok(Some((parser.status, body, buffer, parser.keeps_alive)));
        }
    }
    Ok(None)
}

fn whole(input: &str) -> (u16, String, String, bool) {
    let mut answers = (1..=input.len()).map(|piece_bytes| read(input.as_bytes(), piece_bytes).unwrap().unwrap());
    let first = answers.next().unwrap();
    for answer in answers {
        assert_eq!(answer, first, "the pieces' size changes the answer to {input:?}");
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (first.0, text(first.1), text(first.2), first.3)
}

fn refused(input: &str) -> BadResponse {
    for piece_bytes in 1..=input.len() {
        let error = read(input.as_bytes(), piece_bytes).unwrap_err();
        assert_eq!(error, read(input.as_bytes(), input.len()).unwrap_err());
    }
    read(input.as_bytes(), input.len()).unwrap_err()
}

#[test]
fn a_length_bounds_the_body() {
    let answer = whole("HTTP/1.1 200 OK\r\ncontent-LENGTH:  5 \r\n\r\nhelloHTTP/1.1");
    assert_eq!(answer, (200, "hello".to_owned(), "HTTP/1.1".to_owned(), true));
    let answer = whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!((answer.0, answer.1.as_str()), (200, "ok"));
}

#[test]
fn an_empty_body_is_complete_with_its_head() {
    assert_eq!(whole("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").0, 404);
    assert_eq!(whole("HTTP/1.1 204 No Content\r\n\r\n").0, 204);
    // A length beside 304 is that of the body it would have had.
    assert_eq!(whole("HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n").0, 304);
}

#[test]
fn chunks_are_joined_and_extensions_and_trailers_skipped() {
    let answer = whole(concat!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n",
        "3\r\nabc\r\nA;name=\"v\"\r\n0123\r\n6789\r\n0\r\nX-Sum: 1\r\nX-More: \r\n\r\nrest",
    ));
    assert_eq!(answer, (200, "abc0123\r\n6789".to_owned(), "rest".to_owned(), true));
}

#[test]
fn interim_responses_are_passed_over() {
    let answer = whole(concat!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
    ));
    assert_eq!((answer.0, answer.1.as_str()), (200, "x"));
}

#[test]
fn an_announced_end_of_the_connection_is_seen() {
    assert!(!whole("HTTP/1.1 200 OK\r\nConnection: foo, Close\r\nContent-Length: 0\r\n\r\n").3);
    assert!(!whole("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").3);
    assert!(whole("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n").3);
}

#[test]
fn doubtful_framing_is_refused() {
    let with = |headers: &str| refused(&format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n0\r\n\r\n"));
    assert_eq!(with("X: y"), BadResponse::Endless);
    assert_eq!(with("Content-Length: 1\r\nContent-Length: 2"), BadResponse::Length);
    assert_eq!(with("Content-Length: 1, 1"), BadResponse::Length);
    assert_eq!(with("Content-Length: +1"), BadResponse::Length);
    assert_eq!(with("Content-Length: -1"), BadResponse::Length);
    assert_eq!(with("Content-Length:"), BadResponse::Length);
    assert_eq!(with("Content-Length: 99999999999999999999"), BadResponse::Length);
    assert_eq!(with("Transfer-Encoding: gzip, chunked"), BadResponse::Coding);
    assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), BadResponse::Coding);
    assert_eq!(with("Transfer-Encoding: chunked\r\nContent-Length: 5"), BadResponse::Coding);
    assert_eq!(refused("HTTP/1.1 101 Switching Protocols\r\n\r\n"), BadResponse::Endless);
    assert!(matches!(refused("SSH-2.0-server\r\n"), BadResponse::Head(_)));
}

#[test]
fn broken_chunks_are_refused() {
    let with = |chunks: &str| refused(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    assert_eq!(with("x\r\n"), BadResponse::Chunk);
    assert_eq!(with("3\r\nabcd"), BadResponse::Chunk);
    assert_eq!(with("11111111111111111\r\n"), BadResponse::Chunk);
}

#[test]
fn a_response_that_breaks_off_is_never_complete() {
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n";
    for cut in 1..response.len() {
        assert_eq!(read(&response.as_bytes()[..cut], response.len()), Ok(None), "cut at {cut}");
    }
}

#[test]
fn nothing_grows_without_bound() {
    let endless = "x".repeat(LINE_BYTES_MAX);
    assert_eq!(read(format!("HTTP/1.1 200 OK\r\nX: {endless}").as_bytes(), 100), Err(BadResponse::TooLong));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(read(format!("{chunked}1;{endless}").as_bytes(), 100), Err(BadResponse::TooLong));
    assert_eq!(read(format!("{chunked}0\r\n{endless}").as_bytes(), 100), Err(BadResponse::TooLong));
}
