//! Manifests in a folder, read by the same rules that the API server applies.
//!
//! Every fault of every file is reported at once: what is not in the schema, what breaks a rule of it, what
//! is there twice. Reading the files themselves is left to the caller, and so is what only shows when all
//! objects meet: [`crate::compile`] reports that, and [`Manifests::locate`] says in which file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::compile::ObjectFault;
use crate::names::{API_VERSION, GROUP};
use crate::rules::{self, Broken};
use crate::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};

mod core_kinds;
mod document;
mod object;
pub(crate) mod shape;
#[cfg(test)]
mod tests;

use object::Object;
use shape::Shapes;

/// The namespace of objects that name none, as with `kubectl`.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What a folder of manifests holds.
#[derive(Clone, Default)]
pub struct Manifests {
    /// The proxies.
    pub proxies: Vec<RouterProxy>,
    /// The providers.
    pub providers: Vec<UpstreamProvider>,
    /// The tokens.
    pub tokens: Vec<RouterToken>,
    /// The budgets that tokens share.
    pub budgets: Vec<RouterBudget>,
    /// Secrets by namespace and name.
    pub secrets: BTreeMap<(String, String), Secret>,
    /// Labels of every namespace that is named anywhere, by name. Each has `kubernetes.io/metadata.name`.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
    files: BTreeMap<Identity, String>,
}

/// Kind, namespace and name.
type Identity = (String, String, String);

/// What is wrong in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFault {
    /// The file.
    pub file: String,
    /// The object, as a person would name it: `RouterToken team-a/agent`; or `document 2`.
    pub object: String,
    /// The field in it, as a path; empty when the object as a whole is meant.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for ManifestFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: ", self.file, self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads manifests from pairs of file name and text.
///
/// # Errors
/// Every fault found, in the order of the files.
pub fn read(files: &[(String, String)]) -> Result<Manifests, Vec<ManifestFault>> {
    let Reading { manifests, faults, .. } = read_usable(files);
    if faults.is_empty() { Ok(manifests) } else { Err(faults) }
}

/// What could be read of manifests, and what could not.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Every faultless object.
    pub manifests: Manifests,
    /// Every fault found, in the order of the files.
    pub faults: Vec<ManifestFault>,
    /// Whether nobody can say what is missing: a document is not YAML at all, or a RouterBudget is faulty, so
    /// that the tokens it covers would go without it.
    pub is_partial: bool,
}

/// Reads manifests from pairs of file name and text, leaving out faulty objects.
pub fn read_usable(files: &[(String, String)]) -> Reading {
    let mut reader = Reader { shapes: Shapes::read(), ..Reader::default() };
    let mut is_partial = false;
    for (file, text) in files {
        for (number, document) in document::split(text).into_iter().enumerate() {
            match document {
                Ok(None) => {}
                Ok(Some(value)) => reader.take(Object::new(file, number.saturating_add(1), value)),
                Err(message) => {
                    is_partial = true;
                    let object = format!("document {}", number.saturating_add(1));
                    reader.faults.push(ManifestFault {
                        file: file.clone(),
                        object,
                        field: String::new(),
                        message,
                    });
                }
            }
        }
    }
    is_partial |= reader.lacks_budget;
    let (manifests, faults) = reader.finish();
    Reading { manifests, faults, is_partial }
}

impl Manifests {
    /// Namespace and name of every RouterToken in the files, faulty ones included.
    pub fn token_names(&self) -> impl Iterator<Item = (&str, &str)> {
        let tokens = self.files.keys().filter(|(kind, _, _)| kind == "RouterToken");
        tokens.map(|(_, namespace, name)| (namespace.as_str(), name.as_str()))
    }

    /// The fault of an object, with the file that the object is in.
    pub fn locate(&self, fault: &ObjectFault) -> ManifestFault {
        let identity = (fault.kind.to_owned(), fault.namespace.clone(), fault.name.clone());
        ManifestFault {
            file: self.files.get(&identity).cloned().unwrap_or_default(),
            object: format!("{} {}/{}", fault.kind, fault.namespace, fault.name),
            field: fault.field.clone(),
            message: fault.message.clone(),
        }
    }
}

/// Names what was read, and nothing that a Secret holds.
impl std::fmt::Debug for Manifests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

/// Manifests as they come in.
#[derive(Default)]
struct Reader {
    read: Manifests,
    faults: Vec<ManifestFault>,
    shapes: Shapes,
    lacks_budget: bool,
}

