//! Readers that read by themselves: what it takes is agreed upon over their connections.

use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError};

use ramet_rdma::{Device, OpenError, Paging, Responder};

use super::{Bound, Means};
use crate::descriptor::ForkDescriptor;
use crate::seeds::{Kept, Offer, Refusal, RegisterError, Registered, large_parts};
use crate::wire::direct::{Answer, Connected, Request, decode, encode};

/// Owns what a host's seeds are registered with: the device's context, and by it every domain, region and queue pair.
/// One is made for seeds whose readers may know of each other.
///
/// The device is opened when there is first need of it: until then no library is loaded.
pub struct Agent {
    name: Option<String>,
    device: OnceLock<Device>,
}

impl Agent {
    /// One that registers seeds with the device of a name, or else the first one that is connected.
    #[must_use]
    pub const fn new(name: Option<String>) -> Self {
        Self { name, device: OnceLock::new() }
    }

    /// The device, with which seeds of other hosts may be read, too.
    ///
    /// # Errors
    /// Why there is none.
    pub fn device(&self) -> Result<&Device, OpenError> {
        if let Some(device) = self.device.get() {
            return Ok(device);
        }
        let opened = Device::open(self.name.as_deref())?;
        Ok(self.device.get_or_init(|| opened))
    }

    fn connect(&self, seed: &Arc<Kept>, request: &Request) -> Result<(Connected, Responder), Failure> {
        let Request::Connect { endpoint, host, paging } = request else { return Err(Refusal::Senseless.into()) };
        let device = self.device()?;
        let paging = if device.pages_on_demand() { *paging } else { Paging::Pinned };
        let Offer { domain, canary, regions, pinnable } = offer(device, seed, paging)?;
        let mut responder = Responder::new(&domain, device.address(*host)).map_err(RegisterError::from)?;
        responder.connect(endpoint).map_err(RegisterError::from)?;
        let pinnable = pinnable.iter().map(|range| (range.start, range.bytes)).collect();
        Ok((Connected { endpoint: *responder.local(), paging, canary, regions, pinnable }, responder))
    }
}

fn offer(device: &Device, seed: &Arc<Kept>, paging: Paging) -> Result<Offer, Failure> {
    let (device, kept) = (device.clone(), Arc::clone(seed));
    let offer = seed.with_process(move |process| {
        let mut registered = kept.registered.lock().unwrap_or_else(PoisonError::into_inner);
        let registered = match &mut *registered {
            Some(registered) => registered,
            none => {
                let descriptor = ForkDescriptor::decode(&kept.descriptor).ok();
                let large = descriptor.as_ref().map(large_parts).unwrap_or_default();
                none.insert(Registered::new(&device, large)?)
            }
        };
        registered.offer(&device, process, paging)
    });
    Ok(offer??)
}

/// Why a reader does not read by itself.
enum Failure {
    /// It is nobody's who may.
    Refused(Refusal),
    /// It cannot.
    Unable(String),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<RegisterError> for Failure {
    fn from(error: RegisterError) -> Self {
        Self::Unable(error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Unable(error.to_string())
    }
}

impl Means for Agent {
    fn set_up(&self, seed: &Arc<Kept>, request: &[u8]) -> Result<(Vec<u8>, Option<Bound>), Refusal> {
        let request: Request = decode(request).map_err(|_| Refusal::Senseless)?;
        if let Request::Pin(start) = request {
            let kept = Arc::clone(seed);
            let pinned = seed.with_process(move |process| {
                let mut registered = kept.registered.lock().unwrap_or_else(PoisonError::into_inner);
                registered.as_mut().and_then(|registered| registered.pin(process, &kept.granted, start))
            })?;
            return Ok((encode(&Answer::Pinned(pinned)), None));
        }
        match self.connect(seed, &request) {
            Ok((connected, responder)) => Ok((encode(&Answer::Connected(connected)), Some(Box::new(responder)))),
            Err(Failure::Refused(refusal)) => Err(refusal),
            Err(Failure::Unable(why)) => {
                tracing::warn!(handle = %seed.handle, why, "a seed is read over a connection only");
                Ok((encode(&Answer::Unable(why)), None))
            }
        }
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Agent").field("device", &self.device).finish_non_exhaustive()
    }
}
