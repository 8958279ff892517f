//! Versioned messages of the control sockets and the types of the admin API.
#![forbid(unsafe_code)]
