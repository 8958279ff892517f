//! Whether a chain's functions have room for one more request: what is out may come to no more, on any edge, than the
//! edge's receivers have room for.
//!
//! Nothing is handed to and fro for this. How many messages an instance has is counted where messages pass anyway, and
//! comes back to zero however they end, so the gateway reads that and adds what may still be on the way. A request that
//! finds no room waits at the gateway, before it has a slot: a function never has to wait, with a message in its hands,
//! for the next one to have room, and is there for its other chains.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use ramet_common::{FunctionId, InstanceId};
use ramet_dataplane::transport::skmsg::Reasons;
use ramet_dataplane::{Ledger, Route};
use tokio::sync::Notify;

use crate::servers::Server;

/// Where an instance's load is counted.
#[derive(Clone, Debug)]
pub(crate) enum Load {
    /// In SPROXY's instance table.
    Kernel(Reasons),
    /// Beside its domain's ledger.
    Ledger(Ledger),
    /// Here: it serves HTTP by itself.
    Server(Arc<Server>),
}

#[derive(Debug)]
struct Resident {
    instance: InstanceId,
    capacity: u32,
    load: Load,
}

impl Resident {
    fn capacity(&self) -> u32 {
        match &self.load {
            Load::Server(server) if !server.is_ready() => 0,
            Load::Kernel(_) | Load::Ledger(_) | Load::Server(_) => self.capacity,
        }
    }

    fn load(&self) -> u32 {
        match &self.load {
            Load::Kernel(table) => table.load(self.instance),
            Load::Ledger(ledger) => ledger.load(self.instance),
            Load::Server(server) => server.held(),
        }
    }
}

/// The instances of a function.
#[derive(Debug, Default)]
pub(crate) struct Room {
    residents: RwLock<Vec<Resident>>,
}

/// What a room can take and what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fill {
    capacity: u32,
    load: u32,
}

impl Room {
    fn fill(&self) -> Fill {
        let residents = self.residents.read().unwrap_or_else(PoisonError::into_inner);
        residents.iter().fold(Fill::default(), |fill, resident| Fill {
            capacity: fill.capacity.saturating_add(resident.capacity()),
            load: fill.load.saturating_add(resident.load()),
        })
    }
}

/// The rooms of all functions, for all workers.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    by_function: RwLock<HashMap<FunctionId, Arc<Room>>>,
    /// SPROXY's instance table, in S mode.
    pub(crate) kernel: OnceLock<Reasons>,
}

impl Rooms {
    /// An instance takes messages from now on.
    pub(crate) fn add(&self, function: FunctionId, instance: InstanceId, capacity: u32, load: Load) {
        let room = self.of(function);
        let mut residents = room.residents.write().unwrap_or_else(PoisonError::into_inner);
        residents.retain(|resident| resident.instance != instance);
        residents.push(Resident { instance, capacity, load });
    }

    /// An instance is gone.
    pub(crate) fn remove(&self, instance: InstanceId) {
        let mut by_function = self.by_function.write().unwrap_or_else(PoisonError::into_inner);
        by_function.retain(|_, room| {
            let mut residents = room.residents.write().unwrap_or_else(PoisonError::into_inner);
            residents.retain(|resident| resident.instance != instance);
            // A chain that goes on finds those that come in the same place.
            !residents.is_empty() || Arc::strong_count(room) > 1
        });
    }

    fn of(&self, function: FunctionId) -> Arc<Room> {
        Arc::clone(self.by_function.write().unwrap_or_else(PoisonError::into_inner).entry(function).or_default())
    }
}

/// How many requests of a chain are where.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// On their way through the chain.
    out: AtomicU32,
    /// Those of them that no function has been given yet.
    unsent: AtomicU32,
    came_back: Notify,
}

impl Traffic {
    /// Waits until a request has come back.
    pub(crate) async fn returned(&self) {
        self.came_back.notified().await;
    }
}

/// What may come to a function: from one chain.
#[derive(Debug)]
struct Flow {
    traffic: Arc<Traffic>,
    /// Where the chain's messages may be before they come to the function.
    before: Vec<Arc<Room>>,
}

impl Flow {
    /// How many requests the chain has out.
    fn out(&self) -> u32 {
        self.traffic.out.load(Ordering::Relaxed)
    }

