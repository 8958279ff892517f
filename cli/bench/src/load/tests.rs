//! The client against servers that misbehave: every way to answer wrongly is an error, and says which.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::client::Client;
use super::connection::NoAnswer;
use super::exchange::ExchangeError;
use super::*;
use crate::setting::Protocol;

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
    let mut client = Clients::new(address, None).next().await.unwrap();
    loop {
        if let Err(error) = exchange.run_compared(&mut client).await {
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
        let mut client: Client = Clients::new(address, None).next().await.unwrap();
        exchange.run(&mut client).await.unwrap_err()
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

const SETTING: Setting = Setting::new(1, 4, PAYLOAD_BYTES);
const TIMES: Times = Times { warm_up: Duration::from_millis(5), duration: Duration::from_millis(200) };

/// Answers every request with its body, over either protocol, after a pause.
async fn echo(pause: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = move |request: http::Request<hyper::body::Incoming>| async move {
                // tidy: a server that takes its time
                tokio::time::sleep(pause).await;
                Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
            };
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
                let stream = hyper_util::rt::TokioIo::new(stream);
                let _ = server.serve_connection(stream, hyper::service::service_fn(answer)).await;
            });
        }
    });
    address
}

async fn measured(setting: Setting, pause: Duration) -> Sample {
    let workload = Workload::Echo { path: "/".to_owned() };
    round(echo(pause).await, &workload, &setting, TIMES, None).await.unwrap()
}

#[tokio::test]
async fn all_protocols_are_spoken() {
    for protocol in [Protocol::Http1, Protocol::Http1Close, Protocol::H2c] {
        let found = measured(Setting { protocol: Some(protocol), connections: 40, ..SETTING }, Duration::ZERO).await;
        assert!(found.requests_per_s > 100.0 && found.cost.is_none(), "{found:?}");
    }
}

#[tokio::test]
async fn each_request_has_a_connection_of_its_own_where_that_is_wanted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 4096];
            let count = stream.read(&mut heard).await.unwrap();
            let text = String::from_utf8_lossy(&heard[..count]).into_owned();
            assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    });
    let exchange = Workload::Any { host: "h".to_owned(), path: "/".to_owned() }.exchange(address, 1, 0);
    let mut client = Clients::new(address, Some(Protocol::Http1Close)).next().await.unwrap();
    for _ in 0..3 {
        exchange.run(&mut client).await.unwrap();
    }
    served.await.unwrap();
}

#[tokio::test]
async fn an_open_loop_asks_as_often_as_it_is_told_to() {
    let found = measured(Setting { rate_per_s: Some(500), ..SETTING }, Duration::ZERO).await;
    // A machine that is busy with other things may do less.
    assert!(found.requests_per_s < 650.0, "{found:?}");
}

#[tokio::test]
async fn what_waits_for_a_free_connection_waits_for_its_answer() {
    // Four connections answer 200 a second at the most, of 400 that are due.
    let setting = Setting { rate_per_s: Some(400), ..SETTING };
    let found = measured(setting, Duration::from_millis(20)).await;
    assert!(found.requests_per_s < 220.0, "{found:?}");
    assert!(found.corrected.p99_us > 2.0 * found.raw.p50_us, "{found:?}");
    assert_eq!(found.latency(&setting), &found.corrected);
}

#[tokio::test]
async fn any_answer_of_success_will_do_where_nothing_is_known() {
    let answers: [(&'static [&'static [&'static str]], bool); 3] = [
        (&[&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"]], true),
        (&[&["HTTP/1.1 204 No Content\r\n\r\n"]], true),
        (&[&["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]], false),
    ];
    for (answer, is_right) in answers {
        let address = server(answer).await;
        let workload = Workload::Any { host: "a.example".to_owned(), path: "/b".to_owned() };
        let exchange = workload.exchange(address, PAYLOAD_BYTES, 0);
        let outcome = exchange.run_compared(&mut Clients::new(address, None).next().await.unwrap()).await;
        assert_eq!(outcome.is_ok(), is_right, "{answer:?}: {outcome:?}");
    }
}
