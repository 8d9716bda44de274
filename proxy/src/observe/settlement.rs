//! What one request came to: the facts that its log line, the metrics and every later account of it share.
//!
//! How they are decided is the business of `pipeline/settle.rs`; nothing here is decided again.

use std::sync::Arc;

use la_core::amount::Amounts;
use la_core::budget::Spent;
use la_core::price::Billed;
use la_core::usage::Usage;
use la_dialects::anthropic::usage::{Name, Quality};

use crate::config::live::AccountEntry;

/// How a request that was admitted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The vendor's answer came whole and was passed on.
    Complete,
    /// The vendor ended its stream with an error event.
    ErrorEvent,
    /// The vendor ended its answer in order, before the message was over.
    Truncated,
    /// The vendor refused the request and ran nothing.
    Refused,
    /// The vendor failed, and may have run something.
    Failed,
    /// Nothing of it reached the vendor.
    Unsent,
    /// The vendor's connection broke.
    BrokenOff,
    /// The vendor sent nothing for too long.
    Stalled,
    /// The answer took longer than is allowed.
    Overdue,
    /// The client went away.
    ClientGone,
    /// The token was revoked.
    Revoked,
    /// The token was suspended.
    Suspended,
    /// The router stopped.
    Stopped,
}

/// What one request came to.
#[derive(Clone)]
pub struct Settlement {
    /// How it ended.
    pub outcome: Outcome,
    /// How far what is charged is known.
    pub quality: Quality,
    /// What the vendor reported last, if anything.
    pub usage: Option<Usage>,
    /// The model that the vendor says it ran.
    pub model: Option<Name>,
    /// The account it ran on, and its provider.
    pub account: Arc<AccountEntry>,
    /// What was held for it.
    pub reserved: Amounts,
    /// What its budgets are charged, and the tokens of that by kind.
    pub charged: Spent,
    /// What decides its cost, where the vendor counted it.
    pub billed: Option<Billed>,
    /// What it cost, if a price is known.
    pub cost_nano_usd: Option<u64>,
    /// What was charged beyond the reservation.
    pub overrun: Amounts,
    /// Whether the vendor's counts could not be believed, and the reservation was charged instead.
    pub is_implausible: bool,
}

impl Outcome {
    /// What it is called in a log line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ErrorEvent => "error event",
            Self::Truncated => "truncated",
            Self::Refused => "vendor refused",
            Self::Failed => "vendor failed",
            Self::Unsent => "not sent",
            Self::BrokenOff => "upstream broke off",
            Self::Stalled => "upstream stalled",
            Self::Overdue => "took too long",
            Self::ClientGone => "client gone",
            Self::Revoked => "token revoked",
            Self::Suspended => "token suspended",
            Self::Stopped => "router stopped",
        }
    }
}

/// What a quality is called in a log line.
pub const fn quality_label(quality: Quality) -> &'static str {
    match quality {
        Quality::Complete => "complete",
        Quality::Partial => "partial",
        Quality::Unknown => "unknown",
    }
}
