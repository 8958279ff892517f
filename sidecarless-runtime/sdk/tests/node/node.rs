//! A node in one process, for tests: this side plays supervisor and gateway, instances run on threads of their own.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

#[path = "started.rs"]
mod started;
#[path = "switch.rs"]
mod switch;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ramet_common::descriptor::{Failure, WANT_HEAD, want_parts};
use ramet_common::{DomainId, FunctionId, InstanceId, Kind, PacketDescriptor, RequestId, RouteId};
use ramet_control::instance::{Direction, FromInstance, Join, ToInstance};
use ramet_control::socket::ControlSocket;
use ramet_dataplane::endpoint::LinkEnd;
use ramet_dataplane::message::{self, BlockWriter, BodyPlace, Envelope, Message, Part};
use ramet_dataplane::route::{Next, Step, Target, Work};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::{BusyPoll, Patience};
use ramet_dataplane::transport::{ring, socket};
use ramet_dataplane::{
    Endpoint, Ledger, Meter, Pool, PoolLayout, Route, SlotAllocator, SlotRef, TransportKind, Wait, clock,
};
use ramet_sdk::ServeError;
#[allow(unused_imports, reason = "each test binary uses its own part of it")]
pub(crate) use started::{Plan, Started, function};
use switch::Switch;

/// How long anything may take before the test has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

const GATEWAY: InstanceId = InstanceId(1);
const LAYOUT: PoolLayout = PoolLayout { counts: [64, 32, 16, 4, 4] };

/// How the gateway's descriptors travel.
enum Wire {
    Lanes(Endpoint),
    Switch(Arc<Switch>),
}

pub(crate) struct Node {
    pub(crate) transport: TransportKind,
    pub(crate) pool: Pool,
    pub(crate) slots: SlotAllocator,
    pool_fd: OwnedFd,
    ledger_fd: OwnedFd,
    wire: Wire,
    arrived: VecDeque<PacketDescriptor>,
    instances: u16,
    requests: u64,
    pub(crate) routes: Vec<Route>,
    /// How long requests may take.
    pub(crate) deadline: Duration,
}

/// A request that the gateway has sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) head: SlotRef,
    pub(crate) id: RequestId,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) descriptor: PacketDescriptor,
    pub(crate) message: Message,
    pub(crate) body: Vec<u8>,
}

impl Node {
    pub(crate) fn new(transport: TransportKind) -> Self {
        let pool_fd = Pool::create("pool", &LAYOUT).expect("pool");
        let ledger_bytes = Ledger::shared_bytes_for(LAYOUT.slots());
        let ledger_fd =
            Pool::create("ledger", &PoolLayout { counts: [(ledger_bytes / 4096) as u32, 0, 0, 0, 0] }).expect("ledger");
        let pool = Pool::attach(pool_fd.as_fd(), LAYOUT).expect("mapped");
        let ledger = Ledger::map_shared(ledger_fd.as_fd(), LAYOUT.slots()).expect("mapped");
        let wire = match transport {
            TransportKind::SkMsg => Wire::Switch(Arc::new(Switch::new(ledger.clone(), GATEWAY))),
            lanes => {
                let me = Member { instance: GATEWAY, owner: InstanceId::NONE };
                let endpoint = lanes::endpoint(lanes, me, Arc::new(ledger.clone()), Patience::none(), None);
                Wire::Lanes(endpoint.expect("endpoint"))
            }
        };
        Self {
            transport,
            pool,
            slots: SlotAllocator::new(LAYOUT, ledger),
            pool_fd,
            ledger_fd,
            wire,
            arrived: VecDeque::new(),
            instances: 10,
            requests: 0,
            routes: Vec::new(),
            deadline: Duration::from_secs(20),
        }
    }

    /// A chain of functions, one after the other, as route 1.
    pub(crate) fn chain(&mut self, functions: &[u32]) {
        let last = functions.len() - 1;
        let steps = functions.iter().enumerate().map(|(at, &function)| Step {
            name: format!("step-{at}"),
            work: Work::Function(FunctionId(function)),
            timeout: None,
            retries: 0,
            next: Next::To(if at == last { Target::Reply } else { Target::Step(at as u16 + 1) }),
        });
        let route = Route {
            id: RouteId(1),
            domain: DomainId(0),
            chain: "default/test".to_owned(),
            steps: steps.collect(),
            http: Default::default(),
            streamed: Default::default(),
        };
        self.routes = vec![route];
    }

