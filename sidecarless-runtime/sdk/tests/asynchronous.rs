//! The async variant serves like the blocking one.
