//! Names of link-assistant/router that mean nothing here, and what replaces them.

use super::lookup::Lookup;

const LATER: &str = "has no effect in this version of la-router";

const HEALTH: &str = "is now spec.health of an UpstreamProvider (--manifests)";

/// Exact names first, then prefixes that end in `*`.
const DROPPED: [(&str, &str); 29] = [
    ("UPSTREAM_API_FORMAT", "is not needed: the dialect follows from the path of each request"),
    ("ROUTING_MODE", "is gone: requests always go directly to the upstream"),
    ("CLAUDE_CLI_BIN", "is gone: no command-line program is ever run for a request"),
    ("EXPERIMENTAL_COMPATIBILITY", "is gone: it never had an effect"),
    ("STORAGE_POLICY", "is gone: tokens are kept in DATA_DIR/tokens.json"),
    ("ADMIN_PORT", "is now --admin-listen ADDRESS:PORT (ADMIN_LISTEN)"),
    ("ADMIN_HOST", "is now --admin-listen ADDRESS:PORT (ADMIN_LISTEN)"),
    ("ALLOW_ANONYMOUS_ADMIN", "is gone: without TOKEN_ADMIN_KEY use the admin socket in DATA_DIR"),
    ("AUDIT_LOG", "is gone: each request has one log line, see --request-log (REQUEST_LOG)"),
    ("DISABLE_OPENAI_API", "is not needed: this version has no OpenAI surface"),
    ("PROXY_PORT", "of cc-proxy is now ROUTER_PORT (--port)"),
    ("CLAUDE_CREDENTIALS_PATH", "of cc-proxy is now CLAUDE_CODE_HOME (--claude-code-home), a folder"),
    ("CLAUDE_SUBSCRIPTION_BASE_URL", "of cc-proxy is now UPSTREAM_BASE_URL (--upstream-base-url)"),
    ("CLAUDE_SUBSCRIPTION_ENABLED", "of cc-proxy is gone: give CLAUDE_CODE_HOME or ANTHROPIC_API_KEY"),
    (
        "ACCOUNT_ROUTING_STRATEGY",
        "is now spec.backend.anthropic.selection of an UpstreamProvider (--manifests)",
    ),
    ("ACCOUNT_COOLDOWN_SECS", HEALTH),
    ("ACCOUNT_MAX_COOLDOWN_SECS", HEALTH),
    ("ACCOUNT_REQUEST_LIMITS", LATER),
    ("ACCOUNT_PAUSE_AT_PERCENT", "is now stopAtUtilization of an UpstreamProvider (--manifests)"),
    ("SESSION_AFFINITY_TTL_SECS", "is now affinity.ttl of a RouterProxy's route (--manifests)"),
    ("LOGIN_MAX_SESSIONS", LATER),
    ("POOL_*", "is now retry of a RouterProxy's route (--manifests)"),
    ("MPP_*", LATER),
    ("ACTIVITYPUB_*", LATER),
    ("CRATER_*", LATER),
    ("GONKA_*", LATER),
    ("OPENAI_COMPATIBLE_*", LATER),
    ("GEMINI_OAUTH_CLIENT_SECRET", LATER),
    ("ADMIN_UI", "is gone: use the admin API or the command line"),
];

/// One sentence for each name that is set and means nothing here.
pub(super) fn warnings(lookup: &Lookup) -> Vec<String> {
    let mut found: Vec<String> = lookup.names().filter_map(warning).collect();
    found.sort();
    found.dedup();
    found
}

fn warning(name: &str) -> Option<String> {
    let (_, instead) = DROPPED.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == *pattern,
    })?;
    Some(format!("{name} {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_names_are_warned_about_and_ours_are_not() {
        let lookup = Lookup::of(&[
            ("STORAGE_POLICY", "both"),
            ("MPP_ENABLE", "true"),
            ("ROUTER_PORT", "1"),
            ("ROUTING_MODE", ""),
        ]);
        let said = warnings(&lookup);
        assert_eq!(
            said,
            [
                "MPP_ENABLE has no effect in this version of la-router",
                "STORAGE_POLICY is gone: tokens are kept in DATA_DIR/tokens.json",
            ]
        );
    }
}