    /// Starts an instance, up to its `Ready`. `serve` is what its process would do with its standard input.
    pub(crate) fn start(
        &mut self,
        plan: Plan,
        serve: impl FnOnce(ControlSocket) -> Result<(), ServeError> + Send + 'static,
    ) -> Started {
        self.instances += 1;
        let id = InstanceId::new(self.instances, 3);
        let function = FunctionId(plan.function);
        let mut started = Started::new(id, function, serve);
        assert!(matches!(started.hear(), FromInstance::Hello { abi, .. } if abi == ramet_common::ABI));
        let join = Join {
            instance: id,
            function,
            name: format!("default/function-{}", plan.function),
            domain: DomainId(0),
            layout: LAYOUT,
            transport: self.transport,
            busy_poll: BusyPoll::Adaptive,
            concurrency: plan.concurrency,
            callable: plan.callable,
            routes: self.routes.clone(),
        };
        let join = ToInstance::Join(Box::new(join));
        match &self.wire {
            Wire::Switch(switch) => {
                let (tcp, unix) = switch.plug(id, function);
                started.say(join, &[self.pool_fd.as_fd(), tcp.as_fd(), unix.as_fd()]);
            }
            Wire::Lanes(_) => {
                let meter = Meter::create().expect("meter");
                started.say(join, &[self.pool_fd.as_fd(), self.ledger_fd.as_fd(), meter.as_fd()]);
            }
        }
        started.heard_applied();
        assert_eq!(started.hear(), FromInstance::Ready);
        self.link_gateway(&mut started);
        started
    }

    fn lane(&self) -> (LinkEnd, LinkEnd) {
        match self.transport {
            TransportKind::Ring => ring::link().expect("lane"),
            _ => socket::link().expect("lane"),
        }
    }

    fn link_gateway(&mut self, started: &mut Started) {
        let Wire::Lanes(endpoint) = &self.wire else { return };
        let links = Arc::clone(endpoint.links.as_ref().expect("lanes"));
        let ((to, at_instance), (from, at_gateway)) = (self.lane(), self.lane());
        links.add_outgoing(started.id, started.function, 1000, to).expect("linked");
        links.add_incoming(started.id, started.function, at_gateway).expect("linked");
        started.link(GATEWAY, FunctionId::GATEWAY, Direction::Incoming, at_instance);
        started.link(GATEWAY, FunctionId::GATEWAY, Direction::Outgoing { capacity: 1000 }, from);
    }

    /// Lets one instance send to another, which holds at most `capacity` messages.
    pub(crate) fn link(&self, from: &mut Started, to: &mut Started, capacity: u32) {
        if self.transport != TransportKind::SkMsg {
            let (sender, receiver) = self.lane();
            to.link(from.id, from.function, Direction::Incoming, receiver);
            from.link(to.id, to.function, Direction::Outgoing { capacity }, sender);
        }
    }

    /// Sends descriptors from the gateway.
    pub(crate) fn send(&mut self, batch: &[PacketDescriptor]) {
        match &mut self.wire {
            Wire::Lanes(endpoint) => endpoint.sender.send(batch).expect("the gateway may send"),
            Wire::Switch(switch) => switch.send(InstanceId::NONE, batch).expect("the gateway may send"),
        }
    }

    /// The next descriptor for the gateway.
    pub(crate) fn next(&mut self) -> PacketDescriptor {
        self.next_within(PATIENCE).expect("a descriptor in time")
    }

