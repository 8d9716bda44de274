//! Reads everything that decides about one RouterToken. Asks the API server only for a Secret that is not
//! known to be as it should be.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt as _};
use la_core::id::{Subject, TokenId};
use la_core::secret::Secret;
use la_core::snapshot::audience_of;
use la_core::token::Claims;
use la_crds::RouterToken;
use la_crds::compile::{Admission, ObjectFault};
use la_crds::conditions::reason;
use la_crds::names::{
    ANNOTATION_ADOPT, ANNOTATION_CONTENT_HASH, ANNOTATION_TOKEN_ID, KEY_ANTHROPIC_AUTH_TOKEN,
    KEY_ANTHROPIC_BASE_URL, KEY_TOKEN, service_url,
};
use la_crds::router_token::{Output, ReclaimPolicy, TokenText};
use serde_json::Value;

use super::TokenError;
use super::decide::{Counted, Observed, ProxyState, SecretState};
use super::records;
use crate::clock;
use crate::controllers::budgets;
use crate::keys::Keys;
use crate::names::{KEY_ID_ANNOTATION, ObjectName, TOKEN_ANNOTATION};
use crate::proxies::spread;
use crate::resources::token::{Minted, data_hash};
use crate::resources::{Owner, is_as_wanted, sha256_hex};
use crate::shared::{Shared, proxy_of};

/// An observation, and the Secret to write if that is decided.
pub(super) struct Gathered<'a> {
    /// What decides.
    pub(super) observed: Observed<'a>,
    /// The Secret as it should be for the current id.
    pub(super) wanted: Option<WantedSecret>,
}

/// The Secret as it should be.
pub(super) struct WantedSecret {
    /// The Secret itself.
    pub(super) object: Value,
    /// Its hash, under which it is remembered as verified.
    pub(super) hash: String,
}

/// A Secret as the API server has just given it; the outer absence means that it was not asked.
pub(super) type Found = Option<Option<KubeSecret>>;

/// Observes `token`; `found` is what a step before has already read or written.
pub(super) async fn gather<'a>(
    shared: &Arc<Shared>,
    token: &'a RouterToken,
    found: &mut Found,
) -> Result<Gathered<'a>, TokenError> {
    let proxy = proxy_of(token);
    let keys = shared.keys.of(&proxy);
    let texts = token.status.as_ref().map(|status| status.tokens.as_slice()).unwrap_or_default();
    let current = records::current(texts);
    let wanted = match (&keys, current) {
        (Some(keys), Some(text)) => Some(wanted(token, &proxy, keys, text)?),
        _ => None,
    };
    let proxy_state = proxy_state(shared, token, &proxy, keys.as_deref());
    let secret = match proxy_state {
        ProxyState::Ready { .. } => secret_state(shared, token, wanted.as_ref(), found).await?,
        // Nothing will be minted, so the Secret need not be looked at.
        _ => SecretState::Free,
    };
    let since = current.and_then(|text| shared.published.live_since(&proxy, &text.id));
    let served = since.is_some_and(|order| shared.fleet.serves(&proxy, order));
    let observed = Observed {
        token,
        now: Timestamp::now(),
        fresh: TokenId::from_random(clock::random()?),
        proxy: proxy_state,
        secret,
        served,
        counted: counted(shared, token, &proxy),
    };
    Ok(Gathered { observed, wanted })
}

fn proxy_state(shared: &Shared, token: &RouterToken, name: &ObjectName, keys: Option<&Keys>) -> ProxyState {
    let reference = ObjectRef::new(&name.name).within(&name.namespace);
    let Some(proxy) = shared.stores.proxies.get(&reference) else { return ProxyState::Missing };
    let budgets = shared.stores.budgets_of(name);
    let labels = shared.stores.labels_of(&token.namespace().unwrap_or_default());
    let admission = Admission::new(&proxy, budgets.iter().map(Arc::as_ref));
    if let Err(faults) = admission.judge(token, labels.as_ref()) {
        return refusing(&faults);
    }
    keys.map_or(ProxyState::Keyless, |keys| ProxyState::Ready { key_id: keys.id().to_owned() })
}

