//! A message survives its slot, and no bytes in a slot make the reader do anything but refuse.

use std::os::fd::AsFd;

use proptest::prelude::*;
use ramet_common::{Generation, SlotIndex};

use super::*;
use crate::pool::Pool;

const LAYOUT: PoolLayout = PoolLayout { counts: [4, 1, 1, 0, 0] };

fn pool() -> Pool {
    let fd = Pool::create("pool", &LAYOUT).expect("memfd");
    Pool::attach(fd.as_fd(), LAYOUT).expect("map")
}

fn block() -> Vec<u8> {
    let mut writer = BlockWriter::request("POST", "/thumbnail?width=64");
    writer.header("content-type", b"image/png").expect("room");
    writer.header("x-opaque", b"\xff\x00").expect("room");
    writer.finish()
}

#[test]
fn request_line_headers_and_inline_body_come_back() {
    let pool = pool();
    let slot = pool.slot(SlotIndex(1)).expect("slot");
    let offset = inline_offset(slot.bytes(), block().len(), 100).expect("fits");
    slot.copy_in(offset, &[7; 100]).expect("in bounds");
    let envelope = Envelope { generation: Generation(9), deadline_ns: 5, ..Envelope::default() };
    write(&slot, envelope, &block(), &BodyPlace::Inline { offset, bytes: 100 }).expect("fits");

    let message = Message::read(&slot, Generation(9), &LAYOUT).expect("readable");
    assert_eq!((message.block.method(), message.block.target()), ("POST", "/thumbnail?width=64"));
    assert_eq!(message.block.header("x-opaque"), Some(&b"\xff\x00"[..]));
    assert_eq!(message.block.headers().count(), 2);
    assert_eq!(message.envelope.deadline_ns, 5);
    assert_eq!(message.body, BodyPlace::Inline { offset, bytes: 100 });
    assert_eq!(Message::read(&slot, Generation(8), &LAYOUT).expect_err("stale"), MessageError::Stale);
}

#[test]
fn parts_come_back_in_order_and_impossible_ones_are_refused() {
    let pool = pool();
    let slot = pool.slot(SlotIndex(0)).expect("slot");
    let part = |slot, offset, bytes| Part { slot: SlotIndex(slot), generation: Generation(0), offset, bytes };
    let good = vec![part(5, 0, 65_536), part(4, 100, 16)];
    write(&slot, Envelope::default(), &block(), &BodyPlace::Parts(good.clone())).expect("fits");
    let message = Message::read(&slot, Generation(0), &LAYOUT).expect("readable");
    assert_eq!(message.body, BodyPlace::Parts(good));
    assert_eq!(message.envelope.body_bytes, 65_552);

    for bad in [part(6, 0, 1), part(5, 1, 65_536), part(0, u32::MAX, 2), part(0, 0, 0)] {
        write(&slot, Envelope::default(), &block(), &BodyPlace::Parts(vec![bad])).expect("fits");
        assert!(matches!(Message::read(&slot, Generation(0), &LAYOUT), Err(MessageError::Malformed(_))), "{bad:?}");
    }
}

#[test]
fn what_does_not_fit_leaves_the_slot_alone() {
    let pool = pool();
    let slot = pool.slot(SlotIndex(0)).expect("slot");
    write(&slot, Envelope::default(), &block(), &BodyPlace::EMPTY).expect("fits");
    let too_long = vec![0; 4096];
    assert!(matches!(
        write(&slot, Envelope { status: 500, ..Envelope::default() }, &too_long, &BodyPlace::EMPTY),
        Err(MessageError::TooLarge { .. })
    ));
    assert_eq!(Message::read(&slot, Generation(0), &LAYOUT).expect("unchanged").envelope.status, 0);
    assert_eq!(inline_offset(4096, 3900, 100), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 256), sane in any::<bool>()) {
        let pool = pool();
        let slot = pool.slot(SlotIndex(0)).expect("slot");
        let mut bytes = bytes;
        if sane {
            // Give the parser a version and short lengths, or it would never get past them.
            bytes[0..2].copy_from_slice(&u16::from(ABI).to_le_bytes());
            bytes[8..12].fill(0);
            bytes[57..60].fill(0);
        }
        slot.copy_in(0, &bytes).expect("in bounds");
        if let Ok(message) = Message::read(&slot, Generation(0), &LAYOUT) {
            for (name, value) in message.block.headers() {
                prop_assert!(name.len() + value.len() <= BLOCK_BYTES_MAX);
            }
        }
    }

    #[test]
    fn any_block_is_parsed_or_refused(bytes in proptest::collection::vec(0u8..24, 0..200)) {
        if let Ok(block) = HeadBlock::parse(bytes) {
            prop_assert_eq!(block.headers().count(), block.header_count());
        }
    }
}
