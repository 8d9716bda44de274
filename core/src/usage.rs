//! What a vendor says a request used.

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

/// What decides the price of one request beside its [`Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Of the tokens written to a cache, those kept for five minutes.
    pub cache_write_5m_tokens: u64,
    /// Of the tokens written to a cache, those kept for an hour. Both may be less than all that was written:
    /// the vendor does not always say how long, and then the dearer lifetime is the safe one to assume.
    pub cache_write_1h_tokens: u64,
    /// Of the output, what was thinking.
    pub thinking_tokens: u64,
    /// Searches by the vendor's web search tool.
    pub web_search_requests: u64,
    /// Fetches by the vendor's web fetch tool.
    pub web_fetch_requests: u64,
    /// The tier that served the request.
    pub service_tier: Option<ServiceTier>,
    /// How fast it was served.
    pub speed: Option<Speed>,
    /// Where it was served.
    pub inference_geo: Option<InferenceGeo>,
}

/// The vendor's `service_tier`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceTier {
    /// `standard`.
    Standard,
    /// `priority`.
    Priority,
    /// `batch`.
    Batch,
    /// One that is not known here.
    Other,
}

/// The vendor's `speed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speed {
    /// `standard`.
    Standard,
    /// `fast`.
    Fast,
    /// One that is not known here.
    Other,
}

/// The vendor's `inference_geo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InferenceGeo {
    /// `global`, or `not_available` for models that cannot be held to a place.
    Global,
    /// `us`.
    Us,
    /// One that is not known here.
    Other,
}
