//! The vendor's counts and errors, read from the small parts of an answer that hold them.

use std::borrow::Cow;

use la_core::usage::Usage;
use serde::Deserialize;

use super::{Fault, Observed};

/// The `usage` of a message; every field may be missing or null.
#[derive(Deserialize)]
pub(super) struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct MessageStart {
    pub(super) message: Holder,
}

/// Any object with a `usage` that may be missing or null.
#[derive(Deserialize)]
pub(super) struct Holder {
    pub(super) usage: Option<Counts>,
}

/// The `error` of an answer.
#[derive(Deserialize)]
pub(super) struct ErrorPart<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
}

#[derive(Deserialize)]
pub(super) struct ErrorEvent<'a> {
    #[serde(borrow)]
    pub(super) error: ErrorPart<'a>,
}

/// Longest error type that is kept; the vendor's have up to 22 characters.
const MAX_ERROR_TYPE_BYTES: usize = 64;

impl Observed {
    /// Takes over counts: a later value wins where there is one.
    pub(super) fn count(&mut self, counts: Option<Counts>) {
        let Some(counts) = counts else { return };
        let usage = self.usage.get_or_insert(Usage::default());
        let pairs = [
            (&mut usage.input_tokens, counts.input_tokens),
            (&mut usage.output_tokens, counts.output_tokens),
            (&mut usage.cache_write_tokens, counts.cache_creation_input_tokens),
            (&mut usage.cache_read_tokens, counts.cache_read_input_tokens),
        ];
        for (slot, value) in pairs {
            *slot = value.unwrap_or(*slot);
        }
    }

    /// Takes over the type of an error, if it is one: short, and made of lower-case letters and `_`.
    pub(super) fn fail(&mut self, error: &ErrorPart<'_>) {
        let kind = error.r#type.as_ref();
        let plain =
            kind.len() <= MAX_ERROR_TYPE_BYTES && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        self.error = Some(if plain { kind } else { "unknown_error" }.to_owned());
    }

    /// Notes what cannot be; the first counts.
    pub(super) fn fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }
}
