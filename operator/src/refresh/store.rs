//! The Secret that holds a login: read whole, and written only where nobody else has written since. One that is
//! deleted while its login is renewed is made anew, for as long as somebody names it.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use la_core::oauth::{Event, LoginFile};
use la_crds::compile::login_in;
use la_crds::upstream_provider::SecretRef;

use super::LoginName;

/// One login's Secret, as it was read last.
pub(super) struct Store {
    api: Api<Secret>,
    name: LoginName,
    found: Found,
    /// The last Secret that held the login, and under which key.
    held: Option<(Secret, String)>,
}

/// What was found when the Secret was read last.
enum Found {
    /// It cannot be read, or has changed since.
    Unknown,
    /// There is none.
    Nothing,
    /// It is there; whether it holds a login.
    Secret(Box<Secret>, Holds),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Login,
    NoLogin,
}

/// What came of storing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// The API server holds the login.
    Done,
    /// It does not so far.
    Failed,
    /// There is no place for it, and nobody wants one.
    Unwanted,
}

impl Store {
    pub(super) fn new(client: Client, name: LoginName) -> Self {
        let api = Api::namespaced(client, &name.secret.namespace);
        Self { api, name, found: Found::Unknown, held: None }
    }

    /// The login as it is stored now.
    pub(super) async fn read(&mut self) -> Event {
        self.found = Found::Unknown;
        let name = &self.name.secret;
        let secret = match self.api.get_opt(&name.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                self.found = Found::Nothing;
                return Event::Read(None);
            }
            Err(error) => {
                tracing::warn!(secret.name = %name, %error, "Secret {name} cannot be read");
                return Event::Unreadable;
            }
        };
        let reference = SecretRef { name: name.name.clone(), key: self.name.key.clone() };
        // What is wrong with it is told by the provider's conditions.
        match login_in(&secret, &reference) {
            Ok((key, login)) => {
                self.held = Some((secret.clone(), key));
                self.found = Found::Secret(Box::new(secret), Holds::Login);
                Event::Read(Some(login))
            }
            Err(_) => {
                self.found = Found::Secret(Box::new(secret), Holds::NoLogin);
                Event::Read(None)
            }
        }
    }

    /// Stores a login where the one that was read last stood, or stood before it was taken away, which only
    /// those who name it (`is_named`) would miss. Whatever the answer of the API server: only what it has said
    /// to hold counts.
    pub(super) async fn write(&mut self, login: &LoginFile, is_named: bool) -> Written {
        let Some((held, key)) = &self.held else { return Written::Failed };
        let put = |secret: &Secret| with_login(secret, key, login);
        let parameters = PostParams::default();
        let written = match &self.found {
            Found::Unknown => return Written::Failed,
            Found::Nothing | Found::Secret(_, Holds::NoLogin) if !is_named => return Written::Unwanted,
            // Carries the version that was read: the API server refuses it once there is a newer one.
            Found::Secret(secret, _) => self.api.replace(&secret.name_any(), &parameters, &put(secret)).await,
            Found::Nothing => self.api.create(&parameters, &put(&anew(held))).await,
        };
        let name = &self.name.secret;
        match written {
            Ok(stored) => {
                if matches!(self.found, Found::Nothing) {
                    tracing::warn!(
                        secret.name = %name,
                        "Secret {name} was deleted while its login was renewed; it was made anew, because an \
                         UpstreamProvider names it"
                    );
                }
                self.held = Some((stored.clone(), key.clone()));
                self.found = Found::Secret(Box::new(stored), Holds::Login);
                Written::Done
            }
            Err(error) if is_over(&error, &self.found) => Written::Unwanted,
            Err(error) => {
                tracing::error!(
                    secret.name = %name,
                    %error,
                    "renewed login cannot be stored in Secret {name} and would be lost with this process; trying again"
                );
                Written::Failed
            }
        }
    }

    /// The Secret that held the login last.
    pub(super) fn reference(&self) -> ObjectReference {
        self.held.as_ref().map(|(held, _)| held.object_ref(&())).unwrap_or_default()
    }
}

fn with_login(secret: &Secret, key: &str, login: &LoginFile) -> Secret {
    let mut wanted = secret.clone();
    let text = ByteString(login.text().expose().as_bytes().to_vec());
    wanted.data.get_or_insert_default().insert(key.to_owned(), text);
    wanted
}

/// A Secret as `held` was, of which nobody is the owner. Annotations are left behind: one of them may hold the
/// old login, as `kubectl apply` leaves it.
fn anew(held: &Secret) -> Secret {
    let metadata = ObjectMeta {
        name: held.metadata.name.clone(),
        namespace: held.metadata.namespace.clone(),
        labels: held.metadata.labels.clone(),
        ..ObjectMeta::default()
    };
    Secret { metadata, data: held.data.clone(), type_: held.type_.clone(), ..Secret::default() }
}

/// Whether nothing can be made there any more, because the namespace is gone or on its way out.
fn is_over(error: &kube::Error, found: &Found) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let is_ending = causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating");
    matches!(found, Found::Nothing) && (status.code == 404 || is_ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_that_is_made_anew_is_nobodys_and_holds_all_that_it_held() {
        let held: Secret = serde_json::from_value(serde_json::json!({
            "metadata": {
                "name": "login", "namespace": "team", "uid": "uid-1", "resourceVersion": "7", "labels": {"a": "b"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "canary"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}],
                "finalizers": ["example.com/x"],
            },
            "type": "Opaque", "immutable": true, "data": {"key": "b2xk", "other": "a2VwdA=="},
        }))
        .unwrap();
        let text = r#"{"accessToken":"sk-ant-oat01-new"}"#;
        let login = LoginFile::read(la_core::secret::Secret::new(text)).unwrap();
        let made = serde_json::to_value(with_login(&anew(&held), "key", &login)).unwrap();
        let metadata = serde_json::json!({"name": "login", "namespace": "team", "labels": {"a": "b"}});
        assert_eq!(made["metadata"], metadata);
        assert_eq!((&made["type"], &made["immutable"]), (&"Opaque".into(), &serde_json::Value::Null));
        assert_eq!(made["data"]["other"], "a2VwdA==");
        assert_eq!(with_login(&anew(&held), "key", &login).data.unwrap()["key"].0, text.as_bytes());
    }
}
