//! Ids are newtypes so that an instance can never be passed where a function is meant.
#![allow(missing_debug_implementations, reason = "the derives below add hidden types; every id derives Debug")]

use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            FromBytes, IntoBytes, Immutable, KnownLayout,
        )]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One running copy of a function, or one gateway worker: an index into the instance tables in the low
    /// 16 bits and an incarnation in the high 16, so that a late message never reaches a successor.
    /// Zero is nobody; as the owner of a slot it is the gateway.
    InstanceId(u32)
}
id! {
    /// A function, unique on the node across security domains. Zero is the gateway.
    FunctionId(u32)
}
id! {
    /// A security domain: one pool, one set of functions. Index into the domain table.
    DomainId(u32)
}
id! {
    /// A slot of a domain's pool.
    SlotIndex(u32)
}
id! {
    /// How often a slot was handed out; a stale descriptor names an old one.
    Generation(u32)
}
id! {
    /// One request, or one call, at the instance that waits for its answer.
    RequestId(u64)
}
id! {
    /// One immutable version of a chain's route table.
    RouteId(u32)
}

impl InstanceId {
    /// Nobody; the owner of a slot that is the gateway's.
    pub const NONE: InstanceId = InstanceId(0);

    /// The id of the `incarnation`-th instance that lives at `index`.
    #[must_use]
    pub const fn new(index: u16, incarnation: u16) -> Self {
        Self((incarnation as u32) << 16 | index as u32)
    }

    /// The place in the instance tables; unique among the living.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0 & 0xffff
    }
}

impl FunctionId {
    /// The gateway's workers.
    pub const GATEWAY: FunctionId = FunctionId(0);
}

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}
