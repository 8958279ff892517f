//! The conversation of the supervisor and the gateway.
//!
//! The gateway starts with nothing: it is handed its settings, then workers, listeners, domains, instances and chains.
//! It answers each message by `Applied` when it has taken effect *in every worker*. It says `Ready` when it has read
//! [`ToGateway::Serve`] and accepts connections.

use std::path::PathBuf;
use std::time::Duration;

use ramet_common::{DomainId, FunctionId, InstanceId, RouteId};
use ramet_dataplane::transport::patience::BusyPoll;
use ramet_dataplane::{PoolLayout, Route, TransportKind};
use serde::{Deserialize, Serialize};

use crate::instance::Link;

/// What the supervisor says; always within [`crate::Numbered`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToGateway {
    /// The first word.
    Settings(Box<Settings>),
    /// Starts worker `index` (they come in order). Descriptors for `skmsg`: the TCP socket, the unix socket, and the
    /// `INSTANCES` map to read refusals from; for the lane transports the meter that the worker counts in.
    Worker {
        /// Counts up from 0.
        index: u32,
        /// Its place on the data plane.
        instance: InstanceId,
    },
    /// A listening socket for a worker (one per worker and address, `SO_REUSEPORT`). One descriptor.
    Listener {
        /// Which worker.
        worker: u32,
        /// What it speaks.
        protocol: Protocol,
    },
    /// A security domain. Descriptors: the pool, the ledger.
    Domain(Domain),
    /// A domain that no chain uses any more and whose slots are all free.
    DomainGone {
        /// Which.
        domain: DomainId,
    },
    /// An instance takes requests; or, where it serves HTTP by itself, has been started and is to be probed.
    Instance(Instance),
    /// Sockets of an instance's own network, for connections to it. Descriptors: at most
    /// [`crate::socket::FDS_MAX`], unconnected.
    Sockets {
        /// The instance, which was introduced before.
        instance: InstanceId,
    },
    /// An instance that serves HTTP by itself is to be given no more requests.
    /// [`FromGateway::Relieved`] follows when it has answered those that it has.
    Relieve {
        /// Which.
        instance: InstanceId,
    },
    /// An instance has left or died: what it held is lost.
    InstanceGone {
        /// Which.
        instance: InstanceId,
    },
    /// A lane to or from a worker. Descriptors: the lane's end.
    Link {
        /// Which worker.
        worker: u32,
        /// The lane.
        link: Link,
    },
    /// Nothing is to be sent to `peer` any more.
    Unlink {
        /// The peer.
        peer: InstanceId,
    },
    /// All chains from now on; requests that run finish on the route they started on.
    Chains(Vec<Chain>),
    /// Whether `/readyz` answers 200.
    Readiness {
        /// What is not ready; empty when all is.
        waiting_for: Vec<String>,
    },
    /// The supervisor's part of `/metrics`, in answer to [`FromGateway::WantMetrics`].
    Metrics {
        /// Prometheus text format.
        text: String,
    },
    /// Accept connections.
    Serve,
    /// Accept no more, finish what runs (at most this long), say [`FromGateway::Drained`].
    Drain {
        /// After this, what still runs is answered 503.
        timeout: Duration,
    },
}

/// What the gateway says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromGateway {
    /// The first word.
    Hello {
        /// [`ramet_common::ABI`].
        abi: u8,
    },
    /// The message of that number has taken effect in every worker.
    Applied {
        /// The number.
        sequence: u64,
    },
    /// Connections are accepted.
    Ready,
    /// No request runs on this retired route any more.
    RouteIdle {
        /// The route.
        route: RouteId,
    },
    /// An instance has held an expired request for longer than its `hang_grace`.
    Hung {
        /// The instance.
        instance: InstanceId,
    },
    /// An instance that serves HTTP by itself was probed, and it is otherwise than before.
    Probed {
        /// The instance.
        instance: InstanceId,
        /// How it is.
        health: Health,
    },
    /// How many requests instances that serve HTTP by themselves have, in service and waiting.
    Loads(Vec<(InstanceId, u32)>),
    /// After [`ToGateway::Relieve`]: the instance has no request any more.
    Relieved {
        /// The instance.
        instance: InstanceId,
    },
    /// Requests have come. Said once a second at most, and a moment later, so that no request waits for it.
    AtWork,
    /// Somebody reads `/metrics`.
    WantMetrics {
        /// What the gateway itself has counted of functions that serve HTTP by themselves.
        servers: Vec<(FunctionId, Figures)>,
    },
    /// After [`ToGateway::Drain`]: every accepted request has been answered.
    Drained,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1 and h2c, by prior knowledge.
    Http,
    /// The same over TLS, by ALPN.
    Https,
    /// `/healthz`, `/readyz`, `/metrics`. On worker 0 only.
    Admin,
}

