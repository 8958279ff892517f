//! How another process registers its memory in a domain of ours: by one system call, for which it needs no library.
//!
//! Registering is about the memory of whoever calls. So a stopped process is made to call: it is given the device's
//! control file, the bytes of a request are laid into its memory, and it does `ioctl(control, REQUEST, address)`. What
//! is made belongs to the domain, and is destroyed by its owner, whatever has become of the process.

use std::io;

use serde::{Deserialize, Serialize};

use crate::VerbsError;
use crate::bindings::{ACCESS_ON_DEMAND, ACCESS_REMOTE_READ};
use crate::domain::Domain;

/// What the request is to `ioctl` (`RDMA_VERBS_IOCTL`).
pub const REQUEST: u64 = 0xc018_1b01;
/// How long a request is, with room for the answer.
pub const REQUEST_BYTES: usize = ANSWER_AT + ANSWER_BYTES;

/// Of `enum uverbs_methods_device` and what goes with it (`rdma/ib_user_ioctl_cmds.h`).
const OBJECT_DEVICE: u16 = 0;
const METHOD_INVOKE_WRITE: u16 = 0;
const ATTRIBUTE_INPUT: u16 = 0;
const ATTRIBUTE_OUTPUT: u16 = 1;
const ATTRIBUTE_COMMAND: u16 = 2;
const MANDATORY: u16 = 1;
/// Of `enum ib_uverbs_write_cmds` (`rdma/ib_user_verbs.h`).
const COMMAND_QUERY_DEVICE: u64 = 1;
const COMMAND_REGISTER: u64 = 9;
const COMMAND_DEREGISTER: u64 = 13;

const HEADER_BYTES: usize = 24;
const ATTRIBUTE_BYTES: usize = 16;
const INPUT_AT: usize = 80;
const INPUT_BYTES: usize = 40;
const ANSWER_AT: usize = INPUT_AT + INPUT_BYTES;
const ANSWER_BYTES: usize = 16;
/// Handle, local key, remote key.
const ANSWERED_BYTES: u16 = 12;

/// Larger than any number that the kernel has given a driver (`enum rdma_driver_id`).
const DRIVERS_MAX: u32 = 64;

/// Whether what is registered stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Paging {
    /// Every page is brought in and kept in, and one that was shared with another process is copied.
    Pinned,
    /// A page is looked up when it is read: it may be shared and may move. Not all devices can.
    OnDemand,
}

/// Memory that a peer may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Where it begins, in the process that registered it.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
    /// What a peer names it by.
    pub key: u32,
}

/// Memory that another process has registered in a domain. Dropping it takes the right to read it away from everybody.
#[derive(Debug)]
pub struct Registration {
    domain: Domain,
    handle: u32,
    region: Region,
}

impl Registration {
    /// The request that registers memory for reading by peers, to be laid at `address` of the process that makes it.
    /// What is on demand is read at its own address and pages that it has; holes in it are errors when they are read.
    #[must_use]
    pub fn request(domain: &Domain, paging: Paging, start: u64, bytes: u64, address: u64) -> [u8; REQUEST_BYTES] {
        let access = match paging {
            Paging::Pinned => ACCESS_REMOTE_READ,
            Paging::OnDemand => ACCESS_REMOTE_READ | ACCESS_ON_DEMAND,
        };
        let mut request = Request::new(domain.device().0.driver, COMMAND_REGISTER);
        request.attribute(ATTRIBUTE_INPUT, INPUT_BYTES as u16, address + INPUT_AT as u64);
        request.attribute(ATTRIBUTE_OUTPUT, ANSWERED_BYTES, address + ANSWER_AT as u64);
        // `struct ib_uverbs_reg_mr`; the peer names the memory by its address here.
        let (response, own_address) = (address + ANSWER_AT as u64, start);
        for (at, word) in [response, start, bytes, own_address].into_iter().enumerate() {
            request.put(INPUT_AT + at * 8, &word.to_ne_bytes());
        }
        request.put(INPUT_AT + 32, &domain.handle().to_ne_bytes());
        request.put(INPUT_AT + 36, &access.to_ne_bytes());
        request.bytes
    }

