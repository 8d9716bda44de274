//! What a vendor bills for an answer, told from the bytes of it that were sent.
//!
//! This vendor's tokens are simple: four characters of text or of shown thinking are one, and thinking that is not
//! shown is counted when its block begins.

use serde_json::Value;

/// What was used so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Bill {
    /// Input as it was reported; none before.
    pub input_tokens: u64,
    /// The larger of what was reported and what was said.
    pub output_tokens: u64,
    /// Whether the final counts were reported.
    pub is_final: bool,
    /// Bytes of the body that were sent.
    pub sent_bytes: usize,
}

/// Characters of one token.
const TOKEN_CHARACTERS: usize = 4;

impl Bill {
    /// For a stream of which `sent` went out, with so many hidden tokens in every block of thinking.
    pub fn of_stream(sent: &[u8], hidden_tokens: u64) -> Self {
        let text = String::from_utf8_lossy(sent);
        let mut bill = Self { sent_bytes: sent.len(), ..Self::default() };
        let (mut characters, mut hidden, mut reported) = (0, 0, 0);
        for event in text.split_inclusive("\n\n") {
            let Some((_, data)) = event.split_once("data: ") else { continue };
            let whole = Some(data).filter(|data| data.ends_with("\n\n"));
            let Some(data) = whole.and_then(|data| serde_json::from_str::<Value>(data).ok()) else {
                // Without its empty line it is no event, but what came of it was said all the same.
                characters += part_of_delta(event).map_or(0, |said| said.chars().count());
                continue;
            };
            let count = |pointer: &str| data.pointer(pointer).and_then(Value::as_u64);
            let length = |pointer: &str| {
                data.pointer(pointer).and_then(Value::as_str).map_or(0, |said| said.chars().count())
            };
            bill.input_tokens = count("/message/usage/input_tokens").unwrap_or(bill.input_tokens);
            reported =
                count("/message/usage/output_tokens").or(count("/usage/output_tokens")).unwrap_or(reported);
            bill.is_final |= data.pointer("/delta/stop_reason").is_some_and(Value::is_string);
            characters += length("/delta/text") + length("/delta/thinking");
            hidden +=
                u64::from(data.pointer("/content_block/type") == Some(&"thinking".into())) * hidden_tokens;
        }
        bill.output_tokens = reported.max(tokens(characters) + hidden);
        bill
    }

    /// For an answer in one piece of which `sent` went out. The model had said all of it before its first byte.
    pub fn of_json(sent: &[u8], output_tokens: u64) -> Self {
        let whole: Option<Value> = serde_json::from_slice(sent).ok();
        let count = |pointer: &str| whole.as_ref()?.pointer(pointer)?.as_u64();
        let input_tokens = count("/usage/input_tokens").unwrap_or_default();
        Self { input_tokens, output_tokens, is_final: whole.is_some(), sent_bytes: sent.len() }
    }
}

/// The tokens of so many characters.
pub fn tokens(characters: usize) -> u64 {
    characters.div_ceil(TOKEN_CHARACTERS) as u64
}

/// The text in the event of a delta, as far as it came. This vendor says nothing that JSON escapes.
fn part_of_delta(event: &str) -> Option<&str> {
    let delta = event.starts_with("event: content_block_delta").then_some(event)?;
    let said = ["\"text\":\"", "\"thinking\":\""].into_iter().find_map(|key| delta.split_once(key));
    said?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::vendor::{Turn, stream};

    #[test]
    fn bill_rises_with_what_was_sent_to_what_was_reported() {
        let request = serde_json::json!({"model": "m", "thinking": {"type": "enabled"}});
        let turn = Turn { output_tokens: 120, ..Turn::asked_for_by(&request) };
        let body = stream(&turn).concat();
        let mut before = Bill::default();
        for end in 0..=body.len() {
            let bill = Bill::of_stream(&body.as_bytes()[..end], 50);
            assert!(bill.output_tokens >= before.output_tokens, "at {end}: {bill:?} after {before:?}");
            before = bill;
        }
        assert_eq!((before.input_tokens, before.output_tokens, before.is_final), (25, 120, true));
    }
}
