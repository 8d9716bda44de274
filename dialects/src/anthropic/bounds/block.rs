//! Content blocks: what in them is not text.

use la_core::price::Caching;

use super::{FORMAT_TOKENS, Found, Unbounded, caching, elements, has, name};
use crate::facts::FactsError;
use crate::facts::cursor::{Cursor, usual_key};

/// Deepest nesting of content: an image in a document in a tool's result.
const MAX_LEVEL: u32 = 3;

/// Reads a `content` or `system`: a text, or blocks. `outer` arrays and objects are open around it, `level` of which
/// are contents.
pub(super) fn content<'a>(
    cursor: &mut Cursor<'a>,
    found: &mut Found<'a>,
    level: u32,
    outer: u32,
) -> Result<(), FactsError> {
    if level >= MAX_LEVEL {
        found.unbound(Unbounded::Ambiguous);
        return Ok(cursor.skip_value(outer)?);
    }
    elements(cursor, outer, |cursor| block(cursor, found, level, outer + 1))
}

/// What the members of a block say, in whatever order they come.
struct Block<'a> {
    /// Its type as written, without the quotes.
    kind: Option<&'a [u8]>,
    source: Option<Source<'a>>,
    /// What is in its `content`.
    inside: Found<'a>,
    caching: Caching,
    has_citations: bool,
    has_definition: bool,
    is_ambiguous: bool,
}

/// Where an image or a document comes from.
struct Source<'a> {
    kind: Option<&'a [u8]>,
    data_bytes: usize,
    inside: Found<'a>,
    is_ambiguous: bool,
}

fn block<'a>(
    cursor: &mut Cursor<'a>,
    found: &mut Found<'a>,
    level: u32,
    outer: u32,
) -> Result<(), FactsError> {
    if !cursor.take(b'{') {
        return Ok(cursor.skip_value(outer)?);
    }
    let mut block = Block {
        kind: None,
        source: None,
        inside: Found::inside(),
        caching: Caching::None,
        has_citations: false,
        has_definition: false,
        is_ambiguous: false,
    };
    cursor.usual_members(
        |cursor| usual_key!(cursor, "type", "text"),
        |cursor, key| block.read(cursor, key, level, outer + 1),
    )?;
    block.judge(found);
    Ok(())
}

impl<'a> Block<'a> {
    fn read(
        &mut self,
        cursor: &mut Cursor<'a>,
        key: &[u8],
        level: u32,
        outer: u32,
    ) -> Result<(), FactsError> {
        match key {
            b"type" => self.is_ambiguous |= !once(&mut self.kind, kind(cursor, outer)?),
            b"source" => {
                let source = source(cursor, level, outer)?;
                self.is_ambiguous |= source.is_ambiguous | self.source.replace(source).is_some();
            }
            b"content" => content(cursor, &mut self.inside, level + 1, outer)?,
            b"cache_control" => self.caching = self.caching.max(caching(cursor.value(outer)?)),
            b"citations" => self.has_citations |= cursor.value(outer)? != b"null",
            b"tool" | b"tool_changes" => {
                let value = cursor.value(outer)?;
                self.has_definition |= has(value, b"definition") || has(value, b"\\");
            }
            _ => cursor.skip_value(outer)?,
        }
        Ok(())
    }

    /// Says what the block comes to, now that all of it is known.
    fn judge(self, found: &mut Found<'a>) {
        found.cache(self.caching);
        if self.is_ambiguous {
            return found.unbound(Unbounded::Ambiguous);
        }
        match self.kind.unwrap_or_default() {
            b"text" | b"thinking" | b"redacted_thinking" | b"tool_use" | b"server_tool_use"
            | b"mcp_tool_use" | b"tool_removal" | b"mcp_tool_listing" | b"browser_state" | b"fallback" => {}
            b"tool_result" => found.absorb(self.inside),
            b"tool_reference" => found.references += 1,
            b"image" => match self.source {
                Some(source) => source.image(found),
                None => found.unbound(Unbounded::Content("image")),
            },
            b"document" => {
                found.added_tokens += if self.has_citations { FORMAT_TOKENS } else { 0 };
                match self.source {
                    Some(source) => source.document(found),
                    None => found.unbound(Unbounded::Content("document")),
                }
            }
            // Texts, whose blocks may be marked for caching.
            b"search_result" | b"mcp_tool_result" => {
                found.added_tokens += if self.has_citations { FORMAT_TOKENS } else { 0 };
                found.cache(self.inside.caching);
            }
            b"tool_addition" | b"compaction" if !self.has_definition => found.cache(Caching::OneHour),
            // Encrypted pages, documents in pages, references to tools: what an earlier answer brought along.
            b"web_search_tool_result"
            | b"web_fetch_tool_result"
            | b"tool_search_tool_result"
            | b"advisor_tool_result"
            | b"code_execution_tool_result"
            | b"bash_code_execution_tool_result"
            | b"text_editor_code_execution_tool_result" => found.is_window = true,
            b"container_upload" => found.unbound(Unbounded::File),
            other => found.unbound(Unbounded::Content(name(other))),
        }
    }
}

/// Reads the value of a `source`. That of a search result is a text.
fn source<'a>(cursor: &mut Cursor<'a>, level: u32, outer: u32) -> Result<Source<'a>, FactsError> {
    let mut source = Source { kind: None, data_bytes: 0, inside: Found::inside(), is_ambiguous: false };
    if !cursor.take(b'{') {
        cursor.skip_value(outer)?;
        return Ok(source);
    }
    let (mut has_data, inner) = (false, outer + 1);
    cursor.members(|cursor, key| -> Result<(), FactsError> {
        match key {
            b"type" => source.is_ambiguous |= !once(&mut source.kind, kind(cursor, inner)?),
            b"data" => {
                source.data_bytes = cursor.value(inner)?.len();
                source.is_ambiguous |= std::mem::replace(&mut has_data, true);
            }
            b"content" => content(cursor, &mut source.inside, level + 1, inner)?,
            _ => cursor.skip_value(inner)?,
        }
        Ok(())
    })?;
    Ok(source)
}

impl<'a> Source<'a> {
    fn image(self, found: &mut Found<'a>) {
        match self.kind.unwrap_or_default() {
            b"base64" => {
                found.data_bytes += self.data_bytes;
                found.images += 1;
            }
            b"url" => found.images += 1,
            b"file" => found.unbound(Unbounded::File),
            other => found.unbound(Unbounded::Content(name(other))),
        }
    }

    fn document(self, found: &mut Found<'a>) {
        match self.kind.unwrap_or_default() {
            b"text" => {}
            b"content" => found.absorb(self.inside),
            // Every page is an image and a text; how many there are is not known without decoding.
            b"base64" | b"url" => found.is_window = true,
            b"file" => found.unbound(Unbounded::File),
            other => found.unbound(Unbounded::Content(name(other))),
        }
    }
}

/// Reads the value of a `type`: a text as written, which matches nothing known if it has escapes.
pub(super) fn kind<'a>(cursor: &mut Cursor<'a>, outer: u32) -> Result<&'a [u8], FactsError> {
    let value = cursor.value(outer)?;
    Ok(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Fills a slot, and tells whether it was empty.
pub(super) fn once<T>(slot: &mut Option<T>, value: T) -> bool {
    slot.replace(value).is_none()
}
