//! Why a seed is not read.

use serde::{Deserialize, Serialize};

/// Why a seed has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Ending {
    /// Its lease was not renewed.
    #[error("its lease has expired")]
    Expired,
    /// It was taken back.
    #[error("it was revoked")]
    Revoked,
    /// Nobody was reading it, and its memory was needed for another.
    #[error("it was idle and made room for another")]
    Evicted,
    /// It was killed.
    #[error("its process was killed")]
    Died,
    /// Its host keeps no seeds any more.
    #[error("its host has stopped")]
    Stopped,
}

/// Why a seed is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// There is none of that name, or the key is another. Which of them is nobody's business.
    #[error("there is no such seed, or its key is another")]
    Stranger,
    /// There was one.
    #[error("the seed is no more: {0}")]
    Ended(Ending),
    /// It has as many readers as it may have.
    #[error("the seed has as many readers as it may have; try again later")]
    Busy,
    /// Not all of it may be read.
    #[error("the range is not all of the seed's own pages")]
    OutOfBounds,
    /// It is more than one read may ask for.
    #[error("the read asks for more than one may")]
    TooMuch,
    /// The kernel did not give its bytes.
    #[error("the seed's pages cannot be read")]
    Unreadable,
    /// Nobody may hold on to it for so long.
    #[error("the seed's host gives no lease that is as long as that; ask for a shorter one (`--lease`)")]
    Lease,
    /// What was said to the seed's host makes no sense to it.
    #[error("the seed's host was told what makes no sense to it")]
    Senseless,
}
