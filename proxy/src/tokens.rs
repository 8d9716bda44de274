//! Tokens of a router that stands alone: their records, the key that signs them, and their texts.
//!
//! No text is stored: it follows from key and record. The store is one file that changes whole; whoever
//! holds the data folder is its only writer.

mod agreement;
mod key;
mod mint;
mod outputs;
mod record;
mod rules;
mod store;

pub use key::{KeyFileError, Signing};
pub use mint::{Minter, Wanted};
pub use record::{Origin, Record, Shown};
pub use rules::IssueRules;
pub use store::{NewToken, StoreError, TokenStore};

/// The RouterProxy of a router that is configured by flags.
pub const LOCAL_PROXY: &str = "local/router";
