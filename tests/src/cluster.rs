//! A real API server for tests, the real operator against it, and a pretend kubelet that runs real proxies.
//!
//! Everything blocks, listens on loopback only, lives in a directory of its own and ends with the test process,
//! however that ends. The whole node with a real kubelet is `tests/tests/e2e`.

mod api_server;
mod audit;
mod client;
mod components;
mod kubelet;
mod operator;
mod patience;
mod process;
mod volume;
mod watchdog;

pub use api_server::{Answer, ApiServer};
pub use audit::Write;
pub use client::{Client, Response};
pub use components::{component, la_operator, la_router};
pub use kubelet::Kubelet;
pub use operator::Operator;
pub use patience::{eventually, measure};
pub use process::Process;