fn refusing(faults: &[ObjectFault]) -> ProxyState {
    let reason = faults.first().map_or(reason::INVALID_FIELD, |fault| fault.reason);
    let told: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
    ProxyState::Refusing { reason, message: told.join("; ") }
}

/// What the pods of `proxy` count for the token, and for the RouterBudgets that cover it in what they serve.
fn counted(shared: &Shared, token: &RouterToken, proxy: &ObjectName) -> Counted {
    let Ok(subject) = subject(token, proxy) else { return Counted::default() };
    let newest = shared.published.newest(proxy);
    let record = newest.as_ref().and_then(|newest| {
        let tokens = &newest.snapshot.tokens;
        tokens.binary_search_by(|record| record.subject.cmp(&subject)).ok().and_then(|at| tokens.get(at))
    });
    let pools = record.iter().flat_map(|record| &record.pools);
    Counted {
        reported: shared.fleet.reports(proxy),
        own: spread::usage_of(shared, proxy, &subject),
        pools: pools.filter_map(|pool| spread::usage_of(shared, proxy, pool)).collect(),
        rolling: record.map(|record| budgets::rolling(&record.limits.budgets)).unwrap_or_default(),
    }
}

fn subject(token: &RouterToken, proxy: &ObjectName) -> Result<Subject, la_core::id::IdError> {
    Subject::of(&proxy.name, &token.namespace().unwrap_or_default(), &token.name_any())
}

/// The Secret for `text`: a function of key and record alone, so that a crash re-mints the very same text.
fn wanted(
    token: &RouterToken,
    proxy: &ObjectName,
    keys: &Keys,
    text: &TokenText,
) -> Result<WantedSecret, TokenError> {
    let claims = Claims {
        sub: subject(token, proxy)?.to_string(),
        jti: Some(TokenId::try_from(text.id.clone())?),
        aud: Some(audience_of(&proxy.to_string())),
        iat: text.not_before.0.as_second(),
        nbf: Some(text.not_before.0.as_second()),
        exp: text.not_after.0.as_second(),
    };
    let minted = keys.token.mint(&claims)?;
    let (namespace, name, uid) = identity(token);
    let spec = &token.spec;
    let secret = Minted {
        owner: Owner { kind: "RouterToken", namespace: &namespace, name: &name, uid: &uid },
        secret: &spec.secret_name,
        retain: spec.reclaim_policy == ReclaimPolicy::Retain,
        labels: &spec.secret_template.labels,
        annotations: &spec.secret_template.annotations,
        data: data(&spec.outputs, &minted, proxy),
        id: &text.id,
        key_id: keys.id(),
    };
    let object = secret.build();
    let hash = sha256_hex(object.to_string().as_bytes());
    Ok(WantedSecret { object, hash })
}

fn data(outputs: &[Output], text: &Secret, proxy: &ObjectName) -> BTreeMap<&'static str, Secret> {
    let mut data = BTreeMap::new();
    for output in outputs {
        match output {
            Output::Token => {
                data.insert(KEY_TOKEN, text.clone());
            }
            Output::AnthropicEnv => {
                data.insert(KEY_ANTHROPIC_BASE_URL, Secret::new(service_url(&proxy.name, &proxy.namespace)));
                data.insert(KEY_ANTHROPIC_AUTH_TOKEN, text.clone());
            }
        }
    }
    data
}

async fn secret_state(
    shared: &Arc<Shared>,
    token: &RouterToken,
    wanted: Option<&WantedSecret>,
    found: &mut Found,
) -> Result<SecretState, TokenError> {
    let name = ObjectName::new(&token.namespace().unwrap_or_default(), &token.spec.secret_name);
    if found.is_none() {
        if let Some(state) = wanted.and_then(|wanted| known_state(shared, &name, wanted, token)) {
            return Ok(state);
        }
        let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), &name.namespace);
        *found = Some(api.get_opt(&name.name).await?);
    }
    let secret = found.as_ref().and_then(Option::as_ref);
    let state = classify(secret, token, wanted.map(|wanted| &wanted.object));
    if let (SecretState::Ours { intact: true, as_wanted: true, .. }, Some(secret), Some(wanted)) =
        (&state, secret, wanted)
        && let Some(version) = secret.resource_version()
    {
        shared.verified.remember(name, version, wanted.hash.clone());
    }
    Ok(state)
}

