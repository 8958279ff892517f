//! One process of a function, and how far it is in its life.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ramet_common::{DomainId, FunctionId, InstanceId, RouteId};
use ramet_control::instance::ToInstance;
use ramet_fork::Kin;
use ramet_manifest::QualifiedName;
use tokio::task::JoinHandle;

use crate::brood::Brood;
use crate::function::Function;
use crate::process::Process;
use crate::route::Speaks;
use crate::server::Way;

/// How far an instance is.
///
/// Starting → Joining (`Hello`) → Ready (`Ready`, and every lane and the gateway know it) → Unpublishing (it is no
/// longer wanted) → Stopping (no sender chooses it any more) → Ending (`Drained`, or its grace is over). From anywhere
/// to gone when the process has ended.
///
/// One that serves HTTP by itself: Joining at once → Ready (the gateway's probe passed) → Unpublishing → Ending (the
/// gateway has its last answer, or its grace is over).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The process runs; its first word is awaited.
    Starting,
    /// It was told its place; it and its peers take it in.
    Joining,
    /// Senders choose it.
    Ready,
    /// Senders are told to choose it no more.
    Unpublishing,
    /// It was told to finish what it holds.
    Stopping,
    /// It was told to end.
    Ending,
}

impl Stage {
    /// Whether it may still have something to send.
    pub(crate) fn sends_messages(self) -> bool {
        matches!(self, Self::Joining | Self::Ready | Self::Unpublishing | Self::Stopping)
    }
}

/// What an instance was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Its command.
    Exec,
    /// Another instance of this node.
    Fork,
    /// A process of another node.
    RemoteFork,
}

impl Origin {
    /// Its name, for people and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Fork => "fork",
            Self::RemoteFork => "remote-fork",
        }
    }
}

/// A process of a function.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) function: FunctionId,
    pub(crate) domain: DomainId,
    pub(crate) name: QualifiedName,
    pub(crate) speaks: Speaks,
    /// Where it is reached, if it serves HTTP by itself.
    pub(crate) way: Option<Way>,
    pub(crate) process: Process<ToInstance>,
    pub(crate) stage: Stage,
    pub(crate) started: Instant,
    pub(crate) origin: Origin,
    /// When it had its process, or had said hello: what came last.
    pub(crate) known_since: Instant,
    /// Whoever gives it the memory that it has not touched yet.
    pub(crate) brood: Option<Arc<Brood>>,
    /// What it takes to fork it on, where it is a copy.
    pub(crate) kin: Option<Kin>,
    /// Whether it said that it is ready, or the gateway of one that serves HTTP by itself.
    pub(crate) is_willing: bool,
    /// How many requests it has, by the gateway's word, if it serves HTTP by itself and that is wanted.
    pub(crate) held: u32,
    /// Why it takes no requests for now, although it did.
    pub(crate) unready: Option<String>,
    /// It was told its place, and all of its routes by the message of this number.
    pub(crate) welcomed: Option<u64>,
    /// The gateway's message of this number introduced it.
    pub(crate) introduced: Option<u64>,
    /// The routes that it was told.
    pub(crate) routes: BTreeSet<RouteId>,
    /// Whether a timer watches over its answers.
    pub(crate) is_watched: bool,
    /// Reads what it writes; finished when all of it is kept.
    pub(crate) output: JoinHandle<()>,
    /// Why the supervisor makes it end, for the log.
    pub(crate) condemned: Option<String>,
}

impl Instance {
    /// One of a function, whose process has just begun.
    pub(crate) fn new(
        id: InstanceId,
        function: &Function,
        process: Process<ToInstance>,
        output: JoinHandle<()>,
        origin: Origin,
    ) -> Self {
        let now = Instant::now();
        Self {
            id,
            function: function.id,
            domain: function.domain,
            name: function.name(),
            speaks: function.speaks(),
            way: None,
            process,
            stage: Stage::Starting,
            started: now,
            origin,
            known_since: now,
            brood: None,
            kin: None,
            is_willing: false,
            held: 0,
            unready: None,
            welcomed: None,
            introduced: None,
            routes: BTreeSet::new(),
            is_watched: false,
            output,
            condemned: None,
        }
    }
}