/// The gateway's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// How descriptors travel.
    pub transport: TransportKind,
    /// Whether it looks at rings before it sleeps.
    pub busy_poll: BusyPoll,
    /// How long a client may take to send a request's head.
    pub header_timeout: Duration,
    /// How long a kept-alive connection may be idle.
    pub idle_timeout: Duration,
    /// How long a client may take between two pieces of a body, either way.
    pub body_timeout: Duration,
    /// The longest request line and headers together, in bytes.
    pub header_bytes_max: usize,
    /// The most connections at once.
    pub connections_max: usize,
    /// Certificate chain and private key in PEM, for [`Protocol::Https`].
    pub tls: Option<Tls>,
}

/// A certificate, read by the supervisor because the gateway may not open files.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// The chain, leaf first.
    pub certificate_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A security domain as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    /// Its id.
    pub domain: DomainId,
    /// Its name, for metrics.
    pub name: String,
    /// Its pool.
    pub layout: PoolLayout,
    /// Where its words start in the ledger that is passed along.
    pub ledger_base: u32,
}

/// An instance as the gateway sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub instance: InstanceId,
    /// Its function.
    pub function: FunctionId,
    /// `namespace/name` of the function.
    pub name: String,
    /// Its domain.
    pub domain: DomainId,
    /// How long it may hold an expired request.
    pub hang_grace: Duration,
    /// How many messages it may have, in service and waiting.
    pub capacity: u32,
    /// How it is reached, if it serves HTTP by itself and is on no data plane.
    pub http: Option<Http>,
}

/// How an instance that serves HTTP by itself is reached and probed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Where it listens.
    pub address: Address,
    /// How many requests it may have at once. For an [`Address::Port`], so many [`ToGateway::Sockets`] come.
    pub concurrency: u32,
    /// How many more may wait for it.
    pub queue: u32,
    /// Whether it is ready; without one it is as soon as it accepts a connection.
    pub readiness: Option<Probe>,
    /// Whether it is alive.
    pub liveness: Option<Probe>,
    /// How often [`FromGateway::Loads`] is to say how many requests it has, while it has any; `None`: never.
    pub load_period: Option<Duration>,
}

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Address {
    /// On this port of 127.0.0.1 in its own network.
    Port(u16),
    /// On a unix socket.
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Who has to listen there; `None` where all instances are the same user.
        user: Option<u32>,
    },
}

/// A request that has to be answered with 200 to 399.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Path and query.
    pub path: String,
    /// The time between two of them.
    pub period: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// How many have to fail in a row.
    pub failure_threshold: u32,
}

/// What came to a function, since the gateway knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Messages that it has done with.
    pub done: u64,
    /// Messages that it has, waiting and in service.
    pub held: u64,
    /// The time that all of them spent there, waiting and in service.
    pub spent: Duration,
    /// Requests that the gateway has sent there.
    pub asked: u64,
    /// Answers that have come from there.
    pub answered: u64,
}

/// How an instance that serves HTTP by itself is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It takes requests.
    Ready,
    /// It takes none, for this reason.
    Unready(String),
    /// It has to be replaced, for this reason.
    Dead(String),
}

/// A chain: what the gateway matches requests against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// The version to start requests on.
    pub route: Route,
    /// Which requests are for it; the most specific match of all chains wins.
    pub matches: Vec<Match>,
    /// How long a request may take, from its head to the answer's.
    pub deadline: Duration,
    /// How many requests may run at once; more are answered 429.
    pub in_flight_max: u32,
    /// The longest request body in bytes; `None` is the domain's quota.
    pub body_bytes_max: Option<u64>,
}

/// A condition on a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Exact, or `*.example.org` for any one or more labels; `None` is any.
    pub host: Option<String>,
    /// A prefix in whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    pub path: String,
    /// Upper-case methods; empty is any. A path that matches with no method that does is answered 405.
    pub methods: Vec<String>,
}
