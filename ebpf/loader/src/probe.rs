//! Tries everything that S mode needs, step by step, so that an operator learns what is missing before traffic does.

use crate::sproxy::Prepared;
use crate::{LoadOptions, LoaderError, SocketPairs, Sproxy, find_object, socket_pairs};
use ramet_common::map::{DomainSlots, Edge, Identity};
use ramet_common::{
    DESCRIPTOR_BYTES, DomainId, FunctionId, Generation, InstanceId, Kind, PacketDescriptor, Refusal, RequestId,
    SlotIndex,
};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long the self-test's descriptor may take.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What was tried, in this order; the first failure ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The steps that were taken.
    pub steps: Vec<Step>,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// A short name, as in a table.
    pub name: &'static str,
    /// Nothing, or what happened, why, and what to do.
    pub outcome: Result<(), String>,
}

impl Probe {
    /// Whether S mode works on this machine for this process.
    #[must_use]
    pub fn works(&self) -> bool {
        self.failure().is_none()
    }

    /// The step that failed, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.outcome.is_err())
    }

    /// Notes a step's outcome and passes its value on.
    fn step<T>(&mut self, name: &'static str, outcome: Result<T, String>) -> Option<T> {
        let (value, outcome) = match outcome {
            Ok(value) => (Some(value), Ok(())),
            Err(text) => (None, Err(text)),
        };
        self.steps.push(Step { name, outcome });
        value
    }
}

/// Tries S mode: finds the object, loads and attaches it, sends one descriptor that must arrive and one that must be
/// refused. It uses a copy of SPROXY of its own and leaves nothing behind.
#[must_use]
pub fn probe() -> Probe {
    let mut probe = Probe { steps: Vec::new() };
    // Each step needs the one before; the outcome of the last is in `steps`.
    let _ = run(&mut probe);
    probe
}

fn run(probe: &mut Probe) -> Option<()> {
    let object: PathBuf = probe.step("object found", find_object().map_err(text))?;
    let options = LoadOptions { ledger_slots: 512 };
    let mut prepared = probe.step("BPF permitted", Prepared::new(&object, options).map_err(text))?;
    probe.step("verifier accepts", prepared.load_program().map_err(text))?;
    let sproxy = probe.step("attaches", prepared.attach().map_err(text))?;
    let mut pair = probe.step("sockets join", TestPair::new(sproxy).map_err(text))?;
    probe.step("a descriptor arrives", pair.deliver())?;
    probe.step("a bad one is refused", pair.refuse())
}

fn text(error: LoaderError) -> String {
    error.to_string()
}

const FUNCTION: FunctionId = FunctionId(1);
const GATEWAY: InstanceId = InstanceId::new(0, 1);
const INSTANCE: InstanceId = InstanceId::new(1, 1);

/// A gateway and a function, alone in the world.
struct TestPair {
    sproxy: Sproxy,
    gateway: TcpStream,
    function: UnixStream,
    _sockets: [SocketPairs; 2],
}

impl TestPair {
    fn new(mut sproxy: Sproxy) -> Result<Self, LoaderError> {
        let domain = DomainId(0);
        sproxy.set_domain(domain, DomainSlots { base: 0, count: 1 })?;
        sproxy.allow(Edge { from: FunctionId::GATEWAY, to: FUNCTION })?;
        let sockets = [socket_pairs()?, socket_pairs()?];
        let members = [(GATEWAY, FunctionId::GATEWAY), (INSTANCE, FUNCTION)];
        for ((instance, function), pairs) in members.into_iter().zip(&sockets) {
            let identity = Identity { instance, function, domain, ..Identity::default() };
            sproxy.join(identity, 2, pairs.sender.as_fd(), pairs.receiver.as_fd())?;
        }
        sproxy.set_replicas(FUNCTION, domain, &[INSTANCE])?;
        let failed =
            |call| move |source| LoaderError::Sockets { call, source, hint: "is the limit of open files reached?" };
        let gateway = TcpStream::from(sockets[0].sender.try_clone().map_err(failed("dup"))?);
        let function = UnixStream::from(sockets[1].receiver.try_clone().map_err(failed("dup"))?);
        function.set_read_timeout(Some(ARRIVAL_TIMEOUT)).map_err(failed("setsockopt(SO_RCVTIMEO)"))?;
        gateway.set_write_timeout(Some(ARRIVAL_TIMEOUT)).map_err(failed("setsockopt(SO_SNDTIMEO)"))?;
        Ok(Self { sproxy, gateway, function, _sockets: sockets })
    }

    fn descriptor() -> PacketDescriptor {
        PacketDescriptor::new(Kind::Request, FUNCTION, SlotIndex(0), Generation(0), RequestId(1))
    }

    fn deliver(&mut self) -> Result<(), String> {
        let sent = Self::descriptor();
        let bytes: [u8; DESCRIPTOR_BYTES] = zerocopy::transmute!(sent);
        self.gateway.write_all(&bytes).map_err(|error| {
            format!("SPROXY refused a correct descriptor ({error}); please report this with the kernel's version")
        })?;
        let mut bytes = [0; DESCRIPTOR_BYTES];
        self.function.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "the kernel accepted a descriptor but did not deliver it within {ARRIVAL_TIMEOUT:?}; this kernel's \
                 sockmap does not work, use `transport = \"ring\"`"
            ),
            _ => format!("reading the descriptor failed: {error}; use `transport = \"ring\"`"),
        })?;
        let received: PacketDescriptor = zerocopy::transmute!(bytes);
        if received != sent.to_instance(GATEWAY) {
            return Err(format!("a descriptor arrived changed: sent {sent:?}, received {received:?}"));
        }
        Ok(())
    }

    /// The slot is the function's by now, so that the gateway may not send it again.
    fn refuse(&mut self) -> Result<(), String> {
        let bytes: [u8; DESCRIPTOR_BYTES] = zerocopy::transmute!(Self::descriptor());
        match self.gateway.write(&bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => return Err(format!("a bad descriptor should fail with EPIPE, but failed with: {error}")),
            Ok(_) => return Err("a bad descriptor was accepted: SPROXY does not run for this socket".to_owned()),
        }
        let refusals = self.sproxy.refusals().map_err(text)?;
        if refusals[Refusal::NotOwner as usize] != 1 {
            return Err(format!("a refusal was not counted where it should be: {refusals:?}"));
        }
        Ok(())
    }
}
