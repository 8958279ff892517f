//! Sandboxed processes: spawn, namespaces, seccomp, limits, pidfds.
