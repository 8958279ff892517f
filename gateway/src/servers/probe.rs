//! Whether an instance takes requests, and whether it is alive at all. Without probes it is ready as soon as it accepts
//! a connection.
//!
//! A probe takes a turn like any request. While there is none the instance is at work, which is as good a sign; whether
//! its requests take too long is for their deadlines to say.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use ramet_control::gateway::{FromGateway, Health, Probe};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::body::Outgoing;
use super::connection::Age;
use super::exchange::{Answered, Asked, Exchange, Rest};
use super::{Purpose, Server, Servers, State};

/// How often an instance is tried that has not accepted a connection yet.
const START_PERIOD: Duration = Duration::from_millis(20);

/// How long a connection may take where no probe says so.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an instance that does not start to serve is left without a word.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// So much of an answer's body is read, though nobody looks at it: to a server that is still writing, a connection that
/// is closed meanwhile is an error, which it would log each time.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How an instance took a probe.
enum Outcome {
    Passed,
    Failed(String),
    /// It had no turn left.
    Busy,
}

/// Watches an instance until it is relieved or gone.
pub(crate) async fn watch(servers: &Servers, server: Arc<Server>, head_bytes_max: usize) {
    if !started(&server, head_bytes_max).await {
        return;
    }
    become_ready(servers, &server);
    let readiness = async {
        match &server.http.readiness {
            Some(probe) => watch_readiness(servers, &server, probe, head_bytes_max).await,
            None => std::future::pending().await,
        }
    };
    let liveness = async {
        match &server.http.liveness {
            Some(probe) => watch_liveness(&server, probe, head_bytes_max).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = readiness => {}
        () = liveness => {}
    }
}

/// Waits until an instance passes its first probe. False: it is over before.
async fn started(server: &Arc<Server>, head_bytes_max: usize) -> bool {
    let (mut waited, mut told) = (Duration::ZERO, None);
    while !server.is_over() {
        let outcome = match &server.http.readiness {
            Some(probe) => ask(server, probe, head_bytes_max).await,
            None => connect(server).await,
        };
        match outcome {
            Outcome::Passed => return true,
            Outcome::Busy => {}
            Outcome::Failed(why) => {
                if waited >= SILENT_FOR && told.as_ref() != Some(&why) {
                    server.tell(Health::Unready(why.clone()));
                    told = Some(why);
                }
            }
        }
        sleep(START_PERIOD).await;
        waited += START_PERIOD;
    }
    false
}

fn become_ready(servers: &Servers, server: &Server) {
    if server.enter(State::Ready) {
        server.tell(Health::Ready);
        servers.note_change();
    }
}

/// Probes again and again until an instance is over, or `hear` has heard enough: it is given how many probes in a row
/// have failed, and why the last one did.
async fn watch_with(
    server: &Arc<Server>,
    probe: &Probe,
    head_bytes_max: usize,
    mut hear: impl FnMut(u32, Option<String>) -> ControlFlow<()>,
) {
    let mut failures = 0;
    loop {
        sleep(probe.period).await;
        if server.is_over() {
            return;
        }
        let why = match ask(server, probe, head_bytes_max).await {
            Outcome::Busy => continue,
            Outcome::Passed => None,
            Outcome::Failed(why) => Some(why),
        };
        failures = if why.is_some() { failures + 1 } else { 0 };
        if hear(failures, why).is_break() {
            return;
        }
    }
}

async fn watch_readiness(servers: &Servers, server: &Arc<Server>, probe: &Probe, head_bytes_max: usize) {
    watch_with(server, probe, head_bytes_max, |failures, why| {
        match why {
            None => become_ready(servers, server),
            Some(why) if failures >= probe.failure_threshold && server.enter(State::Unready) => {
                server.tell(Health::Unready(why));
            }
            Some(_) => {}
        }
        ControlFlow::Continue(())
    })
    .await;
}

async fn watch_liveness(server: &Arc<Server>, probe: &Probe, head_bytes_max: usize) {
    watch_with(server, probe, head_bytes_max, |failures, why| match why {
        Some(why) if failures >= probe.failure_threshold => {
            server.tell(Health::Dead(format!("its liveness probe failed {failures} times in a row: {why}")));
            ControlFlow::Break(())
        }
        Some(_) | None => ControlFlow::Continue(()),
    })
    .await;
}

async fn ask(server: &Arc<Server>, probe: &Probe, head_bytes_max: usize) -> Outcome {
    let Some(turn) = server.hold(Purpose::Probe).and_then(|held| held.turn_now().ok()) else { return Outcome::Busy };
    let request = Request::builder()
        .method(Method::GET)
        .uri(&probe.path)
        .header(header::HOST, "localhost")
        .header(header::USER_AGENT, "ramet-probe")
        .header(header::CONNECTION, "close")
        .body(Outgoing::whole(Default::default()));
    let Ok(request) = request else { return Outcome::Failed(format!("{} is no path", probe.path)) };
    let asked = async {
        let request = Asked::Unusual(Box::new(request));
        let mut exchange = Exchange::begin(turn, Age::New, request, head_bytes_max).await?;
        exchange.head().await
    };
    let deadline = Instant::now() + probe.timeout;
    let status = match timeout_at(deadline, asked).await {
        Err(_) => return Outcome::Failed(format!("GET {} was not answered within {:?}", probe.path, probe.timeout)),
        Ok(Err(error)) => return Outcome::Failed(format!("GET {}: {error}", probe.path)),
        Ok(Ok(Answered { head, rest })) => {
            let _ = timeout_at(deadline, read_on(rest)).await;
            head.status()
        }
    };
    if is_good(status) { Outcome::Passed } else { Outcome::Failed(format!("GET {} was answered {status}", probe.path)) }
}

/// Reads what follows a head.
async fn read_on(mut rest: Rest) {
    let mut left = BODY_BYTES_MAX;
    while left > 0
        && let Some(Ok(piece)) = poll_fn(|context| rest.poll_piece(context)).await
    {
        left = left.saturating_sub(piece.len());
    }
}

async fn connect(server: &Arc<Server>) -> Outcome {
    match timeout(CONNECT_TIMEOUT, server.sockets.take_new()).await {
        Err(_) => Outcome::Failed(format!("it did not accept a connection within {CONNECT_TIMEOUT:?}")),
        Ok(Err(error)) => Outcome::Failed(error.to_string()),
        Ok(Ok(stream)) => {
            server.sockets.keep(stream);
            Outcome::Passed
        }
    }
}

fn is_good(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

impl Server {
    fn tell(&self, health: Health) {
        (self.say)(FromGateway::Probed { instance: self.info.instance, health });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use ramet_control::gateway::Address;

    use super::*;
    use crate::servers::tests::server_at;

    #[test]
    fn an_answer_is_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            assert!(stream.read(&mut [0; 4096])? > 0, "no request has come");
            let body = [b'x'; BODY_BYTES_MAX - 1];
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())?;
            stream.write_all(&body)?;
            // If it was closed before all was read, this fails.
            stream.read(&mut [0])
        });
        let servers = Servers::new(Arc::new(|_| {}));
        let server = server_at(&servers, 1, Address::Socket { path, user: None });
        let second = Duration::from_secs(1);
        let probe = Probe { path: "/".to_owned(), period: second, timeout: 60 * second, failure_threshold: 1 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let outcome = runtime.block_on(ask(&server, &probe, 8192));
        assert!(matches!(outcome, Outcome::Passed));
        assert_eq!(peer.join().expect("no panic").expect("an end"), 0);
    }
}
