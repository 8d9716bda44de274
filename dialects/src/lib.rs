//! The wire formats of LLM vendors: what a request asks for, what an answer used, how a refusal looks.
//!
//! This crate does no I/O and knows no time. It observes bytes and never changes them: a request is
//! scanned and an answer is watched, both without building a tree, and both within bounded memory.
#![warn(missing_docs)]

pub mod anthropic;
pub mod facts;
pub mod sse;
