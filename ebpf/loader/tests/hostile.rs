//! A function that sends whatever it likes, and many that send at once: the ledger must come out right.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/rig.rs"]
mod rig;

use ramet_common::{FunctionId, Generation, InstanceId, Kind, PacketDescriptor, RequestId, SlotIndex};
use rig::{DOMAIN_SLOTS, Member, OTHER_DOMAIN, Rig, bytes_of, packet_to};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A generator whose runs can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[test]
fn random_descriptors_move_only_what_their_sender_owns_and_only_where_it_may() {
    const OWNED: u32 = 64;
    let Some((mut rig, [gateway, hostile, victim])) = Rig::chain() else { return };
    let foreign = rig.join_domain(5, 5, 8, OTHER_DOMAIN);
    rig.sproxy.set_replicas(foreign.function, OTHER_DOMAIN, &[foreign.instance]).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let others = [InstanceId::NONE, gateway.instance, hostile.instance, victim.instance, foreign.instance];
    for round in 0..400 {
        for slot in 0..OWNED {
            rig.set_owner(slot, hostile.instance, 0);
        }
        rig.set_owner(OWNED, victim.instance, 0);
        let mut accepted = 0;
        for _ in 0..100 {
            let first = random_descriptor(&mut random, &others);
            let mut bytes = Vec::new();
            for _ in 0..1 + random.below(4) * random.below(8) {
                let next = random_descriptor(&mut random, &others);
                let same = PacketDescriptor { function: first.function, peer: first.peer, ..next };
                bytes.extend(bytes_of(if random.below(16) == 0 { next } else { same }));
            }
            if random.below(16) == 0 {
                bytes.truncate(1 + random.below(bytes.len() as u64) as usize);
            }
            accepted += u64::from(hostile.send_bytes(&bytes).is_ok());
        }
        assert_eq!(foreign.pending(), [], "round {round}");
        let mut moved = vec![InstanceId::NONE; DOMAIN_SLOTS as usize];
        let received: Vec<_> = [&gateway, &victim].map(|member| (member, member.pending())).into();
        for (member, packets) in received {
            for packet in packets {
                assert_eq!(packet.peer, hostile.instance, "a forged sender");
                assert_eq!(packet.function, member.function);
                if packet.moves_slot() {
                    assert!(packet.slot.0 < OWNED && packet.generation == Generation(0), "{packet:?}");
                    assert_eq!(moved[packet.slot.0 as usize], InstanceId::NONE, "moved twice: {packet:?}");
                    moved[packet.slot.0 as usize] = member.instance;
                }
            }
        }
        for slot in 0..OWNED {
            let expected = match moved[slot as usize] {
                InstanceId::NONE => hostile.instance,
                owner if owner == gateway.instance => InstanceId::NONE,
                owner => owner,
            };
            assert_eq!(rig.owner(slot), expected, "slot {slot} in round {round}, {accepted} accepted");
        }
        assert_eq!(rig.owner(OWNED), victim.instance);
        assert_eq!(rig.owner(OWNED + 1), InstanceId::NONE);
    }
    assert!(rig.state(&hostile).sent > 1000, "the generator never hit anything");
}

/// A descriptor whose every field is likely to be right and may be anything.
fn random_descriptor(random: &mut Random, peers: &[InstanceId]) -> PacketDescriptor {
    let odd = |random: &mut Random| random.below(24) == 0;
    let slots = [0, 63, 64, 65, DOMAIN_SLOTS - 1, DOMAIN_SLOTS, u32::MAX, u32::MAX - 511];
    PacketDescriptor {
        version: if odd(random) { random.next() as u8 } else { 1 },
        kind: if odd(random) { random.next() as u8 } else { 1 + random.below(10) as u8 },
        flags: if odd(random) { random.next() as u8 } else { 0 },
        reserved: 0,
        function: FunctionId(if odd(random) { random.next() as u32 } else { random.one_of(&[0, 2, 2, 5]) }),
        peer: if odd(random) { InstanceId(random.next() as u32) } else { random.one_of(peers) },
        slot: SlotIndex(if odd(random) { random.one_of(&slots) } else { random.below(66) as u32 }),
        generation: Generation(if odd(random) { random.next() as u32 } else { 0 }),
        aux: random.next() as u32,
        request: RequestId(random.next()),
    }
}

#[test]
fn slots_are_neither_lost_nor_doubled_when_everybody_sends_at_once() {
    const SLOTS: u32 = 256;
    const ROUNDS: u64 = 20_000;
    let Some(mut rig) = Rig::new() else { return };
    let gateway = rig.join(0, 0, 8);
    let workers: Vec<Member> = (1..5).map(|index| rig.join(index, u32::from(index), 1 << 20)).collect();
    for from in 0..5 {
        for to in 0..5 {
            rig.allow(from, to);
        }
    }
    let finished = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let deadline = Instant::now() + Duration::from_secs(60);
    std::thread::scope(|scope| {
        for (number, worker) in workers.iter().enumerate() {
            let (workers, gateway, finished) = (&workers, &gateway, &finished);
            scope.spawn(move || {
                let mut random = Random(number as u64 + 1);
                while !finished.load(Ordering::Relaxed) {
                    for packet in worker.pending() {
                        // Mostly on to another worker, sometimes to itself, sometimes back.
                        let slot = packet.slot.0;
                        let next = match random.below(6) {
                            0 | 1 => packet_to(Kind::Reply, gateway, slot),
                            _ => packet_to(Kind::Request, &workers[random.below(4) as usize], slot),
                        };
                        if worker.send(&[next]).is_err() {
                            // Only a slot that went round too often is refused.
                            worker.send(&[packet_to(Kind::Reply, gateway, slot)]).unwrap();
                        }
                    }
                    std::thread::yield_now();
                }
            });
        }
        // A failed assertion must end the workers too.
        let _finish = Finish(&finished);
        let mut home = vec![true; SLOTS as usize];
        let mut random = Random(99);
        while answered.load(Ordering::Relaxed) < ROUNDS && Instant::now() < deadline {
            for slot in (0..SLOTS).filter(|slot| std::mem::take(&mut home[*slot as usize])) {
                gateway.send(&[packet_to(Kind::Request, &workers[random.below(4) as usize], slot)]).unwrap();
            }
            for answer in gateway.pending() {
                let home = &mut home[answer.slot.0 as usize];
                assert!(!std::mem::replace(home, true), "slot {} came back twice", answer.slot);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
        while home.iter().any(|home| !home) && Instant::now() < deadline {
            for answer in gateway.pending() {
                assert!(!std::mem::replace(&mut home[answer.slot.0 as usize], true));
            }
        }
        assert!(home.iter().all(|home| *home), "a slot was lost");
    });
    assert!(answered.load(Ordering::Relaxed) >= ROUNDS);
    assert!((0..SLOTS).all(|slot| rig.owner(slot) == InstanceId::NONE));
    assert!(workers.iter().all(|worker| rig.state(worker).load == 0), "the load does not add up");
}

/// Says that it is over when it goes out of scope.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
