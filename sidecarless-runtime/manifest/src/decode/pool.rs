//! Decodes numbers of slots, which manifests and settings write alike.

use super::{At, Fields, scalar};
use crate::pool::{POOL_BYTES_MAX, POOL_FIELDS, PoolOverride, PoolSizes, SLOTS_PER_SIZE_MAX};
use crate::quantity::ByteCount;
use crate::tree::Report;

/// The numbers that are written.
pub(crate) fn pool_override(at: At<'_>, report: &mut Report) -> Option<PoolOverride> {
    let mut fields = Fields::of(at, report, "a map of slot sizes to numbers of slots, such as 4Ki: 1024")?;
    let counts = POOL_FIELDS.map(|field| {
        let least = u32::from(field == POOL_FIELDS[0]);
        fields.get(field, report, |at, report| scalar::whole(at, report, least..=SLOTS_PER_SIZE_MAX))
    });
    fields.end(report);
    let pool = PoolOverride::from_counts(counts);
    let total = pool.over(PoolSizes::from_counts([0; 5])).total();
    check_total(at, report, total).then_some(pool)
}

/// The numbers that are written over the default ones.
pub(crate) fn pool_sizes(at: At<'_>, report: &mut Report) -> Option<PoolSizes> {
    let pool = pool_override(at, report)?.over(PoolSizes::default());
    check_total(at, report, pool.total()).then_some(pool)
}

fn check_total(at: At<'_>, report: &mut Report, total: ByteCount) -> bool {
    let fits = total.bytes() <= POOL_BYTES_MAX;
    if !fits {
        at.say(
            report,
            format!("the slots have {total} bytes together, expected at most {}", ByteCount::new(POOL_BYTES_MAX)),
        );
    }
    fits
}
