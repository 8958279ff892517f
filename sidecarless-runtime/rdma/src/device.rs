//! A device that does RDMA, open.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::bindings::{
    GID_TYPE_ROCE_V1, ODP_SUPPORT, ODP_SUPPORT_READ, PORT_ACTIVE, context, context_extension, ibv_device_attr_ex,
    ibv_gid_entry, ibv_port_attr,
};
use crate::endpoint::Address;
use crate::library::{Library, library};
use crate::registration;

/// The most addresses of a device that are looked at.
const ADDRESSES_MAX: usize = 256;

/// Why there is no device to use.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// libibverbs is not installed.
    #[error("no libibverbs: install it (Debian: `apt-get install libibverbs1 ibverbs-providers`): {0}")]
    NoLibrary(libloading::Error),
    /// It lacks what later ones have.
    #[error("libibverbs is older than rdma-core 32; install a newer one: {0}")]
    OldLibrary(libloading::Error),
    /// There is no device at all.
    #[error("no RDMA device; without such a card, `rdma link add rxe0 type rxe netdev eth0` makes one of an interface")]
    NoDevice,
    /// There is none of that name.
    #[error("no RDMA device is named {name}; there are: {others}")]
    NoSuchDevice {
        /// Which was asked for.
        name: String,
        /// Which there are.
        others: String,
    },
    /// It cannot be used.
    #[error("cannot use the RDMA device {name}: {call} failed: {source}")]
    Unusable {
        /// Which.
        name: String,
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It is not connected to anything.
    #[error("the RDMA device {name} has no address; is its interface up, and has it an IP address?")]
    NoAddress {
        /// Which.
        name: String,
    },
    /// The kernel is too old to let others register memory.
    #[error("the kernel does not take verbs by ioctl (rdma_user_ioctl_cmds.h); Linux 5.0 does")]
    NoIoctl,
}

/// An open device. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Device(pub(crate) Arc<Opened>);

/// What closes when nobody needs it any more.
pub(crate) struct Opened {
    pub(crate) library: &'static Library,
    pub(crate) context: NonNull<context>,
    name: String,
    addresses: Vec<Address>,
    pages_on_demand: bool,
    /// How many reads at a time a queue pair may answer, and ask for.
    pub(crate) answers_max: u8,
    pub(crate) asks_max: u8,
    /// What the kernel calls its driver.
    pub(crate) driver: u32,
}

// SAFETY: V5.
unsafe impl Send for Opened {}
// SAFETY: V5, what changes an object is called by its owner; contexts are not changed.
unsafe impl Sync for Opened {}

impl Device {
    /// Opens the device of a name, or else the first one that is connected.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    pub fn open(name: Option<&str>) -> Result<Self, OpenError> {
        let library = library()?;
        let list = List::get(library)?;
        let Some(name) = name else {
            let mut first = OpenError::NoDevice;
            for at in 0..list.names.len() {
                match list.open(at) {
                    Ok(device) => return Ok(device),
                    Err(error) if at == 0 => first = error,
                    Err(_) => {}
                }
            }
            return Err(first);
        };
        match list.names.iter().position(|one| one == name) {
            Some(at) => list.open(at),
            None if list.names.is_empty() => Err(OpenError::NoDevice),
            None => Err(OpenError::NoSuchDevice { name: name.to_owned(), others: list.names.join(", ") }),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it reads memory that is not pinned, page by page as it is asked for (on-demand paging).
    #[must_use]
    pub fn pages_on_demand(&self) -> bool {
        self.0.pages_on_demand
    }

    /// Its address that goes with one of the network. Without one that does, the best for who knows nothing: the peer
    /// may not be reached by it, which a first read finds out.
    #[must_use]
    pub fn address(&self, ip: IpAddr) -> Address {
        let addresses = &self.0.addresses;
        let ip = ip.to_canonical();
        let same = addresses.iter().find(|address| address.ip() == ip && !address.stays_in_segment);
        *same.unwrap_or(&addresses[0])
    }

    /// What other processes register memory by. It gives whoever has it all rights over what was made with it.
    #[must_use]
    pub fn control(&self) -> BorrowedFd<'_> {
        // SAFETY: V2, it is open for as long as the context is.
        unsafe { BorrowedFd::borrow_raw(self.0.control()) }
    }
}

impl Opened {
    pub(crate) const fn control(&self) -> i32 {
        // SAFETY: V2.
        unsafe { self.context.as_ref() }.cmd_fd
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Opened").field("name", &self.name).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: V2.
        let _ = unsafe { (self.library.close_device)(self.context.as_ptr()) };
    }
}

/// The devices that there are.
struct List {
    library: &'static Library,
    devices: NonNull<*mut crate::bindings::ibv_device>,
    names: Vec<String>,
}

impl List {
    fn get(library: &'static Library) -> Result<Self, OpenError> {
        let mut count = 0;
        // SAFETY: V3.
        let devices = unsafe { (library.get_device_list)(&raw mut count) };
        // Without the kernel's part there is no list at all.
        let devices = NonNull::new(devices).ok_or(OpenError::NoDevice)?;
        let mut list = Self { library, devices, names: Vec::new() };
        for at in 0..count.unsigned_abs() as usize {
            // SAFETY: V2, the device is one of the list.
            let name = unsafe { (library.get_device_name)(list.device(at)) };
            // SAFETY: V2, the name is the device's and ends with a zero.
            let name = unsafe { CStr::from_ptr(name) };
            list.names.push(name.to_string_lossy().into_owned());
        }
        if list.names.is_empty() { Err(OpenError::NoDevice) } else { Ok(list) }
    }

