//! Stage 8: the request as it goes out. Nothing of the client's head is in it but what is listed here.

use memchr::memchr_iter;

use crate::config::live::Proof;
use crate::http1::body::Framing;
use crate::http1::request::RequestHead;
use crate::http1::write::{field, framing};
use crate::surface::{Found, Operation};
use crate::upstream::endpoint::Endpoint;

const ANTHROPIC_VERSION: &[u8] = b"anthropic-version";
const ANTHROPIC_BETA: &[u8] = b"anthropic-beta";

/// The version that is asked for when the client names none. Sampling parameters still exist in it.
const DEFAULT_VERSION: &[u8] = b"2023-06-01";

/// Without this beta the vendor answers 401 to an OAuth token.
const OAUTH_BETA: &[u8] = b"oauth-2025-04-20";

/// Writes the head of what the client's request becomes, for a body of `body_bytes`.
pub(super) fn head(
    out: &mut Vec<u8>,
    found: &Found<'_>,
    (endpoint, proof): (&Endpoint, &Proof),
    inbound: &RequestHead,
    body_bytes: usize,
) {
    request_line(out, found, endpoint);
    field(out, b"host", endpoint.host_header.as_bytes());
    match proof {
        Proof::Bearer(value) => field(out, b"authorization", value.as_bytes()),
        Proof::ApiKey(value) => field(out, b"x-api-key", value.as_bytes()),
    }
    field(out, b"accept-encoding", b"identity");
    let mut has_version = false;
    for (at, (name, value)) in inbound.fields().enumerate() {
        if !may_pass(name) || holds_credential(value) || inbound.is_hop_by_hop(name) {
            continue;
        }
        // Each is a single value; of a repeated one the first counts.
        if name != ANTHROPIC_BETA && !inbound.fields().take(at).any(|(earlier, _)| earlier == name) {
            has_version |= name == ANTHROPIC_VERSION;
            field(out, name, value);
        }
    }
    if !has_version {
        field(out, ANTHROPIC_VERSION, DEFAULT_VERSION);
    }
    betas(out, inbound, matches!(proof, Proof::Bearer(_)));
    if is_post(found.operation) {
        framing(out, Framing::Length(body_bytes as u64));
    }
    out.extend_from_slice(b"\r\n");
}

fn is_post(operation: Operation) -> bool {
    matches!(operation, Operation::Messages | Operation::CountTokens)
}

fn request_line(out: &mut Vec<u8>, found: &Found<'_>, endpoint: &Endpoint) {
    out.extend_from_slice(if is_post(found.operation) { b"POST " } else { b"GET " });
    out.extend_from_slice(endpoint.prefix.as_bytes());
    out.extend_from_slice(found.upstream_path.as_bytes());
    if let Some(query) = &found.upstream_query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes the client's betas as they are, and the one for OAuth if it is needed and missing.
fn betas(out: &mut Vec<u8>, inbound: &RequestHead, is_oauth: bool) {
    let start = out.len();
    let mut needs_oauth = is_oauth;
    let mut add = |beta: &[u8]| {
        let is_first = out.len() == start;
        out.extend_from_slice(if is_first { b"anthropic-beta: " } else { b"," });
        out.extend_from_slice(beta);
    };
    if !inbound.is_hop_by_hop(ANTHROPIC_BETA) {
        for value in inbound.all(ANTHROPIC_BETA).filter(|value| !holds_credential(value)) {
            needs_oauth &= !value.split(|b| *b == b',').any(|beta| beta.trim_ascii() == OAUTH_BETA);
            add(value);
        }
    }
    if needs_oauth {
        add(OAUTH_BETA);
    }
    if out.len() > start {
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a field of the client's may go upstream.
fn may_pass(name: &[u8]) -> bool {
    match name {
        b"content-type" | b"accept" | b"user-agent" | b"x-app" => true,
        ANTHROPIC_VERSION | ANTHROPIC_BETA => true,
        _ if name.starts_with(b"anthropic-") => !speaks_of_credentials(name),
        _ => name.starts_with(b"x-stainless-") || name.starts_with(b"x-claude-code-"),
    }
}

/// Whether a vendor's field could select or carry an identity: that is the owner's to say, not the client's.
fn speaks_of_credentials(name: &[u8]) -> bool {
    ["auth", "key", "token", "secret", "credential", "cookie", "organization", "workspace"]
        .iter()
        .any(|word| memchr::memmem::find(name, word.as_bytes()).is_some())
}

/// Whether a value holds one of our tokens, or a vendor's credential, wherever the client put it.
fn holds_credential(value: &[u8]) -> bool {
    // Most values are too short to. Both hold "sk", whose last letter is rare in what clients send.
    value.len() >= b"la_sk_".len()
        && memchr_iter(b'k', value).any(|at| {
            let (before, after) = value.split_at_checked(at + 1).unwrap_or_default();
            (before.ends_with(b"la_sk") && after.starts_with(b"_"))
                || (before.ends_with(b"sk") && after.starts_with(b"-ant-"))
        })
}
