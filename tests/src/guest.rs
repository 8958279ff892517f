//! What a test can know of the guest that it runs in (`cargo xtask vm`).

/// What an answer of a guest's RDMA device brings at most: its packets have room for a page.
const PACKET_BYTES: u64 = 4096;

/// How many bytes this guest's RDMA device has received, at most.
///
/// # Panics
/// Outside of a guest.
#[must_use]
pub fn bytes_by_rdma() -> u64 {
    let device = std::env::var("XTASK_VM_DEVICE").expect("a guest's device");
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/rcvd_pkts");
    let packets: u64 = std::fs::read_to_string(path).expect("a counter").trim().parse().expect("a number");
    packets * PACKET_BYTES
}