    /// Registers memory of this process, which is there for good.
    ///
    /// # Errors
    /// The kernel's.
    pub fn own(domain: &Domain, paging: Paging, memory: &'static [u8]) -> Result<Self, VerbsError> {
        let (start, bytes) = (memory.as_ptr().expose_provenance() as u64, memory.len() as u64);
        let mut request = [0; REQUEST_BYTES];
        let address = request.as_mut_ptr().expose_provenance() as u64;
        request = Self::request(domain, paging, start, bytes, address);
        make(domain.device().0.control(), &mut request)?;
        Ok(Self::answered(domain, start, bytes, &request))
    }

    /// What a request has made once it was answered without an error.
    #[must_use]
    pub fn answered(domain: &Domain, start: u64, bytes: u64, request: &[u8; REQUEST_BYTES]) -> Self {
        let word = |at: usize| {
            let bytes = &request[ANSWER_AT + at * 4..][..4];
            bytes.try_into().map_or(0, u32::from_ne_bytes)
        };
        Self { domain: domain.clone(), handle: word(0), region: Region { start, bytes, key: word(2) } }
    }

    /// What a peer must know to read it.
    #[must_use]
    pub const fn region(&self) -> Region {
        self.region
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let device = &self.domain.device().0;
        let mut request = Request::new(device.driver, COMMAND_DEREGISTER);
        request.attribute(ATTRIBUTE_INPUT, 4, self.handle.into());
        // It succeeds: nothing else was made of it, and nobody else knows of it.
        let _ = make(device.control(), &mut request.bytes);
    }
}

/// A request to the kernel's verbs (`struct ib_uverbs_ioctl_hdr`, the attributes after it, and what they point to).
struct Request {
    bytes: [u8; REQUEST_BYTES],
    attributes: u16,
}

impl Request {
    fn new(driver: u32, command: u64) -> Self {
        let mut request = Self { bytes: [0; REQUEST_BYTES], attributes: 0 };
        request.put(2, &OBJECT_DEVICE.to_ne_bytes());
        request.put(4, &METHOD_INVOKE_WRITE.to_ne_bytes());
        request.put(16, &driver.to_ne_bytes());
        request.attribute(ATTRIBUTE_COMMAND, 8, command);
        request
    }

    /// Adds one. What has up to eight bytes is in `data` itself, otherwise that is where it is.
    fn attribute(&mut self, id: u16, bytes: u16, data: u64) {
        let at = HEADER_BYTES + usize::from(self.attributes) * ATTRIBUTE_BYTES;
        for (field, value) in [id, bytes, MANDATORY].into_iter().enumerate() {
            self.put(at + field * 2, &value.to_ne_bytes());
        }
        self.put(at + 8, &data.to_ne_bytes());
        self.attributes += 1;
        let length = (HEADER_BYTES + usize::from(self.attributes) * ATTRIBUTE_BYTES) as u16;
        self.put(0, &length.to_ne_bytes());
        self.put(6, &self.attributes.to_ne_bytes());
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn make(control: i32, request: &mut [u8; REQUEST_BYTES]) -> Result<(), VerbsError> {
    // SAFETY: V3, attributes that point anywhere point into the request itself.
    let result = unsafe { libc::ioctl(control, REQUEST, request.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(VerbsError::last("ioctl(RDMA_VERBS_IOCTL)")) }
}

/// The number of the driver, without which the kernel takes no request. It is told to nobody but by this: a request
/// that asks for an answer and has no room for it is refused as that only by its own driver.
pub(crate) fn find_driver(control: i32) -> Option<u32> {
    (0..DRIVERS_MAX).find(|driver| {
        let refused = make(control, &mut Request::new(*driver, COMMAND_QUERY_DEVICE).bytes).err();
        refused.is_some_and(|error| error.source.kind() == io::ErrorKind::StorageFull)
    })
}