    /// How many messages may be on their way at the most.
    fn coming(&self) -> u32 {
        let out = self.out();
        if out == 0 {
            return 0;
        }
        let unsent = self.traffic.unsent.load(Ordering::Relaxed);
        let there = self.before.iter().fold(unsent, |sum, room| sum.saturating_add(room.fill().load));
        there.min(out)
    }
}

/// A function, with everything that may come to it.
#[derive(Debug)]
pub(crate) struct Gate {
    room: Arc<Room>,
    flows: Vec<Flow>,
    /// It may have half of its domain's slots.
    most: u32,
}

impl Gate {
    /// Whether one message more, and all that may come before it, find room.
    fn is_open(&self) -> bool {
        let Fill { capacity, load } = self.room.fill();
        let taken = |of: fn(&Flow) -> u32| self.flows.iter().fold(load, |sum, flow| sum.saturating_add(of(flow)));
        let most = capacity.min(self.most);
        // Where there is no instance a request waits for one. No more can come than is out, which is less to look at.
        capacity == 0 || taken(Flow::out) < most || taken(Flow::coming) < most
    }
}

/// Whether a request finds room at every one of these.
pub(crate) fn are_open(gates: &[Arc<Gate>]) -> bool {
    gates.iter().all(|gate| gate.is_open())
}

/// A chain, as far as it matters who goes where.
pub(crate) struct Itinerary<'c> {
    pub(crate) route: &'c Route,
    pub(crate) traffic: &'c Arc<Traffic>,
    /// How many slots its domain has.
    pub(crate) slots: u32,
}

/// The gates of each chain, in the order of `chains`, which are all that there are.
pub(crate) fn gates_of(rooms: &Rooms, chains: &[Itinerary<'_>]) -> Vec<Vec<Arc<Gate>>> {
    let mut gates: HashMap<FunctionId, Gate> = HashMap::new();
    for chain in chains {
        for function in chain.route.functions() {
            let before = chain.route.before(function).into_iter().map(|function| rooms.of(function)).collect();
            let most = (chain.slots / 2).max(1);
            let gate =
                gates.entry(function).or_insert_with(|| Gate { room: rooms.of(function), flows: Vec::new(), most });
            gate.flows.push(Flow { traffic: Arc::clone(chain.traffic), before });
        }
    }
    let gates: HashMap<_, _> = gates.into_iter().map(|(function, gate)| (function, Arc::new(gate))).collect();
    let of =
        |chain: &Itinerary<'_>| chain.route.functions().iter().map(|function| Arc::clone(&gates[function])).collect();
    chains.iter().map(of).collect()
}

/// A request that is out, until it is dropped.
#[derive(Debug)]
pub(crate) struct Out(Arc<Traffic>);

impl Out {
    /// It sets out: it is out, and unsent.
    pub(crate) fn begin(traffic: &Arc<Traffic>) -> (Self, Unsent) {
        traffic.out.fetch_add(1, Ordering::Relaxed);
        traffic.unsent.fetch_add(1, Ordering::Relaxed);
        (Self(Arc::clone(traffic)), Unsent(Arc::clone(traffic)))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::Relaxed);
        self.0.came_back.notify_one();
    }
}