impl Reader {
    fn take(&mut self, mut object: Object<'_>) {
        match (object.api_version(), object.kind()) {
            (API_VERSION, "RouterToken") => {
                let shape = &self.shapes.router_token;
                let token = object.typed(shape, |token: &RouterToken| rules::router_token(&token.spec));
                self.keep(object, token, |read, _, token| read.tokens.push(token));
            }
            (API_VERSION, "RouterBudget") => {
                let shape = &self.shapes.router_budget;
                let budget = object.typed(shape, |budget: &RouterBudget| rules::router_budget(&budget.spec));
                self.lacks_budget |= !object.is_faultless();
                self.keep(object, budget, |read, _, budget| read.budgets.push(budget));
            }
            (API_VERSION, "UpstreamProvider") => {
                let shape = &self.shapes.upstream_provider;
                let provider = object.typed(shape, provider_rules);
                self.keep(object, provider, |read, _, provider| read.providers.push(provider));
            }
            (API_VERSION, "RouterProxy") => {
                let name = object.name().to_owned();
                let shape = &self.shapes.router_proxy;
                let proxy =
                    object.typed(shape, |proxy: &RouterProxy| rules::router_proxy(&name, &proxy.spec));
                self.keep(object, proxy, |read, _, proxy| read.proxies.push(proxy));
            }
            ("v1", "Secret") => {
                let secret = core_kinds::secret(&mut object);
                self.keep(object, secret, |read, (_, namespace, name), secret| {
                    read.secrets.insert((namespace, name), secret);
                });
            }
            ("v1", "Namespace") => {
                let labels = core_kinds::namespace(&mut object);
                self.keep(object, labels, |read, (_, _, name), labels| {
                    read.namespaces.entry(name).or_default().extend(labels);
                });
            }
            (version, "RouterToken" | "RouterBudget" | "UpstreamProvider" | "RouterProxy") => {
                let message = format!("is {version:?}, this la-router reads {API_VERSION} only");
                object.fault("apiVersion", message);
                self.faults.extend(object.into_faults());
            }
            (_, "") => {
                object.fault(
                    "kind",
                    "is missing; each document is one object with apiVersion, kind and metadata",
                );
                self.faults.extend(object.into_faults());
            }
            (version, kind) => {
                let message = format!(
                    "{version:?} {kind:?} is not read here; RouterToken, RouterBudget, UpstreamProvider and RouterProxy of {GROUP} are, and Secret and Namespace of v1"
                );
                object.fault("kind", message);
                self.faults.extend(object.into_faults());
            }
        }
    }

    /// Keeps what was read of `object`, or its faults. Either way its name is taken.
    fn keep<T>(
        &mut self,
        mut object: Object<'_>,
        found: Option<T>,
        put: impl FnOnce(&mut Manifests, Identity, T),
    ) {
        let identity = object.identity();
        if !identity.2.is_empty() {
            if let Some(first) = self.read.files.get(&identity) {
                let message = format!("there is one of this name in {first} already");
                object.fault("metadata.name", message);
            } else {
                self.read.files.insert(identity.clone(), object.file().to_owned());
            }
        }
        if identity.0 != "Namespace" {
            self.read.namespaces.entry(identity.1.clone()).or_default();
        }
        match found {
            Some(found) if object.is_faultless() => put(&mut self.read, identity, found),
            _ => self.faults.extend(object.into_faults()),
        }
    }

    fn finish(mut self) -> (Manifests, Vec<ManifestFault>) {
        let tokens = self.read.tokens.iter().filter_map(|token| {
            let wanted = (token.proxy_namespace(), token.spec.proxy_ref.name.as_str());
            self.proxy_missing("RouterToken", &token.metadata, wanted)
        });
        let budgets = self.read.budgets.iter().filter_map(|budget| {
            let wanted = (budget.proxy_namespace(), budget.spec.proxy_ref.name.as_str());
            self.proxy_missing("RouterBudget", &budget.metadata, wanted)
        });
        let unserved: Vec<_> = tokens.chain(budgets).collect();
        self.faults.extend(unserved);
        for (name, labels) in &mut self.read.namespaces {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.clone());
        }
        (self.read, self.faults)
    }

    /// A proxy with faults of its own is there, and reported already.
    fn proxy_missing(
        &self,
        kind: &str,
        meta: &ObjectMeta,
        (namespace, name): (&str, &str),
    ) -> Option<ManifestFault> {
        let wanted = ("RouterProxy".to_owned(), namespace.to_owned(), name.to_owned());
        if self.read.files.contains_key(&wanted) {
            return None;
        }
        let own = |part: &Option<String>| part.clone().unwrap_or_default();
        let identity = (kind.to_owned(), own(&meta.namespace), own(&meta.name));
        Some(ManifestFault {
            file: self.read.files.get(&identity).cloned().unwrap_or_default(),
            object: format!("{kind} {}/{}", identity.1, identity.2),
            field: "spec.proxyRef".to_owned(),
            message: format!("RouterProxy {namespace}/{name} is in none of the files"),
        })
    }
}

fn provider_rules(provider: &UpstreamProvider) -> Vec<Broken> {
    rules::upstream_provider(&provider.spec)
}
