//! Connections to vendors: where they go, how they are made, and which are kept for the next request.
//!
//! Every thread has connections of its own and shares them with nobody. A connection is used for one
//! request at a time, the one used last is used first, and it is kept only after an answer that ended
//! cleanly.

pub mod connection;
pub mod connector;
pub mod endpoint;
mod pool;
pub mod stream;

pub use connection::Connection;
pub use connector::{ConnectError, connect};
pub use pool::Pool;
