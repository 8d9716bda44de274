//! The Anthropic Messages API: its operations, its usage counts, its errors.

pub mod bounds;
pub mod error;
pub mod surface;
pub mod usage;
