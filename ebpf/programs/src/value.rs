//! Access to single fields of map values, which the supervisor and other CPUs may write at the same time.

/// Reads one field, once.
macro_rules! read_field {
    ($value:expr, $field:ident) => {{
        // SAFETY: P2.
        let field = unsafe { &raw const (*$value).$field };
        // SAFETY: P2; volatile because others may write at the same time.
        unsafe { core::ptr::read_volatile(field) }
    }};
}

/// The place of one field, to be written.
macro_rules! field {
    ($value:expr, $field:ident) => {{
        // SAFETY: P2.
        unsafe { &raw mut (*$value).$field }
    }};
}

pub(crate) use {field, read_field};
