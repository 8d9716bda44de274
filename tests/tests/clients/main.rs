//! Real clients through a real router before the scripted upstream: Claude Code and the official SDKs.
//!
//! They are told nothing but a base URL and a token, and run in a network namespace that has only loopback, so
//! that no test can call out. Run by `make clients`, as root.

#[cfg(test)]
mod claude_code;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod sdks;
#[cfg(test)]
mod story;
