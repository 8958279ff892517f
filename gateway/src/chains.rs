//! Which chain a request is for: the most specific host, then the longest path, then the method.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ramet_common::RouteId;
use ramet_control::gateway::{self, Match};

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::metrics::ChainCounters;
use crate::room::{Gate, Out, Traffic, Unsent, are_open};

/// How long a request waits for room, if its deadline allows.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// How often the first of those who wait looks for room without having heard that another one has come back.
const ROOM_RETRY: Duration = Duration::from_millis(5);

/// A chain version with what all workers count of it.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) settings: gateway::Chain,
    pub(crate) counters: ChainCounters,
    in_flight: AtomicU32,
    retired: AtomicBool,
    pub(crate) traffic: Arc<Traffic>,
    /// One for each of its functions.
    gates: RwLock<Arc<[Arc<Gate>]>>,
    waiting: AtomicU32,
    /// Whose turn it is to look for room.
    line: Mutex<()>,
}

impl Chain {
    pub(crate) fn new(settings: gateway::Chain, counters: ChainCounters) -> Self {
        Self {
            settings,
            counters,
            in_flight: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            traffic: Arc::default(),
            gates: RwLock::default(),
            waiting: AtomicU32::new(0),
            line: Mutex::default(),
        }
    }

    pub(crate) fn route_id(&self) -> RouteId {
        self.settings.route.id
    }

    /// Admits a request, unless as many run as may. The guard ends the request.
    pub(crate) fn admit(self: &Arc<Self>, on_idle: &OnIdle) -> Option<Admission> {
        let before = self.in_flight.fetch_add(1, Ordering::SeqCst);
        let admission = Admission { chain: Arc::clone(self), on_idle: Arc::clone(on_idle) };
        (before < self.settings.in_flight_max).then_some(admission)
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How many requests wait for room.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// What its requests have to pass from now on.
    pub(crate) fn set_gates(&self, gates: Vec<Arc<Gate>>) {
        *self.gates.write().unwrap_or_else(PoisonError::into_inner) = gates.into();
    }

    /// Waits until there is room for a request that is to be taken in, behind those that wait already. False: there is
    /// none yet.
    pub(crate) async fn room(&self, deadline: Instant) -> bool {
        self.waiting() == 0 && self.has_room() || self.wait_for_room(deadline).await
    }

    /// Sends a request out as soon as there is room. `None`: there is none yet.
    pub(crate) async fn set_out(&self, deadline: Instant) -> Option<(Out, Unsent)> {
        let has_room = self.has_room() || self.wait_for_room(deadline).await;
        has_room.then(|| Out::begin(&self.traffic))
    }

    fn has_room(&self) -> bool {
        let gates = Arc::clone(&self.gates.read().unwrap_or_else(PoisonError::into_inner));
        are_open(&gates)
    }

    async fn wait_for_room(&self, deadline: Instant) -> bool {
        let _waiting = Waiting::begin(&self.waiting);
        let until = deadline.min(Instant::now() + ROOM_WAIT);
        // Only the first in line looks, however many there are.
        let Ok(_turn) = timeout_at(until, self.line.lock()).await else { return false };
        loop {
            if self.has_room() {
                return true;
            }
            let now = Instant::now();
            if now >= until {
                return false;
            }
            // A function may have room again although nothing of this chain has come back, so both end the wait.
            let _ = timeout_at(until.min(now + ROOM_RETRY), self.traffic.returned()).await;
        }
    }

    /// No worker starts requests on this version any more. True: none runs either.
    pub(crate) fn retire(&self) -> bool {
        self.retired.store(true, Ordering::SeqCst);
        self.in_flight.load(Ordering::SeqCst) == 0
    }
}

/// A request that waits for room.
struct Waiting<'c>(&'c AtomicU32);

impl<'c> Waiting<'c> {
    fn begin(count: &'c AtomicU32) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Called with the route when the last request on a retired chain version has ended.
pub(crate) type OnIdle = Arc<dyn Fn(RouteId) + Send + Sync>;

/// A request's place among those that its chain may run at once.
pub(crate) struct Admission {
    pub(crate) chain: Arc<Chain>,
    on_idle: OnIdle,
}

impl Drop for Admission {
    fn drop(&mut self) {
        let before = self.chain.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.chain.retired.load(Ordering::SeqCst) {
            (self.on_idle)(self.chain.route_id());
        }
    }
}

/// All chains, ready to be searched.
#[derive(Debug, Default)]
pub(crate) struct ChainTable {
    /// By exact host; `""` is any host. Paths longest first.
    exact: HashMap<String, Vec<Entry>>,
    /// Suffixes such as `.example.org`, longest first.
    suffixes: Vec<(String, Vec<Entry>)>,
    chains: Vec<Arc<Chain>>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    methods: Vec<String>,
    chain: Arc<Chain>,
}

/// Why no chain was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoChain {
    /// Nothing matches host and path.
    NotFound,
    /// Something does, but not with this method; these are allowed.
    MethodNotAllowed(Vec<String>),
}

impl ChainTable {
    pub(crate) fn new(chains: Vec<Arc<Chain>>) -> Self {
        let mut exact: HashMap<String, Vec<Entry>> = HashMap::new();
        let mut suffixes: HashMap<String, Vec<Entry>> = HashMap::new();
        for chain in &chains {
            for Match { host, path, methods } in &chain.settings.matches {
                let entry = Entry {
                    path: path.trim_end_matches('/').to_owned(),
                    methods: methods.clone(),
                    chain: Arc::clone(chain),
                };
                let host = host.as_deref().unwrap_or_default().to_ascii_lowercase();
                match host.strip_prefix('*') {
                    Some(suffix) => suffixes.entry(suffix.to_owned()).or_default().push(entry),
                    None => exact.entry(host).or_default().push(entry),
                }
            }
        }
        let mut suffixes: Vec<_> = suffixes.into_iter().collect();
        suffixes.sort_by_key(|(suffix, _)| Reverse(suffix.len()));
        for entries in exact.values_mut().chain(suffixes.iter_mut().map(|(_, entries)| entries)) {
            // Of equal paths, the one that names its methods goes first.
            entries.sort_by_key(|entry| (Reverse(entry.path.len()), entry.methods.is_empty()));
        }
        Self { exact, suffixes, chains }
    }

