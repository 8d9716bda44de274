//! Stage 2: who is calling. Before the body is read, and with one text for every kind of bad token.
//!
//! The record is looked up before the signature is checked, because most bad tokens fail there and a
//! signature costs 45 µs. Whether the record was revoked is asked only after the signature is known to be
//! good, so that nobody learns which ids exist.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use la_core::token::{self, PREFIX};

use crate::clock;
use crate::config::live::{Live, Standing, TokenEntry};
use crate::http1::request::RequestHead;
use crate::listener::worker::Worker;
use crate::refuse::Refusal;

use super::admit::{self, Covered};

/// Most verified texts that a thread remembers.
const MAX_REMEMBERED: usize = 1_024;

/// Someone with a good token, and the snapshot in which it is good.
pub struct Caller {
    /// What the request is served from, to its end.
    pub live: Arc<Live>,
    /// The token.
    pub token: Arc<TokenEntry>,
}

/// Verified texts, by the end of their signatures.
#[derive(Default)]
pub struct Memo(RefCell<Remembered>);

#[derive(Default)]
struct Remembered {
    serial: u64,
    texts: HashMap<[u8; 8], Verified>,
}

struct Verified {
    text: Box<str>,
    good: Good,
}

#[derive(Clone)]
struct Good {
    token: Arc<TokenEntry>,
    /// `exp` of its claims.
    expires_at: i64,
}

/// Finds the caller by the one token among a request's credentials.
pub(super) fn caller(live: Arc<Live>, memo: &Memo, head: &RequestHead, now: i64) -> Result<Caller, Refusal> {
    let text = token_text(head).ok_or(Refusal::Token)?;
    let good = match memo.recall(text, live.serial()) {
        Some(good) => good,
        None => memo.remember(text, verify(text, &live, now)?, live.serial()),
    };
    let Good { token, expires_at } = good;
    if now >= expires_at || now >= token.not_after || now < token.not_before {
        return Err(Refusal::Token);
    }
    match token.standing {
        Standing::Good => Ok(Caller { live, token }),
        Standing::Revoked => Err(Refusal::Standing("revoked")),
        Standing::Suspended => Err(Refusal::Standing("suspended")),
    }
}

/// Refuses a caller whose budget is used up already, before anything is read for it.
pub(super) fn not_exhausted(worker: &Worker, covered: Covered<'_>) -> Result<(), Refusal> {
    match worker.ledger.exhausted(covered.covering, clock::unix_milliseconds()) {
        Some(why) => Err(admit::limited(worker, covered, why)),
        None => Ok(()),
    }
}

/// The one text among `authorization` and `x-api-key` that is a token of ours.
fn token_text(head: &RequestHead) -> Option<&str> {
    let mut found = None;
    for (name, value) in head.fields() {
        let text = match name {
            b"authorization" => bearer(value),
            b"x-api-key" => Some(value),
            _ => None,
        };
        let Some(text) = text.filter(|text| text.starts_with(PREFIX.as_bytes())) else { continue };
        if found.is_some_and(|other| other != text) {
            return None;
        }
        found = Some(text);
    }
    found.and_then(|text| std::str::from_utf8(text).ok())
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
}

fn verify(text: &str, live: &Live, now: i64) -> Result<Good, Refusal> {
    let parsed = token::parse(text).map_err(|_| Refusal::Token)?;
    let token = live.token(&parsed.id).cloned().ok_or(Refusal::Token)?;
    let snapshot = live.snapshot();
    let claims = parsed.verify(&snapshot.keys, &snapshot.audience, now).map_err(|_| Refusal::Token)?;
    Ok(Good { token, expires_at: claims.exp })
}

impl Memo {
    fn recall(&self, text: &str, serial: u64) -> Option<Good> {
        let remembered = self.0.borrow();
        if remembered.serial != serial {
            return None;
        }
        let verified = remembered.texts.get(&tail(text)?)?;
        (*verified.text == *text).then(|| verified.good.clone())
    }

    fn remember(&self, text: &str, good: Good, serial: u64) -> Good {
        let mut remembered = self.0.borrow_mut();
        if remembered.serial != serial || remembered.texts.len() >= MAX_REMEMBERED {
            remembered.texts.clear();
            remembered.serial = serial;
        }
        if let Some(tail) = tail(text) {
            remembered.texts.insert(tail, Verified { text: text.into(), good: good.clone() });
        }
        good
    }
}

/// The last 8 characters: 48 bits of the signature, which nobody can choose for a text that verifies.
fn tail(text: &str) -> Option<[u8; 8]> {
    text.as_bytes().last_chunk().copied()
}
