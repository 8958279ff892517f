//! A function that gives every message back to where it came from, and instances that misbehave.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ramet_common::{ABI, FunctionId, InstanceId, Kind, PacketDescriptor};
use ramet_control::Numbered;
use ramet_control::instance::{Direction, FromInstance, Join, Link, ToInstance};
use ramet_control::socket::ControlSocket;
use ramet_dataplane::endpoint::{LinkEnd, Links};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg;
use ramet_dataplane::{Endpoint, Ledger, Pool, TransportKind, Wait};

pub(crate) fn run(behaviour: &str) -> ExitCode {
    println!("I am {behaviour}");
    match behaviour {
        "crashing" => {
            eprintln!("something is wrong\nand it shows");
            ExitCode::from(3)
        }
        "aged" => {
            let control = ControlSocket::from_stdin().expect("started by a supervisor");
            control.send(&FromInstance::Hello { abi: ABI + 1, sdk: "old".to_owned() }, &[]).expect("sent");
            let _ = control.receive::<Numbered<ToInstance>>();
            ExitCode::SUCCESS
        }
        "deaf" => {
            let control = ControlSocket::from_stdin().expect("started by a supervisor");
            control.send(&FromInstance::Hello { abi: ABI, sdk: "test".to_owned() }, &[]).expect("sent");
            loop {
                std::thread::park();
            }
        }
        "parent" => {
            leave_a_child_behind();
            serve(behaviour)
        }
        behaviour => serve(behaviour),
    }
}

#[allow(clippy::zombie_processes, reason = "the test is who ends the child")]
fn leave_a_child_behind() {
    let seconds = std::env::args().nth(3).expect("how long the child sleeps");
    let mut child = Command::new("sleep");
    child.arg(seconds).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    child.spawn().expect("a child");
}

fn serve(behaviour: &str) -> ExitCode {
    let control = Arc::new(ControlSocket::from_stdin().expect("started by a supervisor"));
    control.send(&FromInstance::Hello { abi: ABI, sdk: "test".to_owned() }, &[]).expect("sent");
    let (first, fds) = control.receive::<Numbered<ToInstance>>().expect("a join");
    let ToInstance::Join(join) = first.message else { panic!("the first message is no join") };
    let (endpoint, _pool) = attach(&join, fds);
    let links = endpoint.links.clone();
    let stopping = Arc::new(AtomicBool::new(false));
    let service = Service { control: Arc::clone(&control), stopping: Arc::clone(&stopping) };
    let pause = if behaviour == "slow" { Duration::from_millis(500) } else { Duration::ZERO };
    std::thread::spawn(move || service.run(endpoint, pause));
    control.send(&FromInstance::Applied { sequence: first.sequence }, &[]).expect("sent");
    control.send(&FromInstance::Ready, &[]).expect("sent");
    if behaviour == "curious" {
        control.send(&FromInstance::WhyRefused, &[]).expect("sent");
    }
    while let Ok((Numbered { sequence, message }, fds)) = control.receive::<Numbered<ToInstance>>() {
        println!("told {}", word(&message));
        if let ToInstance::Link(Link { peer, function, direction }) = &message {
            link(links.as_deref().expect("lanes"), *peer, *function, *direction, fds);
        }
        if let ToInstance::Unlink { peer } = &message {
            links.as_deref().expect("lanes").remove(*peer);
        }
        control.send(&FromInstance::Applied { sequence }, &[]).expect("sent");
        if message == ToInstance::Stop && behaviour != "stubborn" {
            stopping.store(true, Ordering::SeqCst);
        }
    }
    ExitCode::SUCCESS
}

/// Gives every message back.
struct Service {
    control: Arc<ControlSocket>,
    stopping: Arc<AtomicBool>,
}

impl Service {
    fn run(self, mut endpoint: Endpoint, pause: Duration) {
        loop {
            let is_stopping = self.stopping.load(Ordering::SeqCst);
            let mut batch = Vec::new();
            // Short, because nothing else tells this thread that it is to stop.
            let wait = Wait::For(Duration::from_millis(10));
            if endpoint.receiver.receive(wait, &mut |descriptor| batch.push(descriptor)).is_err() {
                return;
            }
            if is_stopping && batch.is_empty() {
                let _ = self.control.send(&FromInstance::Drained, &[]);
                return;
            }
            for descriptor in batch {
                // tidy: the test asks for a slow function
                std::thread::sleep(pause);
                // A reply goes to who asked: a gateway worker.
                let reply = PacketDescriptor { kind: Kind::Reply as u8, function: FunctionId::GATEWAY, ..descriptor };
                if let Err(error) = endpoint.sender.send(&[reply]) {
                    eprintln!("cannot reply: {error}");
                }
            }
        }
    }
}

fn word(message: &ToInstance) -> String {
    format!("{message:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}

pub(super) fn link(links: &dyn Links, peer: InstanceId, function: FunctionId, direction: Direction, fds: Vec<OwnedFd>) {
    let end = LinkEnd(fds);
    match direction {
        Direction::Outgoing { capacity } => links.add_outgoing(peer, function, capacity, end),
        Direction::Incoming => links.add_incoming(peer, function, end),
        Direction::Retiring => {
            links.retire(peer);
            Ok(())
        }
        Direction::Closed => {
            links.close(peer);
            Ok(())
        }
    }
    .expect("a lane");
}

fn attach(join: &Join, fds: Vec<OwnedFd>) -> (Endpoint, Pool) {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().expect("a descriptor");
    let pool = Pool::attach(next().as_fd(), join.layout).expect("a pool");
    let endpoint = match join.transport {
        TransportKind::SkMsg => skmsg::endpoint(next(), next(), None),
        kind => {
            let ledger = Ledger::map_shared(next().as_fd(), join.layout.slots()).expect("a ledger");
            let me = Member { instance: join.instance, owner: join.instance };
            lanes::endpoint(kind, me, Arc::new(ledger), Patience::none(), None).expect("an endpoint")
        }
    };
    (endpoint, pool)
}
