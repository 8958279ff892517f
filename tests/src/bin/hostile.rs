//! A function that breaks every rule it can: it joins properly, then answers each message with garbage.
//!
//! It uses no SDK, so nothing keeps it from sending what it likes. The body of a request says which rule to break.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ramet_common::descriptor::{FLAG_LENT, PIECE_FULL, WANT_HEAD, WANT_PIECE, want_aux};
use ramet_common::{
    ABI, DESCRIPTOR_BYTES, FunctionId, Generation, InstanceId, Kind, PacketDescriptor, RequestId, SlotIndex,
};
use ramet_control::Numbered;
use ramet_control::instance::{Direction, FromInstance, Join, ToInstance};
use ramet_control::socket::{ControlError, ControlSocket};
use ramet_dataplane::endpoint::{LinkEnd, Links};
use ramet_dataplane::message::{self, BlockWriter, BodyPlace, Message, Part};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg;
use ramet_dataplane::{Endpoint, Ledger, Pool, Sender, TransportKind, Wait};

/// How much garbage one request causes.
const GARBAGE: u64 = 2000;

fn main() {
    let control = Arc::new(ControlSocket::from_stdin().expect("started by a supervisor"));
    control.send(&FromInstance::Hello { abi: ABI, sdk: "hostile".to_owned() }, &[]).expect("hello");
    let (first, fds) = control.receive::<Numbered<ToInstance>>().expect("join");
    let ToInstance::Join(join) = first.message else { panic!("expected to join") };
    let (hands, endpoint) = enter(&join, fds);
    control.send(&FromInstance::Applied { sequence: first.sequence }, &[]).expect("applied");
    control.send(&FromInstance::Ready, &[]).expect("ready");
    let links = endpoint.links.clone();
    let listener = Arc::clone(&control);
    std::thread::spawn(move || listen(&listener, links.as_deref()));
    serve(&join, &hands, endpoint);
}

/// What it can put its hands on.
struct Hands {
    pool: Pool,
    /// In S mode it is the kernel's.
    ledger: Option<Ledger>,
}

fn enter(join: &Join, mut fds: Vec<OwnedFd>) -> (Hands, Endpoint) {
    let rest = fds.split_off(1);
    let pool = Pool::attach(fds[0].as_fd(), join.layout).expect("pool");
    match join.transport {
        TransportKind::SkMsg => {
            let [tcp, unix] = <[OwnedFd; 2]>::try_from(rest).expect("two sockets");
            (Hands { pool, ledger: None }, skmsg::endpoint(tcp, unix, None))
        }
        kind => {
            let ledger = Ledger::map_shared(rest[0].as_fd(), join.layout.slots()).expect("ledger");
            let me = Member { instance: join.instance, owner: join.instance };
            let endpoint = lanes::endpoint(kind, me, Arc::new(ledger.clone()), Patience::none(), None);
            let endpoint = endpoint.expect("endpoint");
            (Hands { pool, ledger: Some(ledger) }, endpoint)
        }
    }
}

/// Plays along with the supervisor.
fn listen(control: &ControlSocket, links: Option<&dyn Links>) {
    loop {
        let (numbered, fds) = match control.receive::<Numbered<ToInstance>>() {
            Ok(received) => received,
            Err(ControlError::Closed) => std::process::exit(0),
            Err(error) => panic!("{error}"),
        };
        match (numbered.message, links) {
            (ToInstance::Link(link), Some(links)) => match link.direction {
                Direction::Outgoing { capacity } => {
                    links.add_outgoing(link.peer, link.function, capacity, LinkEnd(fds)).expect("outgoing");
                }
                Direction::Incoming => links.add_incoming(link.peer, link.function, LinkEnd(fds)).expect("incoming"),
                Direction::Retiring => links.retire(link.peer),
                Direction::Closed => links.close(link.peer),
            },
            (ToInstance::Unlink { peer }, Some(links)) => links.remove(peer),
            (ToInstance::Stop, _) => {
                control.send(&FromInstance::Drained, &[]).expect("drained");
            }
            _ => {}
        }
        control.send(&FromInstance::Applied { sequence: numbered.sequence }, &[]).expect("applied");
    }
}

fn serve(join: &Join, hands: &Hands, mut endpoint: Endpoint) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    loop {
        let mut batch = Vec::new();
        if endpoint.receiver.receive(Wait::Forever, &mut |descriptor| batch.push(descriptor)).is_err() {
            return;
        }
        for descriptor in batch {
            match descriptor.kind() {
                Some(Kind::Request) => {
                    break_a_rule(join, hands, endpoint.sender.as_ref(), &descriptor, &mut random);
                }
                // It has asked for it to do this.
                Some(Kind::Grant) => send_half(join, hands, &descriptor),
                _ => {}
            }
        }
    }
}

/// Dies between the two steps of a send to the gateway, as a sender that is killed there does.
fn send_half(join: &Join, hands: &Hands, held: &PacketDescriptor) {
    let ledger = hands.ledger.as_ref().expect("in S mode the kernel does both");
    assert!(ledger.hand_over(held.slot, held.generation, join.instance, InstanceId::NONE), "it was ours");
    std::process::exit(1);
}

