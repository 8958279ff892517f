//! What a function author links: requests in place, answers in place, calls to other functions.
#![forbid(unsafe_code)]
