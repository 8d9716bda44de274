//! Stand-ins for what the router talks to, on raw TCP and without an HTTP library: a fake that shared one
//! with the router would share its mistakes.

mod answer;
pub mod bench;
mod bill;
mod connection;
pub mod control;
pub mod oauth;
mod request;
mod upstream;
pub mod vendor;

pub use answer::{Answer, Break, Ending, Framing, When};
pub use bill::{Bill, tokens};
pub use request::{Received, sha256};
pub use upstream::{FakeUpstream, Script, always, in_turn};