fn break_a_rule(join: &Join, hands: &Hands, sender: &dyn Sender, request: &PacketDescriptor, random: &mut Random) {
    let slot = hands.pool.slot(request.slot).expect("the head's slot");
    let read = Message::read(&slot, request.generation, &join.layout).expect("the gateway's message");
    let body = match &read.body {
        // One whose body is still coming says it in a header.
        _ if read.block.header("x-rule").is_some() => read.block.header("x-rule").unwrap_or_default().to_vec(),
        BodyPlace::Inline { offset, bytes } => slot.slice(*offset, *bytes).expect("the body").to_vec(),
        BodyPlace::Parts(_) => Vec::new(),
    };
    let gateway = read.envelope.gateway;
    let reply =
        PacketDescriptor::new(Kind::Reply, FunctionId::GATEWAY, request.slot, request.generation, request.request)
            .to_instance(gateway);
    match body.as_slice() {
        b"random descriptors" => {
            for _ in 0..GARBAGE {
                let mut bytes = [0u8; DESCRIPTOR_BYTES];
                random.fill(&mut bytes);
                // Half of them look almost right, or they would never get past the first check.
                if random.next().is_multiple_of(2) {
                    bytes[0] = ABI;
                    bytes[1] = (random.next() % 14) as u8;
                }
                let mut garbage: PacketDescriptor = zerocopy_from(bytes);
                if random.next().is_multiple_of(2) {
                    garbage.function = FunctionId::GATEWAY;
                    garbage.peer = gateway;
                    garbage.slot = SlotIndex((random.next() % 4096) as u32);
                    garbage.generation = Generation((random.next() % 8) as u32);
                }
                let _ = sender.send(&[garbage]);
            }
        }
        b"other requests" => {
            for id in 0..GARBAGE {
                let _ = sender.send(&[PacketDescriptor { request: RequestId(id), ..reply }]);
                let forged = PacketDescriptor { slot: SlotIndex(id as u32), request: RequestId(id), ..reply };
                let _ = sender.send(&[forged]);
            }
        }
        b"other functions" => {
            for function in 1..200 {
                let call = PacketDescriptor { kind: Kind::Call as u8, function: FunctionId(function), ..reply };
                let _ = sender.send(&[call.to_instance(InstanceId::NONE)]);
            }
        }
        b"foreign parts" => {
            let parts = vec![Part { slot: SlotIndex(3), generation: Generation(1), offset: 0, bytes: 4096 }];
            let envelope = message::Envelope { status: 200, ..read.envelope };
            let _ = message::write(&slot, envelope, &BlockWriter::response().finish(), &BodyPlace::Parts(parts));
            let _ = sender.send(&[reply]);
        }
        b"torn message" => {
            let mut noise = vec![0u8; slot.bytes()];
            random.fill(&mut noise);
            // The version stays, so that the reader goes on into the noise.
            let _ = slot.copy_in(2, &noise[2..8]);
            let _ = slot.copy_in(40, &noise[40..]);
            let _ = sender.send(&[reply]);
        }
        b"bad header" => {
            let mut block = BlockWriter::response();
            let _ = block.header("x-bad", b"a\r\nset-cookie: stolen=1");
            let envelope = message::Envelope { status: 200, ..read.envelope };
            let _ = message::write(&slot, envelope, &block.finish(), &BodyPlace::EMPTY);
            let _ = sender.send(&[reply]);
        }
        b"twice" => {
            let envelope = message::Envelope { status: 200, ..read.envelope };
            let _ = message::write(&slot, envelope, &BlockWriter::response().finish(), &BodyPlace::EMPTY);
            let _ = sender.send(&[reply]);
            let _ = sender.send(&[reply]);
        }
        b"greed" => {
            for _ in 0..GARBAGE {
                let want = PacketDescriptor { kind: Kind::Want as u8, ..reply };
                let _ = sender.send(&[want.with_aux(want_aux(4, 200))]);
            }
        }
        b"pieces" => want_pieces(sender, reply, random),
        b"wrong worker" => {
            let near = gateway.0.saturating_sub(2)..gateway.0 + 3;
            for other in near.filter(|&other| other != gateway.0) {
                let _ = sender.send(&[reply.to_instance(InstanceId(other))]);
            }
        }
        b"half a reply" => send_half(join, hands, request),
        b"half a return" => {
            let want = PacketDescriptor { kind: Kind::Want as u8, ..reply };
            let _ = sender.send(&[want.with_aux(want_aux(WANT_HEAD, 0))]);
        }
        b"silence" => {}
        _ => {
            let envelope = message::Envelope { status: 200, ..read.envelope };
            let _ = message::write(&slot, envelope, &BlockWriter::response().finish(), &read.body);
            let _ = sender.send(&[reply]);
        }
    }
}

/// Asks for more of the body than there is, and gives back whichever slots, also before it has them.
fn want_pieces(sender: &dyn Sender, reply: PacketDescriptor, random: &mut Random) {
    for number in 0..GARBAGE {
        let want = PacketDescriptor { kind: Kind::Want as u8, ..reply };
        let size = if number.is_multiple_of(3) { PIECE_FULL } else { random.next() as u16 };
        let _ = sender.send(&[want.with_aux(want_aux(WANT_PIECE, size))]);
        let back = PacketDescriptor { kind: Kind::Return as u8, flags: FLAG_LENT, ..reply };
        let _ = sender.send(&[PacketDescriptor { slot: SlotIndex((random.next() % 4096) as u32), ..back }]);
    }
}

fn zerocopy_from(bytes: [u8; DESCRIPTOR_BYTES]) -> PacketDescriptor {
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    PacketDescriptor {
        version: bytes[0],
        kind: bytes[1],
        flags: bytes[2],
        reserved: bytes[3],
        function: FunctionId(u32_at(4)),
        peer: InstanceId(u32_at(8)),
        slot: SlotIndex(u32_at(12)),
        generation: Generation(u32_at(16)),
        aux: u32_at(20),
        request: RequestId(u64::from(u32_at(24)) << 32 | u64::from(u32_at(28))),
    }
}

/// A xorshift generator: the same garbage in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
