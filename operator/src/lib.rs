//! The operator of la-router: RouterToken to Secret, UpstreamProvider to credentials, RouterProxy to pods.
//!
//! Reconciliation has one shape everywhere: gather what is known, decide purely, apply what was decided.
//! Only the holder of the lease reconciles. The operator never sees traffic: it tells a proxy what to serve
//! by a Secret, and learns from the proxy's admin port what it serves.

pub mod app;
pub mod args;
mod clock;
mod controllers;
mod events;
mod faults;
mod frames;
mod keys;
mod lease;
mod metrics;
mod names;
mod probes;
mod proxies;
mod published;
mod queue;
mod refresh;
mod resources;
mod secrets;
mod shared;
mod triggers;
mod verified;
mod watch;

pub use lease::LeaseError;
