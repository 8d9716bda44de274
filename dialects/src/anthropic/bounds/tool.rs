//! Tool definitions: what the vendor adds for them, and which of them it runs.

use super::block::{kind, once};
use super::{Found, TOOL_PROMPT_TOKENS, Unbounded, caching, elements, name};
use crate::facts::FactsError;
use crate::facts::cursor::{Cursor, usual_key};

/// What stands around each definition in the prompt, beyond what its JSON comes to.
const AROUND_TOKENS: u64 = 32;

/// Tools that the client runs, with what the vendor adds for their definitions, in tokens.
///
/// Published (Anthropic's pricing page, read 2026-11-22): bash 325, text editor 700, computer 735 and up to
/// 499 in the system prompt, the computer toolset about 4,590, the browser toolset about 6,670 and 880 for
/// optional members. Not published for memory. Rounded up for tokenizers to come.
const CLIENT_TOOLS: [(&[u8], u64); 14] = [
    (b"custom", 0),
    (b"null", 0),
    (b"bash_20241022", 500),
    (b"bash_20250124", 500),
    (b"text_editor_20241022", 1_000),
    (b"text_editor_20250124", 1_000),
    (b"text_editor_20250429", 1_000),
    (b"text_editor_20250728", 1_000),
    (b"memory_20250818", 4_000),
    (b"computer_20241022", 2_000),
    (b"computer_20250124", 2_000),
    (b"computer_20251124", 2_000),
    (b"computer_toolset_20260801", 6_000),
    (b"browser_toolset_20260801", 10_000),
];

/// Levels that are open around the members of a tool.
const IN_TOOL: u32 = 3;

/// Reads the value of `tools`.
pub(super) fn tools<'a>(cursor: &mut Cursor<'a>, found: &mut Found<'a>) -> Result<(), FactsError> {
    let mut any = false;
    elements(cursor, 1, |cursor| {
        any = true;
        let from = cursor.at();
        tool(cursor, found)?;
        found.longest_tool = found.longest_tool.max(cursor.at() - from);
        Ok(())
    })?;
    found.added_tokens += if any { TOOL_PROMPT_TOKENS } else { 0 };
    Ok(())
}

fn tool<'a>(cursor: &mut Cursor<'a>, found: &mut Found<'a>) -> Result<(), FactsError> {
    if !cursor.take(b'{') {
        return Ok(cursor.skip_value(IN_TOOL - 1)?);
    }
    let mut of_type = None;
    cursor.usual_members(
        |cursor| usual_key!(cursor, "name", "description", "input_schema"),
        |cursor, key| -> Result<(), FactsError> {
            match key {
                b"type" if once(&mut of_type, kind(cursor, IN_TOOL)?) => {}
                b"type" => found.unbound(Unbounded::Ambiguous),
                b"cache_control" => found.cache(caching(cursor.value(IN_TOOL)?)),
                _ => cursor.skip_value(IN_TOOL)?,
            }
            Ok(())
        },
    )?;
    let of_type = of_type.unwrap_or(b"custom");
    match CLIENT_TOOLS.iter().find(|(known, _)| *known == of_type) {
        Some((_, added)) => found.added_tokens += added + AROUND_TOKENS,
        None => found.unbound(Unbounded::Tool(name(of_type))),
    }
    Ok(())
}
