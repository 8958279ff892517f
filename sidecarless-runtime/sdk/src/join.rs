//! The first words with the supervisor: who this instance is, and its place on the data plane.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, RwLock};

use nix::sys::eventfd::{EfdFlags, EventFd};
use ramet_common::ABI;
use ramet_control::Numbered;
use ramet_control::instance::{FromInstance, Join, ToInstance};
use ramet_control::socket::{ControlError, ControlSocket};
use ramet_dataplane::transport::lanes::{self, Member};
use ramet_dataplane::transport::patience::Patience;
use ramet_dataplane::transport::skmsg;
use ramet_dataplane::{Endpoint, Ledger, Meter, Pool, TransportKind};

use crate::inbox::Inbox;
use crate::instance::{Instance, Refusals};
use crate::outbox::Outbox;

/// The most requests that one instance may serve at once, each on a thread of its own.
const CONCURRENCY_MAX: u32 = 1024;

/// Why this process could not join its node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The conversation failed.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The supervisor's first message was another one.
    #[error("the supervisor's first message was not the one that tells an instance its place")]
    NotJoin,
    /// The message came with other descriptors than its transport needs.
    #[error("joining over {transport} needs {expected} descriptors, not {found}")]
    Descriptors {
        /// The transport.
        transport: &'static str,
        /// How many it needs.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// The supervisor asks for the impossible.
    #[error("the supervisor asks for {0} requests at once; 1 to {CONCURRENCY_MAX} are possible")]
    Concurrency(u32),
    /// The shared memory is not what it should be.
    #[error(transparent)]
    Memory(Box<dyn std::error::Error + Send + Sync>),
    /// A system call failed.
    #[error("a system call failed: {0}")]
    System(#[from] io::Error),
}

/// An instance that has its place, and the number of the message that gave it.
pub(crate) struct Joined {
    pub(crate) instance: Arc<Instance>,
    pub(crate) sequence: u64,
}

/// Introduces this process.
pub(crate) fn greet(control: &ControlSocket) -> Result<(), JoinError> {
    let sdk = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION")).to_owned();
    Ok(control.send(&FromInstance::Hello { abi: ABI, sdk }, &[])?)
}

/// Takes the place that the supervisor gives this copy of an instance, which it knows by its original.
pub(crate) fn join_again(control: ControlSocket, reborn_sequence: u64) -> Result<Joined, JoinError> {
    control.send(&FromInstance::Applied { sequence: reborn_sequence }, &[])?;
    join(control)
}

/// Takes the place that the supervisor gives this process.
pub(crate) fn join(control: ControlSocket) -> Result<Joined, JoinError> {
    let (Numbered { sequence, message }, fds) = control.receive()?;
    let ToInstance::Join(join) = message else { return Err(JoinError::NotJoin) };
    if join.concurrency == 0 || join.concurrency > CONCURRENCY_MAX {
        return Err(JoinError::Concurrency(join.concurrency));
    }
    let place = Place::take(&join, fds)?;
    let seats = join.concurrency as usize;
    let instance = Instance {
        id: join.instance,
        function: join.function,
        name: join.name,
        concurrency: seats,
        pool: place.pool,
        ledger: place.ledger,
        sender: place.endpoint.sender,
        links: place.endpoint.links,
        inbox: Inbox::new(place.endpoint.receiver, seats)?,
        outbox: Outbox::default(),
        control,
        bell: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(io::Error::from)?,
        refusals: Refusals::default(),
        callable: join.callable,
        routes: RwLock::new(HashMap::new()),
        calls: AtomicU32::new(1),
    };
    instance.change_routes(join.routes, &[]);
    Ok(Joined { instance: Arc::new(instance), sequence })
}

struct Place {
    pool: Pool,
    ledger: Option<Ledger>,
    endpoint: Endpoint,
}

impl Place {
    fn take(join: &Join, fds: Vec<OwnedFd>) -> Result<Self, JoinError> {
        let attach = |pool: &OwnedFd| -> Result<Pool, JoinError> {
            let pool = Pool::attach(pool.as_fd(), join.layout).map_err(unusable)?;
            pool.populate_heads();
            Ok(pool)
        };
        match join.transport {
            TransportKind::SkMsg => {
                let [pool, tcp, unix] = exactly(join.transport, fds)?;
                let endpoint = skmsg::endpoint(tcp, unix, None);
                Ok(Self { pool: attach(&pool)?, ledger: None, endpoint })
            }
            kind @ (TransportKind::Ring | TransportKind::Socket) => {
                let [pool, ledger, meter] = exactly(kind, fds)?;
                let ledger = Ledger::map_shared(ledger.as_fd(), join.layout.slots()).map_err(unusable)?;
                let meter = Meter::map(meter.as_fd()).map_err(unusable)?;
                let me = Member { instance: join.instance, owner: join.instance };
                let (ledgers, patience) = (Arc::new(ledger.clone()), Patience::of(join.busy_poll));
                let endpoint = lanes::endpoint(kind, me, ledgers, patience, Some(meter))?;
                Ok(Self { pool: attach(&pool)?, ledger: Some(ledger), endpoint })
            }
        }
    }
}

fn unusable(error: impl std::error::Error + Send + Sync + 'static) -> JoinError {
    JoinError::Memory(Box::new(error))
}

fn exactly<const COUNT: usize>(transport: TransportKind, fds: Vec<OwnedFd>) -> Result<[OwnedFd; COUNT], JoinError> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| JoinError::Descriptors {
        transport: transport.as_str(),
        expected: COUNT,
        found: fds.len(),
    })
}
