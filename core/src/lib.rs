//! The rules of la-router: what a token is, what a budget allows, what a proxy may serve.
//!
//! This crate does no I/O and knows no time: `now` and randomness are arguments. Everything here is
//! shared by the proxy, the operator and the compilation of Kubernetes kinds.
#![warn(missing_docs)]

pub mod account;
pub mod amount;
pub mod budget;
pub mod credential;
pub mod duration;
pub mod id;
pub mod oauth;
pub mod price;
pub mod refusals;
pub mod report;
pub mod secret;
pub mod snapshot;
pub mod token;
pub mod usage;
