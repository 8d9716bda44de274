//! HTTP/1.1 as a proxy needs it: heads that are judged and read where they lie, framing of bodies, and
//! buffers that go round. Both sides of the data path speak it, and so does the sidecar.
//!
//! Nothing here waits, and nothing knows a policy. One set of rules holds for both sides, stricter than any
//! parser behind or before it: parsers differ in what they forgive, and every difference is a way to smuggle
//! a second request past one of them.

pub(crate) mod body;
pub(crate) mod buffers;
pub(crate) mod chunked;
pub(crate) mod fields;
pub(crate) mod request;
pub(crate) mod response;
pub mod violation;
pub(crate) mod write;
