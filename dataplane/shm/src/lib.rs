//! Shared-memory segments, the slot ledger and SPSC lanes: the only unsafe code over shared memory.
