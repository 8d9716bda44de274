//! The Anthropic Messages API: its operations, its usage counts, its errors.

pub mod bounds;
pub mod classify;
pub mod error;
pub mod limits;
pub mod session;
pub mod start;
pub mod surface;
pub mod usage;
