//! The accounts of a provider: what a vendor's answer says of one, when it may be used again, and which one a
//! request goes to.
//!
//! A dialect turns the head of every answer into a [`reading::Reading`] and the body of a refusal into a
//! [`Class`]; [`health::Health`] decides from them whether an account can be used for a model;
//! [`choice`] puts the usable ones in order, and [`affinity`] remembers which one a session is on. [`sharing`] is
//! what replicas tell each other of all that. Times are Unix seconds.

use std::fmt;
use std::sync::Arc;

pub mod affinity;
pub mod choice;
pub mod health;
pub mod reading;
pub mod sharing;

/// Which account: stable for as long as provider and account keep their names, the same on all replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(u64);

impl AccountId {
    /// The id of an account of a provider.
    pub fn of(provider: &str, account: &str) -> Self {
        Self((digest(&[provider, account]) >> 64) as u64)
    }

    /// The id with these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    pub fn bits(self) -> u64 {
        self.0
    }
}

/// What an error answer of a vendor means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The account has used up a limit, or cannot pay.
    Quota,
    /// The vendor has no capacity for the model; nothing is wrong with the account.
    Overload,
    /// The credential is not accepted.
    Auth,
    /// The request is too large for the model, or for the vendor.
    ContextTooLong,
    /// Any other mistake of the client.
    Client,
    /// The vendor's own fault, or an answer that nobody can read.
    Unknown,
}

impl Class {
    /// Whether the same request could be served by another account. A client's own mistake cannot.
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Quota | Self::Overload | Self::Auth | Self::Unknown => true,
            Self::ContextTooLong | Self::Client => false,
        }
    }
}

/// What a cooldown holds for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Every model.
    Account,
    /// The models of one [`family`].
    Family(&'static str),
    /// One model, by the id that the vendor was asked for.
    Model(Arc<str>),
}

impl Scope {
    /// Whether it holds for a model.
    pub fn covers(&self, model: &str) -> bool {
        match self {
            Self::Account => true,
            Self::Family(name) => family(model) == *name,
            Self::Model(name) => **name == *model,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account => f.write_str("account"),
            Self::Family(name) => write!(f, "family {name}"),
            Self::Model(name) => write!(f, "model {name}"),
        }
    }
}

/// The family of a model: `opus` for `claude-opus-4-5-20251101` and for `us.anthropic.claude-opus-4-5`. A model
/// of no known family is a family of its own, whatever its date.
pub fn family(model: &str) -> &str {
    let mut words = model.as_bytes().split(|b| !b.is_ascii_alphanumeric());
    words.find_map(known_family).unwrap_or_else(|| undated(model))
}

/// A family of models that a vendor has limits for, by its exact name, as it stands in the ids of its models.
pub fn known_family(name: &[u8]) -> Option<&'static str> {
    Some(match name {
        b"opus" => "opus",
        b"sonnet" => "sonnet",
        b"haiku" => "haiku",
        b"fable" => "fable",
        b"mythos" => "mythos",
        _ => return None,
    })
}

/// A model's id without the date at its end: `-20251101`, `@20251101` or `-2025-11-01`.
fn undated(model: &str) -> &str {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    if let Some((rest, date)) = model.rsplit_once(['-', '@'])
        && digits(date, 8)
    {
        return rest;
    }
    let mut parts = model.rsplitn(4, '-');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(day), Some(month), Some(year), Some(rest))
            if digits(day, 2) && digits(month, 2) && digits(year, 4) =>
        {
            rest
        }
        _ => model,
    }
}

/// 128 bits of SHA-256 over texts, each behind its length, so that no two lists of texts are the same bytes.
fn digest(texts: &[&str]) -> u128 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().map_or(0, |bytes| u128::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_is_found_wherever_it_stands_in_an_id() {
        for (model, expected) in [
            ("claude-opus-4-5-20251101", "opus"),
            ("claude-3-5-sonnet-20241022", "sonnet"),
            ("claude-haiku-4-5@20251001", "haiku"),
            ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "sonnet"),
            ("claude-fable-5", "fable"),
            ("claude-opus-4-6[1m]", "opus"),
            ("gpt-5.6-sol", "gpt-5.6-sol"),
            ("gpt-5-2025-08-07", "gpt-5"),
            ("claude-2-20231121", "claude-2"),
            ("magnum-opusculum", "magnum-opusculum"),
            ("-2025-08-07", ""),
            ("2025-08-07", "2025-08-07"),
            ("", ""),
        ] {
            assert_eq!(family(model), expected, "{model}");
        }
    }

    #[test]
    fn scope_covers_what_it_names_and_nothing_else() {
        let one = Scope::Model("claude-opus-4-5".into());
        assert!(one.covers("claude-opus-4-5") && !one.covers("claude-opus-4-5-20251101"));
        let family = Scope::Family("opus");
        assert!(family.covers("claude-opus-4-5") && !family.covers("claude-sonnet-4-5"));
        assert!(Scope::Account.covers("anything"));
    }

    #[test]
    fn names_that_are_glued_otherwise_are_other_accounts() {
        assert_ne!(AccountId::of("a", "bc"), AccountId::of("ab", "c"));
        assert_eq!(AccountId::of("a", "b"), AccountId::of("a", "b"));
    }
}
