//! Loads SPROXY, attaches it, fills its maps and reads its statistics.
#![forbid(unsafe_code)]