    pub(crate) fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }

    /// Finds the chain of a request.
    pub(crate) fn find(&self, host: &str, path: &str, method: &str) -> Result<&Arc<Chain>, NoChain> {
        let mut allowed = Vec::new();
        let host = without_port(host);
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        let named = if host.is_empty() { None } else { self.exact.get(host) };
        let by_suffix =
            self.suffixes.iter().filter(|(suffix, _)| host.len() > suffix.len() && host.ends_with(suffix.as_str()));
        let candidates = named.into_iter().chain(by_suffix.map(|(_, entries)| entries)).chain(self.exact.get(""));
        for entry in candidates.flatten().filter(|entry| is_under(path, &entry.path)) {
            if entry.methods.is_empty() || entry.methods.iter().any(|allowed| allowed == method) {
                return Ok(&entry.chain);
            }
            allowed.extend(entry.methods.iter().cloned());
        }
        if allowed.is_empty() { Err(NoChain::NotFound) } else { Err(NoChain::MethodNotAllowed(allowed)) }
    }
}

/// Whether `path` is `prefix` or below it, in whole segments.
fn is_under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ramet_common::DomainId;
    use ramet_dataplane::Route;

    fn chain(id: u32, matches: &[(Option<&str>, &str, &[&str])]) -> Arc<Chain> {
        let matches = matches
            .iter()
            .map(|(host, path, methods)| Match {
                host: host.map(str::to_owned),
                path: (*path).to_owned(),
                methods: methods.iter().map(|&method| method.to_owned()).collect(),
            })
            .collect();
        let chain = format!("default/{id}");
        let route = Route {
            id: RouteId(id),
            domain: DomainId(0),
            chain,
            steps: Vec::new(),
            http: Default::default(),
            streamed: Default::default(),
        };
        let deadline = Duration::from_secs(1);
        let settings = gateway::Chain { route, matches, deadline, in_flight_max: 2, body_bytes_max: None };
        Arc::new(Chain::new(settings, ChainCounters::unregistered()))
    }

    fn found(table: &ChainTable, host: &str, path: &str, method: &str) -> Result<u32, NoChain> {
        table.find(host, path, method).map(|chain| chain.route_id().0)
    }

    #[test]
    fn the_most_specific_match_wins() {
        let table = ChainTable::new(vec![
            chain(1, &[(None, "/", &[])]),
            chain(2, &[(None, "/a", &[])]),
            chain(3, &[(None, "/a/b", &["GET"])]),
            chain(4, &[(Some("x.example.org"), "/", &[])]),
            chain(5, &[(Some("*.example.org"), "/", &[])]),
        ]);
        assert_eq!(found(&table, "", "/zzz", "GET"), Ok(1));
        assert_eq!(found(&table, "", "/ab", "GET"), Ok(1), "prefixes end at segments");
        assert_eq!(found(&table, "", "/a/c", "GET"), Ok(2));
        assert_eq!(found(&table, "", "/a/b", "GET"), Ok(3));
        assert_eq!(found(&table, "", "/a/b", "POST"), Ok(2), "another method falls through to the shorter path");
        assert_eq!(found(&table, "X.Example.org:8080", "/a", "GET"), Ok(4));
        assert_eq!(found(&table, "y.z.example.org", "/a", "GET"), Ok(5));
        assert_eq!(found(&table, "example.org", "/a", "GET"), Ok(2), "a wildcard needs a label");
    }

    #[test]
    fn a_wrong_method_is_told_which_are_right() {
        let table = ChainTable::new(vec![chain(1, &[(None, "/a", &["GET", "PUT"])])]);
        assert_eq!(found(&table, "h", "/b", "GET"), Err(NoChain::NotFound));
        let allowed = vec!["GET".to_owned(), "PUT".to_owned()];
        assert_eq!(found(&table, "h", "/a", "POST"), Err(NoChain::MethodNotAllowed(allowed)));
    }

    #[test]
    fn the_last_request_of_a_retired_version_is_noticed() {
        let chain = chain(7, &[]);
        let idle = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&idle);
        let on_idle: OnIdle = Arc::new(move |route| seen.store(route.0, Ordering::SeqCst));
        let one = chain.admit(&on_idle).expect("room");
        let two = chain.admit(&on_idle).expect("room");
        assert!(chain.admit(&on_idle).is_none(), "two at once");
        assert!(!chain.retire());
        drop(one);
        assert_eq!(idle.load(Ordering::SeqCst), 0);
        drop(two);
        assert_eq!(idle.load(Ordering::SeqCst), 7);
    }
}
