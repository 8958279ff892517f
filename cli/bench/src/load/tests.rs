//! The client against servers that misbehave: every way to answer wrongly is an error, and says which.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::connection::NoAnswer;
use super::exchange::ExchangeError;
use super::*;

const PAYLOAD_BYTES: usize = 8;

/// Serves one raw answer per connection and request, in order, with `BODY` replaced by what was sent; then closes.
async fn server(answers: &'static [&'static [&'static str]]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for connection in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            for answer in *connection {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let mut body = [0; PAYLOAD_BYTES];
                stream.read_exact(&mut body).await.unwrap();
                let mut parts = answer.split("BODY").peekable();
                while let Some(part) = parts.next() {
                    stream.write_all(part.as_bytes()).await.unwrap();
                    if parts.peek().is_some() {
                        stream.write_all(&body).await.unwrap();
                    }
                }
            }
        }
    });
    address
}

async fn first_error(answers: &'static [&'static [&'static str]]) -> ExchangeError {
    let address = server(answers).await;
    let exchange = Workload::Echo { path: "/".to_owned() }.exchange(address, PAYLOAD_BYTES, 0);
    let mut connection = Connection::open(address).await.unwrap();
    loop {
        if let Err(error) = exchange.run_compared(&mut connection).await {
            return error;
        }
    }
}

#[tokio::test]
async fn other_answers_than_the_expected_are_errors() {
    let error = first_error(&[&["HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nBODY++"]]).await;
    assert!(matches!(error, ExchangeError::NoAnswer(NoAnswer::Excess(_) | NoAnswer::Bad(_))), "{error}");
    let error = first_error(&[&["HTTP/1.1 503 Busy\r\nContent-Length: 7\r\n\r\nfull up"]]).await;
    assert_eq!(error.to_string(), "the answer is 503 instead of 200: full up");
    let error = first_error(&[&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nBODY+"]]).await;
    assert!(matches!(error, ExchangeError::Length { got: 9, wanted: PAYLOAD_BYTES }), "{error}");
    let error = first_error(&[&["HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nnot that"]]).await;
    assert!(matches!(error, ExchangeError::Differs(0)), "{error}");
}

#[tokio::test]
async fn a_connection_that_ends_within_an_answer_is_an_error() {
    for answers in
        [&[""] as &'static [&'static str], &["HTTP/1.1 200"], &["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nBODY"]]
    {
        let answers: &'static [&'static [&'static str]] = Box::leak(Box::new([answers]));
        let error = first_error(answers).await;
        assert!(matches!(error, ExchangeError::NoAnswer(NoAnswer::Closed)), "{error}");
    }
}

#[tokio::test]
async fn an_announced_close_is_followed_by_a_new_connection() {
    let error = first_error(&[
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nBODY",
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 8\r\n\r\nBODY",
        ],
        &[
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nBODY\r\n0\r\n\r\n",
            "HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n",
        ],
    ]);
    assert!(matches!(error.await, ExchangeError::Status { got: 418, .. }));
}

#[tokio::test]
async fn an_answer_before_the_request_is_over_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        // Kept open, and never read.
        std::future::pending::<()>().await;
    };
    let ask = async {
        let exchange = Workload::Echo { path: "/".to_owned() }.exchange(address, 32 << 20, 0);
        exchange.run(&mut Connection::open(address).await.unwrap()).await.unwrap_err()
    };
    let error = tokio::select! { error = ask => error, () = serve => unreachable!() };
    assert!(matches!(error, ExchangeError::NoAnswer(NoAnswer::Early(413))), "{error}");
}

#[test]
fn connections_send_different_bytes() {
    let workload = Workload::Echo { path: "/".to_owned() };
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let exchanges = [0, 1].map(|index| format!("{:?}", workload.exchange(address, 64, index)));
    assert_ne!(exchanges[0], exchanges[1]);
}

#[test]
fn a_sample_is_per_second_and_per_request() {
    let mut latencies = Histogram::new(3).unwrap();
    for micros in 1..=1000 {
        latencies.record(micros * 1000).unwrap();
    }
    let found = sample(&latencies, Duration::from_millis(500), Duration::from_millis(20)).unwrap();
    assert_eq!(found.requests_per_s, 2000.0);
    assert!((found.cpu_us_per_request - 20.0).abs() < 1e-9);
    for (value, exact) in [(found.p50_us, 500.0), (found.p99_us, 990.0), (found.p999_us, 999.0)] {
        assert!((value / exact - 1.0).abs() < 2e-3, "{value} instead of {exact}");
    }
    let none = Histogram::new(3).unwrap();
    assert!(sample(&none, Duration::from_secs(1), Duration::ZERO).is_err());
}