    /// The next descriptor for the gateway, if one comes in that time.
    pub(crate) fn next_within(&mut self, time: Duration) -> Option<PacketDescriptor> {
        let deadline = Instant::now() + time;
        while self.arrived.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            match &mut self.wire {
                Wire::Lanes(endpoint) => {
                    let arrived = &mut self.arrived;
                    endpoint.receiver.receive(Wait::For(left), &mut |got| arrived.push_back(got)).expect("open");
                }
                Wire::Switch(switch) => self.arrived.extend(switch.receive(left)),
            }
            if left.is_zero() {
                break;
            }
        }
        self.arrived.pop_front()
    }

    /// A request on route 1, written but not sent. `parts` puts the body into slots of its own.
    pub(crate) fn write(
        &mut self,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        place: Place,
    ) -> (Sent, Envelope) {
        self.requests += 1;
        let id = RequestId(0x5e55_0000_0000 | self.requests);
        let mut block = BlockWriter::request("POST", target);
        for (name, value) in headers {
            block.header(name, value.as_bytes()).expect("room");
        }
        let block = block.finish();
        let head = match place {
            Place::Inline => self.slots.allocate_bytes(message::inline_slot_bytes(block.len(), body.len())),
            Place::Parts { .. } => self.slots.allocate(0),
        };
        let head = head.expect("a free head");
        let slot = self.pool.slot(head.slot).expect("in the pool");
        let place = match place {
            Place::Inline if body.is_empty() => BodyPlace::EMPTY,
            Place::Inline => {
                let offset = message::inline_offset(slot.bytes(), block.len(), body.len()).expect("fits");
                slot.copy_in(offset, body).expect("fits");
                BodyPlace::Inline { offset, bytes: body.len() }
            }
            Place::Parts { bytes } => BodyPlace::Parts(body.chunks(bytes).map(|chunk| self.part(chunk)).collect()),
        };
        let envelope = Envelope {
            generation: head.generation,
            route: RouteId(1),
            request: id,
            deadline_ns: clock::now_ns() + self.deadline.as_nanos() as u64,
            reply_function: FunctionId::GATEWAY,
            reply_instance: GATEWAY,
            gateway: GATEWAY,
            trace_id: *b"\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c",
            span_id: *b"\xb7\xad\x6b\x71\x69\x20\x33\x31",
            trace_flags: 1,
            ..Envelope::default()
        };
        let envelope = message::write(&slot, envelope, &block, &place).expect("fits");
        (Sent { head, id }, envelope)
    }

    fn part(&self, bytes: &[u8]) -> Part {
        let slot = self.slots.allocate_bytes(bytes.len()).expect("a free slot");
        self.pool.slot(slot.slot).expect("in the pool").copy_in(64, bytes).expect("fits");
        Part { slot: slot.slot, generation: slot.generation, offset: 64, bytes: bytes.len() as u32 }
    }

    /// Sends a written request to any instance of the function.
    pub(crate) fn dispatch(&mut self, function: u32, sent: Sent) {
        let SlotRef { slot, generation } = sent.head;
        self.send(&[PacketDescriptor::new(Kind::Request, FunctionId(function), slot, generation, sent.id)]);
    }

    /// Sends several written requests at once.
    pub(crate) fn dispatch_all(&mut self, function: u32, sent: &[Sent]) {
        let descriptor = |sent: &Sent| {
            PacketDescriptor::new(Kind::Request, FunctionId(function), sent.head.slot, sent.head.generation, sent.id)
        };
        self.send(&sent.iter().map(descriptor).collect::<Vec<_>>());
    }

    /// Writes and sends a request.
    pub(crate) fn request(&mut self, function: u32, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Sent {
        let (sent, _) = self.write(target, headers, body, Place::Inline);
        self.dispatch(function, sent);
        sent
    }

    /// Tells the instance that nobody waits for the request any more.
    pub(crate) fn cancel(&mut self, started: &Started, sent: Sent) {
        let SlotRef { slot, generation } = sent.head;
        let cancel = PacketDescriptor::new(Kind::Cancel, started.function, slot, generation, sent.id);
        self.send(&[cancel.to_instance(started.id)]);
    }

    /// Grants what a `Want` asks for.
    pub(crate) fn grant(&mut self, want: &PacketDescriptor, functions: &[&Started]) -> Vec<SlotRef> {
        assert_eq!(want.kind(), Some(Kind::Want), "{want:?}");
        let to = functions.iter().find(|started| started.id == want.peer).expect("a known instance").function;
        let owner = self.slots.ledger().read(want.slot).expect("a slot").owner;
        let (class, count) = want_parts(want.aux);
        assert!(owner == want.peer || owner == InstanceId::NONE, "only the head's holder may ask");
        let (kind, class, count) =
            if class == WANT_HEAD { (Kind::Grant, count, 1) } else { (Kind::Lend, class, count) };
        let slots: Vec<_> = (0..count).map(|_| self.slots.allocate(usize::from(class)).expect("free")).collect();
        let descriptor = |slot: &SlotRef| {
            PacketDescriptor::new(kind, to, slot.slot, slot.generation, want.request)
                .to_instance(want.peer)
                .with_aux(u32::from(class))
        };
        let batch: Vec<_> = slots.iter().map(descriptor).collect();
        self.send(&batch);
        slots
    }

    /// Refuses a `Want`, or tells a caller that its answer will never come.
    pub(crate) fn sorry(&mut self, to: &Started, request: RequestId, failure: Failure) {
        let head = SlotRef { slot: ramet_common::SlotIndex(0), generation: ramet_common::Generation(0) };
        let sorry = PacketDescriptor::new(Kind::Sorry, to.function, head.slot, head.generation, request);
        self.send(&[sorry.to_instance(to.id).with_aux(failure as u32)]);
    }

    /// The next descriptor, which must bring the request's head back, with its message.
    pub(crate) fn outcome(&mut self, sent: Sent) -> Outcome {
        let descriptor = self.next();
        self.open(sent, descriptor)
    }

    pub(crate) fn open(&self, sent: Sent, descriptor: PacketDescriptor) -> Outcome {
        assert!(matches!(descriptor.kind(), Some(Kind::Reply | Kind::Forward)), "{descriptor:?}");
        assert_eq!((descriptor.slot, descriptor.request), (sent.head.slot, sent.id), "{descriptor:?}");
        assert_eq!(self.slots.ledger().read(sent.head.slot).expect("a slot").owner, InstanceId::NONE);
        let slot = self.pool.slot(sent.head.slot).expect("in the pool");
        let message = Message::read(&slot, sent.head.generation, &LAYOUT).expect("readable");
        let body = self.body(&message, sent.head);
        Outcome { descriptor, message, body }
    }

    pub(crate) fn body(&self, message: &Message, head: SlotRef) -> Vec<u8> {
        let read = |slot, offset: usize, bytes: usize| {
            self.pool.slot(slot).expect("in the pool").slice(offset, bytes).expect("in the slot").to_vec()
        };
        match &message.body {
            BodyPlace::Inline { bytes: 0, .. } => Vec::new(),
            BodyPlace::Inline { offset, bytes } => read(head.slot, *offset, *bytes),
            BodyPlace::Parts(parts) => {
                parts.iter().flat_map(|part| read(part.slot, part.offset as usize, part.bytes as usize)).collect()
            }
        }
    }

    /// The failure with which the request's head comes back.
    pub(crate) fn failure(&mut self, sent: Sent) -> Failure {
        let descriptor = self.next();
        assert_eq!(descriptor.kind(), Some(Kind::Failed), "{descriptor:?}");
        assert_eq!((descriptor.slot, descriptor.request), (sent.head.slot, sent.id));
        Failure::from_u32(descriptor.aux)
    }
}

/// Where a test request's body is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// In the head slot.
    Inline,
    /// In slots of its own, so many bytes each.
    Parts {
        /// How many.
        bytes: usize,
    },
}

/// Makes one test per transport of each function.
#[macro_export]
macro_rules! on_every_transport {
    ($($(#[$attribute:meta])* fn $name:ident($($node:ident)+: Node) $body:block)*) => {
        mod over_ring {
            $(#[test] fn $name() { super::$name(super::Node::new(ramet_dataplane::TransportKind::Ring)); })*
        }
        mod over_sockets {
            $(#[test] fn $name() { super::$name(super::Node::new(ramet_dataplane::TransportKind::Socket)); })*
        }
        mod in_s_mode {
            $(#[test] fn $name() { super::$name(super::Node::new(ramet_dataplane::TransportKind::SkMsg)); })*
        }
        $($(#[$attribute])* fn $name($($node)+: Node) $body)*
    };
}
