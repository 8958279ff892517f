//! The supervisor: manifests, instances, restarts, the admin API.
#![forbid(unsafe_code)]
