//! Pools, messages, routes and the endpoints that carry packet descriptors between instances.
#![forbid(unsafe_code)]
