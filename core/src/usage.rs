//! What a vendor says a request used, in tokens.

use serde::{Deserialize, Serialize};

/// Tokens of one request or a sum of requests, as the vendor counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Input that was neither written to nor read from a prompt cache.
    pub input_tokens: u64,
    /// Input written to a prompt cache.
    pub cache_write_tokens: u64,
    /// Input read from a prompt cache.
    pub cache_read_tokens: u64,
    /// Output, hidden thinking included.
    pub output_tokens: u64,
}

impl Usage {
    /// All input: fresh, written to a cache, and read from one.
    pub fn total_input(&self) -> u64 {
        self.input_tokens.saturating_add(self.cache_write_tokens).saturating_add(self.cache_read_tokens)
    }

    /// The sum of two usages, saturating.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input_tokens: self.input_tokens.saturating_add(other.input_tokens),
            cache_write_tokens: self.cache_write_tokens.saturating_add(other.cache_write_tokens),
            cache_read_tokens: self.cache_read_tokens.saturating_add(other.cache_read_tokens),
            output_tokens: self.output_tokens.saturating_add(other.output_tokens),
        }
    }
}
