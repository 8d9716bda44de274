//! The whole data path in one process: a raw client, a data plane, a raw vendor.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]

mod budgets;
mod endings;
mod failover;
mod heads;
mod keep_alive;
mod leaving;
mod pace;
mod queueing;
mod refusals;
mod renewal;
mod router;
mod sessions;
mod starts;
mod swap;
mod vendor;
