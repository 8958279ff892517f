//! libibverbs, found when the program runs: it starts without.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use crate::bindings::{
    context, ibv_comp_channel, ibv_cq, ibv_device, ibv_gid_entry, ibv_mr, ibv_pd, ibv_port_attr, ibv_qp, ibv_qp_attr,
    ibv_qp_init_attr,
};
use crate::device::OpenError;

/// The name that rdma-core has given it since 2007.
const FILE: &str = "libibverbs.so.1";

macro_rules! functions {
    ($($name:ident = $symbol:literal ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions that are used.
        pub(crate) struct Library {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load() -> Result<Self, OpenError> {
                // SAFETY: V1, what it does when it is loaded is to look for its drivers.
                let library = unsafe { libloading::Library::new(FILE) }.map_err(OpenError::NoLibrary)?;
                // Devices may be open until the program ends.
                let library: &'static libloading::Library = Box::leak(Box::new(library));
                Ok(Self {
                    $($name: {
                        // SAFETY: V1, the function has this type in the headers.
                        let symbol = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        *symbol.map_err(OpenError::OldLibrary)?
                    },)*
                })
            }
        }
    };
}

functions! {
    get_device_list = "ibv_get_device_list" (*mut c_int) -> *mut *mut ibv_device;
    free_device_list = "ibv_free_device_list" (*mut *mut ibv_device);
    get_device_name = "ibv_get_device_name" (*mut ibv_device) -> *const c_char;
    open_device = "ibv_open_device" (*mut ibv_device) -> *mut context;
    close_device = "ibv_close_device" (*mut context) -> c_int;
    query_port = "ibv_query_port" (*mut context, u8, *mut ibv_port_attr) -> c_int;
    query_gid_table = "_ibv_query_gid_table" (*mut context, *mut ibv_gid_entry, usize, u32, usize) -> isize;
    alloc_pd = "ibv_alloc_pd" (*mut context) -> *mut ibv_pd;
    dealloc_pd = "ibv_dealloc_pd" (*mut ibv_pd) -> c_int;
    reg_mr = "ibv_reg_mr" (*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    dereg_mr = "ibv_dereg_mr" (*mut ibv_mr) -> c_int;
    create_comp_channel = "ibv_create_comp_channel" (*mut context) -> *mut ibv_comp_channel;
    destroy_comp_channel = "ibv_destroy_comp_channel" (*mut ibv_comp_channel) -> c_int;
    create_cq = "ibv_create_cq" (*mut context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    destroy_cq = "ibv_destroy_cq" (*mut ibv_cq) -> c_int;
    get_cq_event = "ibv_get_cq_event" (*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ack_cq_events = "ibv_ack_cq_events" (*mut ibv_cq, c_uint);
    create_qp = "ibv_create_qp" (*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    modify_qp = "ibv_modify_qp" (*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    destroy_qp = "ibv_destroy_qp" (*mut ibv_qp) -> c_int;
}

/// The library, loaded the first time that somebody asks.
pub(crate) fn library() -> Result<&'static Library, OpenError> {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    if let Some(library) = LIBRARY.get() {
        return Ok(library);
    }
    let loaded = Library::load()?;
    Ok(LIBRARY.get_or_init(|| loaded))
}