/// A request that no function has been given yet, until it is dropped.
#[derive(Debug)]
pub(crate) struct Unsent(Arc<Traffic>);

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.unsent.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use ramet_common::{DomainId, RouteId};
    use ramet_dataplane::route::{Next, Step, Target, Work};
    use ramet_dataplane::{Pool, PoolLayout};

    /// Instances 1 to 3, each the only one of the function of its number, with room for 4 messages.
    struct Node {
        rooms: Rooms,
        ledger: Ledger,
    }

    impl Node {
        fn new() -> Self {
            let pages = (Ledger::shared_bytes_for(4) / 4096) as u32;
            let memory = Pool::create("ledger", &PoolLayout { counts: [pages, 0, 0, 0, 0] }).expect("memory");
            let ledger = Ledger::map_shared(memory.as_fd(), 4).expect("ledger");
            let rooms = Rooms::default();
            for number in 1..=3 {
                ledger.begin_load(instance(number));
                let load = Load::Ledger(ledger.clone());
                rooms.add(FunctionId(number.into()), instance(number), 4, load);
            }
            Self { rooms, ledger }
        }

        fn give(&self, number: u16, messages: u32) {
            self.ledger.give_load(instance(number), instance(9), messages);
        }

        fn gates(&self, chains: &[(&Route, &Arc<Traffic>)]) -> Vec<Vec<Arc<Gate>>> {
            let of = |(route, traffic)| Itinerary { route, traffic, slots: 100 };
            let chains: Vec<_> = chains.iter().copied().map(of).collect();
            gates_of(&self.rooms, &chains)
        }
    }

    fn instance(number: u16) -> InstanceId {
        InstanceId::new(number, 1)
    }

    fn route(functions: &[u32]) -> Route {
        let last = functions.len() - 1;
        let step = |(at, function): (usize, &u32)| Step {
            name: at.to_string(),
            work: Work::Function(FunctionId(*function)),
            timeout: None,
            retries: 0,
            next: Next::To(if at == last { Target::Reply } else { Target::Step(at as u16 + 1) }),
        };
        let steps = functions.iter().enumerate().map(step).collect();
        Route {
            id: RouteId(1),
            domain: DomainId(1),
            chain: String::new(),
            steps,
            http: Default::default(),
            streamed: Default::default(),
        }
    }

    #[test]
    fn what_is_on_its_way_to_a_function_takes_its_room_and_what_is_past_it_does_not() {
        let node = Node::new();
        let (route, traffic) = (route(&[1, 2]), Arc::default());
        let gates = node.gates(&[(&route, &traffic)]).remove(0);
        let out: Vec<_> = (0..4).map(|_| Out::begin(&traffic)).collect();
        assert!(!are_open(&gates), "four have yet to come");
        let out: Vec<_> = out.into_iter().map(|(out, _unsent)| out).collect();
        for (at_first, at_second, is_open) in [(4, 0, false), (1, 3, false), (0, 4, false), (1, 2, true), (0, 3, true)]
        {
            node.give(1, at_first);
            node.give(2, at_second);
            assert_eq!(are_open(&gates), is_open, "{at_first} and {at_second}");
            node.ledger.ease_load(instance(1), at_first);
            node.ledger.ease_load(instance(2), at_second);
        }
        drop(out);
        assert!(are_open(&gates));
    }

    #[test]
    fn a_full_function_closes_the_chains_through_it_and_no_others() {
        let node = Node::new();
        let (slow, good, other) = (route(&[1, 2]), route(&[1, 3]), route(&[3, 2]));
        let traffic: [Arc<Traffic>; 3] = Default::default();
        let gates = node.gates(&[(&slow, &traffic[0]), (&good, &traffic[1]), (&other, &traffic[2])]);
        let open = || gates.iter().map(|gates| are_open(gates)).collect::<Vec<_>>();
        assert_eq!(open(), [true, true, true]);
        node.give(2, 4);
        let _out: Vec<_> = (0..4).map(|_| Out::begin(&traffic[0]).0).collect();
        assert_eq!(open(), [false, true, false]);
        node.ledger.ease_load(instance(2), 4);
        node.give(1, 3);
        // Three that may go either way are as many as either has room for but one.
        let _out: Vec<_> = (0..3).map(|_| Out::begin(&traffic[1]).0).collect();
        assert_eq!(open(), [true, true, true]);
        node.give(2, 1);
        assert_eq!(open(), [false, true, false]);
    }

    #[test]
    fn a_function_without_instances_is_waited_for_elsewhere_and_one_that_grows_has_more_room() {
        let node = Node::new();
        let (route, traffic) = (route(&[1, 2]), Arc::default());
        let gates = node.gates(&[(&route, &traffic)]).remove(0);
        node.give(2, 4);
        assert!(!are_open(&gates));
        node.ledger.begin_load(instance(7));
        node.rooms.add(FunctionId(2), instance(7), 4, Load::Ledger(node.ledger.clone()));
        assert!(are_open(&gates), "a second instance");
        [2, 7].into_iter().for_each(|number| node.rooms.remove(instance(number)));
        assert!(are_open(&gates), "none");
    }

    #[test]
    fn nobody_has_more_than_half_of_the_slots() {
        let node = Node::new();
        let (route, traffic) = (route(&[1]), Arc::default());
        let gates = gates_of(&node.rooms, &[Itinerary { route: &route, traffic: &traffic, slots: 6 }]).remove(0);
        node.give(1, 2);
        assert!(are_open(&gates));
        node.give(1, 1);
        assert!(!are_open(&gates));
    }
}
