//! How much shared memory a security domain gets, as numbers of slots of five sizes.

use schemars::JsonSchema;
use serde::Serialize;

use crate::quantity::ByteCount;

/// The slot sizes in bytes, smallest first; [`PoolSizes::counts`] is in this order.
pub const SLOT_BYTES: [u64; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// The fields of a pool in manifests and settings, in the order of [`SLOT_BYTES`].
pub(crate) const POOL_FIELDS: [&str; 5] = ["4Ki", "16Ki", "64Ki", "256Ki", "1Mi"];

/// The most slots of one size.
pub const SLOTS_PER_SIZE_MAX: u32 = 65_536;

/// The most bytes that one pool may have: 16 GiB.
pub const POOL_BYTES_MAX: u64 = 16 << 30;

/// How many slots of each size a pool has. The default is 1024, 256, 128, 64 and 64: 96 MiB together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, default)]
pub struct PoolSizes {
    /// Slots of 4 KiB. Every message has one slot as its head, mostly of this size, so there is at least one.
    #[serde(rename = "4Ki")]
    #[schemars(range(min = 1, max = SLOTS_PER_SIZE_MAX))]
    pub slots_4ki: u32,
    /// Slots of 16 KiB.
    #[serde(rename = "16Ki")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_16ki: u32,
    /// Slots of 64 KiB.
    #[serde(rename = "64Ki")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_64ki: u32,
    /// Slots of 256 KiB.
    #[serde(rename = "256Ki")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_256ki: u32,
    /// Slots of 1 MiB.
    #[serde(rename = "1Mi")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_1mi: u32,
}

impl Default for PoolSizes {
    fn default() -> Self {
        Self::from_counts([1024, 256, 128, 64, 64])
    }
}

impl PoolSizes {
    /// The pool with these numbers of slots, in the order of [`SLOT_BYTES`].
    #[must_use]
    pub const fn from_counts(counts: [u32; 5]) -> Self {
        let [slots_4ki, slots_16ki, slots_64ki, slots_256ki, slots_1mi] = counts;
        Self { slots_4ki, slots_16ki, slots_64ki, slots_256ki, slots_1mi }
    }

    /// The numbers of slots, in the order of [`SLOT_BYTES`].
    #[must_use]
    pub const fn counts(&self) -> [u32; 5] {
        [self.slots_4ki, self.slots_16ki, self.slots_64ki, self.slots_256ki, self.slots_1mi]
    }

    /// The pool's size: the quota of its domain.
    #[must_use]
    pub fn total(&self) -> ByteCount {
        ByteCount::new(self.counts().iter().zip(SLOT_BYTES).map(|(&count, bytes)| u64::from(count) * bytes).sum())
    }
}

/// Numbers of slots that replace those of the node's settings; a size that is left out keeps the node's number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PoolOverride {
    /// Slots of 4 KiB.
    #[serde(rename = "4Ki", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = SLOTS_PER_SIZE_MAX))]
    pub slots_4ki: Option<u32>,
    /// Slots of 16 KiB.
    #[serde(rename = "16Ki", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_16ki: Option<u32>,
    /// Slots of 64 KiB.
    #[serde(rename = "64Ki", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_64ki: Option<u32>,
    /// Slots of 256 KiB.
    #[serde(rename = "256Ki", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_256ki: Option<u32>,
    /// Slots of 1 MiB.
    #[serde(rename = "1Mi", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = SLOTS_PER_SIZE_MAX))]
    pub slots_1mi: Option<u32>,
}

impl PoolOverride {
    /// The override with these numbers of slots, in the order of [`SLOT_BYTES`].
    #[must_use]
    pub const fn from_counts(counts: [Option<u32>; 5]) -> Self {
        let [slots_4ki, slots_16ki, slots_64ki, slots_256ki, slots_1mi] = counts;
        Self { slots_4ki, slots_16ki, slots_64ki, slots_256ki, slots_1mi }
    }

    /// The pool that comes of putting these numbers over those of `base`.
    #[must_use]
    pub fn over(&self, base: PoolSizes) -> PoolSizes {
        PoolSizes {
            slots_4ki: self.slots_4ki.unwrap_or(base.slots_4ki),
            slots_16ki: self.slots_16ki.unwrap_or(base.slots_16ki),
            slots_64ki: self.slots_64ki.unwrap_or(base.slots_64ki),
            slots_256ki: self.slots_256ki.unwrap_or(base.slots_256ki),
            slots_1mi: self.slots_1mi.unwrap_or(base.slots_1mi),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pool_is_96_mib() {
        assert_eq!(PoolSizes::default().total().to_string(), "96Mi");
    }

    #[test]
    fn an_override_keeps_what_it_leaves_out() {
        let half = PoolOverride { slots_1mi: Some(32), ..PoolOverride::default() };
        assert_eq!(half.over(PoolSizes::default()).counts(), [1024, 256, 128, 64, 32]);
    }
}
