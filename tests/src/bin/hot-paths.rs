//! The hot paths alone, each a number of times, for `cargo xtask count` to count their instructions.
//!
//! `hot-paths PATH TIMES`. Everything is made before the first turn, and a turn does what one request or hop does.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "it lists its paths")]

use std::hint::black_box;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use ramet_common::{
    DomainId, FunctionId, Generation, InstanceId, Kind, PacketDescriptor, RequestId, RouteId, SlotIndex,
};
use ramet_dataplane::endpoint::Wait;
use ramet_dataplane::ids;
use ramet_dataplane::message::{self, BlockWriter, BodyPlace, Envelope, Message};
use ramet_dataplane::pool::PoolLayout;
use ramet_dataplane::route::{Next, Route, Step, Target, Work};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::ring;
use ramet_dataplane::{Endpoint, Ledger, Meter, Pool, TransportKind};
use ramet_shm::lane::{Consumer, LANE_BYTES, Producer, SharedLane};
use ramet_shm::segment::create_sealed;

type Failure = Box<dyn std::error::Error>;
type Path = fn(u64) -> Result<(), Failure>;

/// A request as `curl` would send it.
const REQUEST: &[u8] = b"POST /bench?x=1 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\
    Content-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\n";

const PATHS: [(&str, Path); 9] = [
    ("ring", ring),
    ("ring-batch-of-32", ring_batch),
    ("ring-there-and-back", ring_there_and_back),
    ("ring-there-and-back-32", ring_there_and_back_32),
    ("hand-over", hand_over),
    ("envelope-write", envelope_write),
    ("envelope-read", envelope_read),
    ("next-hop", next_hop),
    ("express-lane", express_lane),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [list] if list == "--list" => {
            for (name, _) in PATHS {
                println!("{name}");
            }
            Ok(())
        }
        [name, times] => run(name, times),
        _ => Err("expected `--list`, or a path and how many times".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hot-paths: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, times: &str) -> Result<(), Failure> {
    let path = PATHS.iter().find(|(known, _)| *known == name);
    let (_, path) = path.ok_or_else(|| format!("there is no path {name}; --list names them"))?;
    path(times.parse()?)
}

fn descriptor(slot: u32) -> PacketDescriptor {
    PacketDescriptor::new(Kind::Request, FunctionId(1), SlotIndex(slot), Generation(0), RequestId(7))
}

/// Pushes and pops so many at a time.
fn through_lane(batch: &[PacketDescriptor], times: u64) -> Result<(), Failure> {
    let memory = create_sealed("hot-paths-lane", LANE_BYTES)?;
    let mut producer = Producer::new(SharedLane::map(memory.as_fd())?);
    let mut consumer = Consumer::new(SharedLane::map(memory.as_fd())?);
    for _ in 0..times {
        producer.push(black_box(batch))?;
        consumer.pop(batch.len(), |descriptor| {
            black_box(descriptor);
        })?;
    }
    Ok(())
}

fn ring(times: u64) -> Result<(), Failure> {
    through_lane(&[descriptor(0)], times)
}

fn ring_batch(times: u64) -> Result<(), Failure> {
    let batch: Vec<_> = (0..32).map(descriptor).collect();
    through_lane(&batch, times)
}

/// Requests go to a function over the ring transport, with all that is checked and counted, and come back answered.
fn there_and_back(requests: u32, times: u64) -> Result<(), Failure> {
    let memory = create_sealed("hot-paths-ledger", Ledger::shared_bytes_for(64))?;
    let ledger = Ledger::map_shared(memory.as_fd(), 64)?;
    let (worker, instance) = (InstanceId::new(1, 1), InstanceId::new(2, 1));
    let join = |instance, owner| {
        let meter = Meter::map(Meter::create()?.as_fd())?;
        let me = Member { instance, owner };
        let ledger = Arc::new(ledger.clone());
        Ok::<_, Failure>(lanes::endpoint(TransportKind::Ring, me, ledger, Patience::none(), Some(meter))?)
    };
    let (mut gateway, mut function) = (join(worker, InstanceId::NONE)?, join(instance, instance)?);
    let links = |endpoint: &Endpoint| endpoint.links.clone().ok_or("a ring has links");
    let (of_gateway, of_function) = (links(&gateway)?, links(&function)?);
    let (there, back) = (ring::link()?, ring::link()?);
    of_function.add_incoming(worker, FunctionId::GATEWAY, there.1)?;
    of_gateway.add_outgoing(instance, FunctionId(1), 1024, there.0)?;
    of_gateway.add_incoming(instance, FunctionId(1), back.1)?;
    of_function.add_outgoing(worker, FunctionId::GATEWAY, 1024, back.0)?;
    let batch: Vec<_> = (0..requests).map(descriptor).collect();
    let answer = |request: &PacketDescriptor| {
        PacketDescriptor { kind: Kind::Reply as u8, function: FunctionId::GATEWAY, ..*request }.to_instance(worker)
    };
    let answers: Vec<_> = batch.iter().map(answer).collect();
    for _ in 0..times {
        hop(&gateway, &mut function, &batch)?;
        hop(&function, &mut gateway, &answers)?;
    }
    Ok(())
}

fn hop(from: &Endpoint, to: &mut Endpoint, batch: &[PacketDescriptor]) -> Result<(), Failure> {
    from.sender.send(black_box(batch))?;
    let taken = to.receiver.receive(Wait::No, &mut |descriptor| {
        black_box(descriptor);
    })?;
    if taken == batch.len() { Ok(()) } else { Err("not all have come".into()) }
}

fn ring_there_and_back(times: u64) -> Result<(), Failure> {
    there_and_back(1, times)
}

fn ring_there_and_back_32(times: u64) -> Result<(), Failure> {
    there_and_back(32, times)
}

/// A slot goes to a function and comes back.
fn hand_over(times: u64) -> Result<(), Failure> {
    let memory = create_sealed("hot-paths-ledger", Ledger::bytes_for(8))?;
    let ledger = Ledger::map(memory.as_fd(), 0, 8)?;
    let (slot, function) = (SlotIndex(3), InstanceId::new(1, 1));
    for _ in 0..times {
        let there = ledger.hand_over(black_box(slot), Generation(0), InstanceId::NONE, function);
        let back = ledger.hand_over(black_box(slot), Generation(0), function, InstanceId::NONE);
        if !(there && back) {
            return Err("the ledger refuses".into());
        }
    }
    Ok(())
}

/// A head slot, and what is written into it.
struct Head {
    pool: Pool,
    block: Vec<u8>,
    envelope: Envelope,
    body: BodyPlace,
}

const HEAD: SlotIndex = SlotIndex(0);

impl Head {
    fn new() -> Result<Self, Failure> {
        let layout = PoolLayout { counts: [4, 0, 0, 0, 0] };
        let memory = Pool::create("hot-paths-pool", &layout)?;
        let pool = Pool::attach(memory.as_fd(), layout)?;
        let mut block = BlockWriter::request("POST", "/bench?x=1");
        for (name, value) in [("host", "127.0.0.1:8080"), ("user-agent", "curl/8.0"), ("accept", "*/*")] {
            block.header(name, value.as_bytes())?;
        }
        let block = block.finish();
        let slot_bytes = pool.slot(HEAD).ok_or("there is no slot")?.bytes();
        let offset = message::inline_offset(slot_bytes, block.len(), 100).ok_or("there is no room")?;
        let envelope = Envelope { route: RouteId(1), request: ids::RequestId(7), ..Envelope::default() };
        Ok(Self { pool, block, envelope, body: BodyPlace::Inline { offset, bytes: 100 } })
    }

    fn write(&self) -> Result<(), Failure> {
        let slot = self.pool.slot(black_box(HEAD)).ok_or("there is no slot")?;
        black_box(message::write(&slot, self.envelope, &self.block, &self.body)?);
        Ok(())
    }
}

fn envelope_write(times: u64) -> Result<(), Failure> {
    let head = Head::new()?;
    (0..times).try_for_each(|_| head.write())
}

fn envelope_read(times: u64) -> Result<(), Failure> {
    let head = Head::new()?;
    head.write()?;
    for _ in 0..times {
        let slot = head.pool.slot(black_box(HEAD)).ok_or("there is no slot")?;
        black_box(Message::read(&slot, Generation(0), head.pool.layout())?);
    }
    Ok(())
}

/// From the second of three steps to the third.
fn next_hop(times: u64) -> Result<(), Failure> {
    let step = |number: u32, next| Step {
        name: format!("step-{number}"),
        work: Work::Function(FunctionId(number)),
        timeout: None,
        retries: 0,
        next: Next::To(next),
    };
    let steps = vec![step(1, Target::Step(1)), step(2, Target::Step(2)), step(3, Target::Reply)];
    let (chain, http) = ("default/bench".to_owned(), Default::default());
    let route = Route { id: RouteId(1), domain: DomainId(1), chain, steps, http, streamed: Default::default() };
    for _ in 0..times {
        black_box(route.after(black_box(1), None, |_| None)?);
    }
    Ok(())
}

/// The gateway's part of a request that is not the data plane's: its head is read, and one for its answer is written.
fn express_lane(times: u64) -> Result<(), Failure> {
    let mut answer = Vec::with_capacity(1024);
    for _ in 0..times {
        answer.clear();
        let body_bytes = ramet_gateway::head_for_head(black_box(REQUEST), 100, &mut answer);
        if body_bytes != Some(100) {
            return Err("the request is not plain".into());
        }
        black_box(&answer);
    }
    Ok(())
}
