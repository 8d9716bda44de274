//! Which session a request belongs to, by what agents say of it.

use std::borrow::Cow;

use serde::Deserialize;

use crate::facts::Facts;

/// Longest id of a session, in bytes.
pub const MAX_BYTES: usize = 256;

/// Fields of a head that carry a session's id, the first one that is there decides. Claude Code, Codex, and
/// what other agents send.
pub const FIELDS: [&str; 4] =
    ["x-claude-code-session-id", "x-codex-session-id", "x-session-id", "session-id"];

/// The session of a request: from the fields of its head, names in lower case, else from its body. An id that
/// is empty, longer than 256 bytes, no UTF-8 or has control characters is none.
pub fn session<'a>(
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    facts: &Facts<'a>,
) -> Option<Cow<'a, str>> {
    from_head(fields).map(Cow::Borrowed).or_else(|| from_body(facts))
}

fn from_head<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Option<&'a str> {
    let mut best: Option<(usize, &str)> = None;
    for (name, value) in fields {
        let Some(rank) = FIELDS.iter().position(|field| field.as_bytes() == name) else { continue };
        let id = std::str::from_utf8(value.trim_ascii()).ok().filter(|id| is_good(id));
        if let Some(id) = id.filter(|_| best.is_none_or(|(other, _)| rank < other)) {
            best = Some((rank, id));
        }
    }
    best.map(|(_, id)| id)
}

fn from_body<'a>(facts: &Facts<'a>) -> Option<Cow<'a, str>> {
    let user = facts.user_id.and_then(unescaped).and_then(of_user_id);
    user.or_else(|| facts.sessions.iter().flatten().find_map(|id| unescaped(id).filter(|id| is_good(id))))
}

/// Claude Code's `metadata.user_id`: JSON with a `session_id`, or in older versions a text that ends in
/// `_session_` and the id. Any other names a user, who has many sessions.
fn of_user_id(user: Cow<'_, str>) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct User {
        session_id: String,
    }
    let id = if user.starts_with('{') {
        Cow::Owned(serde_json::from_str::<User>(&user).ok()?.session_id)
    } else {
        let at = user.rfind("_session_")? + "_session_".len();
        match user {
            Cow::Borrowed(user) => Cow::Borrowed(user.get(at..)?),
            Cow::Owned(user) => Cow::Owned(user.get(at..)?.to_owned()),
        }
    };
    Some(id).filter(|id| is_good(id))
}

/// What a JSON string says that is written so between its quotes.
fn unescaped(written: &str) -> Option<Cow<'_, str>> {
    if !written.contains('\\') {
        return Some(Cow::Borrowed(written));
    }
    serde_json::from_str(&format!("\"{written}\"")).ok().map(Cow::Owned)
}

fn is_good(id: &str) -> bool {
    (1..=MAX_BYTES).contains(&id.len()) && !id.chars().any(char::is_control)
}

#[cfg(test)]
mod tests;
