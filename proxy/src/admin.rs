//! The admin port and the admin socket: probes, metrics, what the process reports of itself, and tokens.
//!
//! Runs on the main thread's own runtime, so that nothing here disturbs requests. Probes and metrics are
//! open; the rest needs a credential on the port, and does not exist where none is configured. The socket
//! in the data folder can be opened by its owner only and asks for nothing.

mod access;
pub mod accounts;
mod answer;
mod refusals;
mod report;
mod routes;
mod serve;
mod socket;
mod status;
pub mod tokens;

pub use access::Access;
pub use routes::{Admin, router};
pub use serve::{Acceptor, serve};
pub use socket::{SOCKET_FILE, bind as bind_socket};
pub use status::{Phase, Status};