    const fn device(&self, at: usize) -> *mut crate::bindings::ibv_device {
        // SAFETY: V2, callers count no further than the list goes.
        let place = unsafe { self.devices.add(at) };
        // SAFETY: V2.
        unsafe { place.read() }
    }

    fn open(&self, at: usize) -> Result<Device, OpenError> {
        let name = self.names[at].clone();
        let library = self.library;
        let unusable = |call, source| OpenError::Unusable { name: self.names[at].clone(), call, source };
        // SAFETY: V2, the device is one of the list.
        let context = unsafe { (library.open_device)(self.device(at)) };
        let context = NonNull::new(context).ok_or_else(|| unusable("ibv_open_device", io::Error::last_os_error()))?;
        let (addresses, pages_on_demand) = (Vec::new(), false);
        let mut opened =
            Opened { library, context, name, addresses, pages_on_demand, answers_max: 0, asks_max: 0, driver: 0 };
        let attributes = query_device(context).map_err(|source| unusable("ibv_query_device_ex", source))?;
        let original = &attributes.orig_attr;
        let few = |count: i32| u8::try_from(count.max(1)).unwrap_or(u8::MAX);
        opened.answers_max = few(original.max_qp_rd_atom);
        opened.asks_max = few(original.max_qp_init_rd_atom);
        let on_demand = &attributes.odp_caps;
        opened.pages_on_demand = on_demand.general_caps & u64::from(ODP_SUPPORT) != 0
            && on_demand.per_transport_caps.rc_odp_caps & ODP_SUPPORT_READ != 0;
        opened.addresses = addresses_of(library, context).map_err(|(call, source)| unusable(call, source))?;
        opened.addresses.sort_by_key(Address::rank);
        if opened.addresses.is_empty() {
            return Err(OpenError::NoAddress { name: opened.name.clone() });
        }
        opened.driver = registration::find_driver(opened.control()).ok_or(OpenError::NoIoctl)?;
        Ok(Device(Arc::new(opened)))
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: V2, what was opened does not need it.
        unsafe { (self.library.free_device_list)(self.devices.as_ptr()) };
    }
}

/// What the device can do. The header calls this through a table before the context (`verbs_get_ctx_op`).
fn query_device(context: NonNull<context>) -> io::Result<ibv_device_attr_ex> {
    const EXTENDED: usize = usize::MAX;
    let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
    // SAFETY: V2.
    let is_extended = unsafe { context.as_ref() }.abi_compat.addr() == EXTENDED;
    if !is_extended {
        return Err(unsupported());
    }
    // SAFETY: V1, a context that says so is at the end of the extension, which was made with it.
    let extension = unsafe { context.byte_sub(mem::offset_of!(context_extension, context)) };
    let extension = extension.cast::<context_extension>();
    // SAFETY: V2, the size is always there.
    let bytes = unsafe { (*extension.as_ptr()).sz };
    if bytes < size_of::<context_extension>() {
        return Err(unsupported());
    }
    // SAFETY: V1, the extension is as long as it says.
    let query = unsafe { (*extension.as_ptr()).query_device_ex };
    let query = query.ok_or_else(unsupported)?;
    // SAFETY: V3, all of its fields may be zero.
    let mut attributes: ibv_device_attr_ex = unsafe { mem::zeroed() };
    // SAFETY: V3.
    let result = unsafe { query(context.as_ptr(), ptr::null(), &raw mut attributes, size_of::<ibv_device_attr_ex>()) };
    if result == 0 { Ok(attributes) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// The addresses of ports that are connected.
fn addresses_of(library: &Library, context: NonNull<context>) -> Result<Vec<Address>, (&'static str, io::Error)> {
    // SAFETY: V3, all of its fields may be zero.
    let none: ibv_gid_entry = unsafe { mem::zeroed() };
    let mut entries = vec![none; ADDRESSES_MAX];
    let (into, room, each) = (entries.as_mut_ptr(), entries.len(), size_of::<ibv_gid_entry>());
    // SAFETY: V3.
    let found = unsafe { (library.query_gid_table)(context.as_ptr(), into, room, 0, each) };
    let Ok(found) = usize::try_from(found) else {
        return Err(("ibv_query_gid_table", io::Error::from_raw_os_error(-found as i32)));
    };
    let mut addresses = Vec::new();
    for entry in &entries[..found] {
        let (Ok(port), Ok(index)) = (u8::try_from(entry.port_num), u8::try_from(entry.gid_index)) else { continue };
        // SAFETY: V3, all of its fields may be zero.
        let mut attributes: ibv_port_attr = unsafe { mem::zeroed() };
        // SAFETY: V3.
        let result = unsafe { (library.query_port)(context.as_ptr(), port, &raw mut attributes) };
        if result != 0 {
            return Err(("ibv_query_port", io::Error::from_raw_os_error(result)));
        }
        if attributes.state == PORT_ACTIVE {
            addresses.push(Address {
                port,
                index,
                // SAFETY: V3, sixteen bytes are a field that is always there.
                gid: unsafe { entry.gid._bindgen_opaque_blob }.0,
                lid: attributes.lid,
                mtu: attributes.active_mtu as u8,
                stays_in_segment: entry.gid_type == GID_TYPE_ROCE_V1,
            });
        }
    }
    Ok(addresses)
}
