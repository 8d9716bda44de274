//! Stage 8: the request as it goes out. Nothing of the client's head is in it but what is listed here.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::Full;
use memchr::memchr_iter;

use crate::config::live::Proof;
use crate::refuse::Refusal;
use crate::surface::{Found, Operation};
use crate::upstream::endpoint::Endpoint;

const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// Where API keys go, and where some clients put their token.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The version that is asked for when the client names none. Sampling parameters still exist in it.
const DEFAULT_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Without this beta the vendor answers 401 to an OAuth token.
const OAUTH_BETA: &str = "oauth-2025-04-20";

/// What the client's request becomes.
pub(super) fn request(
    found: &Found<'_>,
    endpoint: &Endpoint,
    proof: &Proof,
    inbound: &HeaderMap,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Refusal> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = match found.operation {
        Operation::Messages | Operation::CountTokens => Method::POST,
        Operation::Models | Operation::Model | Operation::Health | Operation::Root => Method::GET,
    };
    *request.uri_mut() = target(found, endpoint)?;
    *request.headers_mut() = headers(endpoint, proof, inbound);
    Ok(request)
}

fn target(found: &Found<'_>, endpoint: &Endpoint) -> Result<Uri, Refusal> {
    let path = &*found.upstream_path;
    match (&*endpoint.prefix, found.upstream_query.as_deref()) {
        ("", None) => path.parse(),
        (prefix, None) => format!("{prefix}{path}").parse(),
        (prefix, Some(query)) => format!("{prefix}{path}?{query}").parse(),
    }
    .map_err(|_| Refusal::Target)
}

fn headers(endpoint: &Endpoint, proof: &Proof, inbound: &HeaderMap) -> HeaderMap {
    // The client's fields, at most, and four of ours.
    let mut headers = HeaderMap::with_capacity(inbound.keys_len() + 4);
    headers.insert(HOST, endpoint.host_header.clone());
    match proof {
        Proof::Bearer(value) => headers.insert(AUTHORIZATION, value.clone()),
        Proof::ApiKey(value) => headers.insert(X_API_KEY, value.clone()),
    };
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let hop_by_hop = connection_names(inbound);
    let mut betas = Vec::new();
    for (name, value) in inbound {
        if !may_pass(name) || holds_credential(value.as_bytes()) || is_named(&hop_by_hop, name) {
            continue;
        }
        if name == ANTHROPIC_BETA {
            betas.push(value);
        } else {
            // Each is a single value; of a repeated one the first counts.
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
    headers.entry(ANTHROPIC_VERSION).or_insert(DEFAULT_VERSION);
    if let Some(beta) = merge(&betas, matches!(proof, Proof::Bearer(_))) {
        headers.insert(ANTHROPIC_BETA, beta);
    }
    headers
}

/// Whether a field of the client's may go upstream.
fn may_pass(name: &HeaderName) -> bool {
    if *name == CONTENT_TYPE || *name == ACCEPT || *name == USER_AGENT {
        return true;
    }
    if *name == ANTHROPIC_VERSION || *name == ANTHROPIC_BETA {
        return true;
    }
    let name = name.as_str();
    if name.starts_with("anthropic-") {
        return !speaks_of_credentials(name);
    }
    name == "x-app" || name.starts_with("x-stainless-") || name.starts_with("x-claude-code-")
}

/// Whether a vendor's field could select or carry an identity: that is the owner's to say, not the client's.
fn speaks_of_credentials(name: &str) -> bool {
    ["auth", "key", "token", "secret", "credential", "cookie", "organization", "workspace"]
        .iter()
        .any(|word| name.contains(word))
}

/// Whether a value holds one of our tokens, or a vendor's credential, wherever the client put it.
fn holds_credential(value: &[u8]) -> bool {
    // Both hold "sk", whose last letter is rare in what clients send.
    memchr_iter(b'k', value).any(|at| {
        let (before, after) = value.split_at_checked(at + 1).unwrap_or_default();
        (before.ends_with(b"la_sk") && after.starts_with(b"_"))
            || (before.ends_with(b"sk") && after.starts_with(b"-ant-"))
    })
}

/// The names in `connection`: fields meant for the next hop only (RFC 9110 §7.6.1).
fn connection_names(inbound: &HeaderMap) -> Vec<&[u8]> {
    let values = inbound.get_all(CONNECTION).iter();
    values.flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii).collect()
}

fn is_named(names: &[&[u8]], name: &HeaderName) -> bool {
    names.iter().any(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes()))
}

/// The client's betas as they are, and the one for OAuth if it is needed and missing.
fn merge(betas: &[&HeaderValue], is_oauth: bool) -> Option<HeaderValue> {
    let named = |value: &&HeaderValue| {
        value.as_bytes().split(|b| *b == b',').any(|beta| beta.trim_ascii() == OAUTH_BETA.as_bytes())
    };
    let append = is_oauth && !betas.iter().any(named);
    match (betas, append) {
        ([], false) => None,
        ([], true) => Some(HeaderValue::from_static(OAUTH_BETA)),
        ([one], false) => Some((*one).clone()),
        (several, append) => {
            let own = append.then_some(OAUTH_BETA.as_bytes());
            let all: Vec<&[u8]> = several.iter().map(|value| value.as_bytes()).chain(own).collect();
            HeaderValue::from_bytes(&all.join(&b","[..])).ok()
        }
    }
}
