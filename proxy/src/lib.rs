//! The proxy `la-router`: checks an agent's token, reserves its budget, puts the real credential on the
//! request, and streams the answer back byte for byte.
//!
//! [`app`] is the only module that wires the others together. It never talks to the Kubernetes API: what it
//! serves comes as files, flags or manifests through [`config`].

pub mod accounts;
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod data_dir;
mod faults;
pub mod forward;
pub mod harden;
pub mod http1;
pub mod ledger;
pub mod listener;
pub mod logs;
pub mod observe;
pub mod pipeline;
pub mod redis_link;
pub mod refresh;
pub mod refuse;
pub mod sandbox;
pub mod settings;
pub mod surface;
pub mod tokens;
pub mod upstream;
pub mod usage_log;
