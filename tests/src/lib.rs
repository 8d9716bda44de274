//! Fakes, harnesses and whole-system tests.

pub mod caller;
pub mod cluster;
pub mod disk;
pub mod fakes;
pub mod gateway;
pub mod proof;
pub mod redis;
pub mod router;