/// The state of a Secret that has not changed since it was found to be as wanted.
fn known_state(
    shared: &Shared,
    name: &ObjectName,
    wanted: &WantedSecret,
    token: &RouterToken,
) -> Option<SecretState> {
    let metadata = shared.stores.secrets.get(&ObjectRef::new(&name.name).within(&name.namespace))?;
    let version = metadata.resource_version()?;
    if !shared.verified.is(name, &version, &wanted.hash) {
        return None;
    }
    let text = records::current(&token.status.as_ref()?.tokens)?.id.clone();
    let key_id = metadata.annotations().get(KEY_ID_ANNOTATION)?.clone();
    Some(SecretState::Ours { id: text, key_id, intact: true, as_wanted: true })
}

/// Whose a Secret is, and in what state. `wanted` is absent while no text is recorded.
fn classify(secret: Option<&KubeSecret>, token: &RouterToken, wanted: Option<&Value>) -> SecretState {
    let Some(secret) = secret else { return SecretState::Free };
    let (_, name, uid) = identity(token);
    let annotation = |key: &str| secret.annotations().get(key).cloned();
    let marked = annotation(TOKEN_ANNOTATION).is_some_and(|marked| marked == name);
    let controller = secret.owner_references().iter().find(|owner| owner.controller == Some(true));
    match controller {
        Some(owner) if owner.uid == uid => {}
        Some(owner) if marked && owner.kind == "RouterToken" && owner.name == name => {
            return SecretState::Leaving;
        }
        Some(owner) => {
            let why = format!("it is controlled by {} {}", owner.kind, owner.name);
            return SecretState::Foreign { why };
        }
        None if marked => {}
        None => return adoption(secret, token),
    }
    let written = annotation(ANNOTATION_CONTENT_HASH).unwrap_or_default();
    SecretState::Ours {
        id: annotation(ANNOTATION_TOKEN_ID).unwrap_or_default(),
        key_id: annotation(KEY_ID_ANNOTATION).unwrap_or_default(),
        intact: data_hash(secret.data.as_ref()) == written,
        as_wanted: wanted.is_some_and(|wanted| {
            serde_json::to_value(secret).is_ok_and(|found| is_as_wanted(&without_type(wanted), &found))
        }),
    }
}

/// `apiVersion` and `kind` are not part of what the client library gives back.
fn without_type(wanted: &Value) -> Value {
    let mut wanted = wanted.clone();
    if let Some(fields) = wanted.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
            && metadata.get("ownerReferences").and_then(Value::as_array).is_some_and(Vec::is_empty)
        {
            metadata.remove("ownerReferences");
        }
    }
    wanted
}

fn adoption(secret: &KubeSecret, token: &RouterToken) -> SecretState {
    let agreed = secret.annotations().get(ANNOTATION_ADOPT).is_some_and(|value| value == "true");
    let opaque = secret.type_.as_deref().is_none_or(|kind| kind == "Opaque");
    let why = match (token.spec.adopt, opaque, agreed) {
        (true, true, true) => return SecretState::Free,
        (false, ..) => {
            "it exists and is not ours; delete it, or set adopt and annotate it for adoption".to_owned()
        }
        (true, false, _) => "it is not of type Opaque".to_owned(),
        (true, true, false) => format!("it does not carry the annotation {ANNOTATION_ADOPT}: \"true\""),
    };
    SecretState::Foreign { why }
}

fn identity(token: &RouterToken) -> (String, String, String) {
    (token.namespace().unwrap_or_default(), token.name_any(), token.uid().unwrap_or_default())
}
