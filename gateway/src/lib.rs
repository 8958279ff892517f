//! HTTP ingress to function chains.
#![forbid(unsafe_code)]
