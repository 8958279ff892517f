//! A protection domain: queue pairs read what was registered in their own, and nothing else.

use std::ptr::NonNull;
use std::sync::Arc;

use crate::VerbsError;
use crate::bindings::ibv_pd;
use crate::device::Device;

/// A protection domain. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Domain(Arc<Allocated>);

#[derive(Debug)]
struct Allocated {
    domain: NonNull<ibv_pd>,
    device: Device,
}

// SAFETY: V5.
unsafe impl Send for Allocated {}
// SAFETY: V5, a domain is not changed by what is made in it.
unsafe impl Sync for Allocated {}

impl Domain {
    /// Makes one.
    ///
    /// # Errors
    /// `ibv_alloc_pd`'s.
    pub fn new(device: &Device) -> Result<Self, VerbsError> {
        let opened = &device.0;
        // SAFETY: V2.
        let domain = unsafe { (opened.library.alloc_pd)(opened.context.as_ptr()) };
        let domain = NonNull::new(domain).ok_or_else(|| VerbsError::last("ibv_alloc_pd"))?;
        Ok(Self(Arc::new(Allocated { domain, device: device.clone() })))
    }

    /// The device that it is of.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    pub(crate) fn as_ptr(&self) -> *mut ibv_pd {
        self.0.domain.as_ptr()
    }

    pub(crate) fn handle(&self) -> u32 {
        // SAFETY: V2.
        unsafe { self.0.domain.as_ref() }.handle
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: V2, what was made in it held a clone.
        let _ = unsafe { (self.device.0.library.dealloc_pd)(self.domain.as_ptr()) };
    }
}
