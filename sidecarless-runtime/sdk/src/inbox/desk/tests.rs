//! Every descriptor finds its place or gives its slot back, and none makes the desk panic.

use proptest::prelude::*;
use ramet_common::{Generation, SlotIndex};

use super::*;

const GATEWAY: InstanceId = InstanceId(1);
const OTHER: InstanceId = InstanceId(2);
const REQUEST: RequestId = RequestId(7);

fn come(kind: Kind, slot: u32) -> PacketDescriptor {
    PacketDescriptor::new(kind, FunctionId(5), SlotIndex(slot), Generation(1), REQUEST).to_instance(GATEWAY)
}

fn head(slot: u32) -> SlotRef {
    SlotRef { slot: SlotIndex(slot), generation: Generation(1) }
}

fn poll(desk: &mut Desk, ticket: u64, now_ns: u64) -> Poll<Result<Vec<PacketDescriptor>, WaitError>> {
    desk.poll(ticket, now_ns, Waker::noop())
}

fn strays(desk: &mut Desk) -> Vec<(Option<Kind>, u32, u8, InstanceId)> {
    desk.strays().map(|stray| (stray.kind(), stray.slot.0, stray.flags, stray.peer)).collect()
}

#[test]
fn a_waiter_gets_what_it_asked_for_from_whom_it_asked() {
    let mut desk = Desk::new(1);
    let ticket = desk.expect(Seat(0), REQUEST, GATEWAY, Expects::Lends(2), 100);
    desk.take(come(Kind::Lend, 1));
    desk.take(come(Kind::Lend, 9).to_instance(OTHER));
    assert!(poll(&mut desk, ticket, 50).is_pending(), "one of two, and one of another worker");
    desk.take(come(Kind::Lend, 2));
    let Poll::Ready(Ok(got)) = poll(&mut desk, ticket, 200) else { panic!("complete, also after the deadline") };
    assert_eq!(got.iter().map(|lend| lend.slot.0).collect::<Vec<_>>(), [1, 2]);
    desk.take(come(Kind::Lend, 3));
    let back = Some(Kind::Return);
    assert_eq!(strays(&mut desk), [(back, 9, FLAG_LENT, OTHER), (back, 3, FLAG_LENT, GATEWAY)]);
}

#[test]
fn what_came_in_part_goes_back() {
    let mut desk = Desk::new(1);
    let ticket = desk.expect(Seat(0), REQUEST, GATEWAY, Expects::Lends(2), 100);
    desk.take(come(Kind::Lend, 1));
    desk.take(come(Kind::Sorry, 0).with_aux(Failure::Exhausted as u32));
    assert_eq!(poll(&mut desk, ticket, 0), Poll::Ready(Err(WaitError::Sorry(Failure::Exhausted))));
    assert_eq!(strays(&mut desk), [(Some(Kind::Return), 1, FLAG_LENT, GATEWAY)]);
    let ticket = desk.expect(Seat(0), REQUEST, GATEWAY, Expects::Grant, 100);
    assert_eq!(poll(&mut desk, ticket, 100), Poll::Ready(Err(WaitError::DeadlineExceeded)));
    desk.take(come(Kind::Grant, 4));
    assert_eq!(strays(&mut desk), [(Some(Kind::Return), 4, 0, GATEWAY)], "too late");
}

#[test]
fn an_answer_must_bring_the_very_head_back() {
    let mut desk = Desk::new(1);
    let ticket = desk.expect(Seat(0), REQUEST, GATEWAY, Expects::Answer(head(3)), 100);
    desk.take(come(Kind::Reply, 4).to_instance(OTHER));
    assert!(poll(&mut desk, ticket, 0).is_pending());
    assert_eq!(strays(&mut desk), [(Some(Kind::Return), 4, 0, InstanceId::NONE)], "a forged one");
    desk.take(come(Kind::Failed, 3).to_instance(OTHER));
    assert!(matches!(poll(&mut desk, ticket, 0), Poll::Ready(Ok(got)) if got.len() == 1));
}

#[test]
fn a_cancelled_message_leaves_the_queue_and_ends_its_waits() {
    let mut desk = Desk::new(1);
    desk.take(come(Kind::Request, 1));
    desk.take(come(Kind::Request, 2).to_instance(OTHER));
    assert_eq!(desk.next(Seat(0)).map(|next| next.slot.0), Some(1));
    let ticket = desk.expect(Seat(0), REQUEST, GATEWAY, Expects::Grant, 100);
    desk.take(come(Kind::Cancel, 2));
    assert_eq!((desk.queued(), desk.is_cancelled(Seat(0))), (0, false));
    assert_eq!(strays(&mut desk), [(Some(Kind::Failed), 2, 0, GATEWAY)]);
    desk.take(come(Kind::Cancel, 1));
    assert!(desk.is_cancelled(Seat(0)));
    assert_eq!(poll(&mut desk, ticket, 0), Poll::Ready(Err(WaitError::Cancelled)));
    desk.finish(Seat(0));
    desk.take(come(Kind::Request, 3));
    desk.next(Seat(0));
    assert!(!desk.is_cancelled(Seat(0)), "its successor is not");
}

proptest! {
    #[test]
    fn any_descriptors_are_taken(
        descriptors in proptest::collection::vec((0u8..16, 0u8..8, 0u32..4, 0u32..3, 0u64..3), 0..60)
    ) {
        let mut desk = Desk::new(2);
        let lends = desk.expect(Seat(0), RequestId(1), GATEWAY, Expects::Lends(3), u64::MAX);
        let answer = desk.expect(Seat(1), RequestId(2), GATEWAY, Expects::Answer(head(2)), u64::MAX);
        let (mut moved, mut released) = (0, 0);
        for (kind, flags, slot, peer, request) in descriptors {
            let mut descriptor = come(Kind::Request, slot).with_flags(flags).to_instance(InstanceId(peer));
            (descriptor.kind, descriptor.request) = (kind, RequestId(request));
            moved += usize::from(matches!(
                descriptor.kind(),
                Some(Kind::Request | Kind::Call | Kind::Reply | Kind::Failed | Kind::Grant)
            ) && descriptor.moves_slot());
            desk.take(descriptor);
            if desk.queued() > 3 {
                desk.next(Seat(0));
                released += 1;
            }
            released += desk.strays().filter(PacketDescriptor::moves_slot).count();
        }
        for ticket in [lends, answer] {
            if let Poll::Ready(Ok(got)) = poll(&mut desk, ticket, 0) {
                released += got.iter().filter(|got| got.moves_slot()).count();
            }
            desk.forget(ticket);
        }
        released += desk.strays().filter(PacketDescriptor::moves_slot).count();
        prop_assert_eq!(moved, released + desk.queued(), "every slot that came is queued, used or given back");
    }
}
