//! The Secret that holds a login: read whole, and written only where nobody else has written since.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use la_core::oauth::{Event, LoginFile};
use la_crds::compile::login_in;
use la_crds::upstream_provider::SecretRef;

use super::LoginName;

/// One login's Secret, as it was read last.
pub(super) struct Store {
    api: Api<Secret>,
    name: LoginName,
    seen: Option<(Secret, String)>,
}

impl Store {
    pub(super) fn new(client: Client, name: LoginName) -> Self {
        let api = Api::namespaced(client, &name.secret.namespace);
        Self { api, name, seen: None }
    }

    /// The login as it is stored now.
    pub(super) async fn read(&mut self) -> Event {
        self.seen = None;
        let name = &self.name.secret;
        let secret = match self.api.get_opt(&name.name).await {
            Ok(Some(secret)) => secret,
            Ok(None) => return Event::Read(None),
            Err(error) => {
                tracing::warn!(secret.name = %name, %error, "Secret {name} cannot be read");
                return Event::Unreadable;
            }
        };
        let reference = SecretRef { name: name.name.clone(), key: self.name.key.clone() };
        // What is wrong with it is told by the provider's conditions.
        match login_in(&secret, &reference) {
            Ok((key, login)) => {
                self.seen = Some((secret, key));
                Event::Read(Some(login))
            }
            Err(_) => Event::Read(None),
        }
    }

    /// Stores a login where the one that was read last stood; says whether it is stored. Whatever the answer
    /// of the API server: only what it has said to hold counts.
    pub(super) async fn write(&mut self, login: &LoginFile) -> bool {
        let Some((secret, key)) = &self.seen else { return false };
        let mut wanted = secret.clone();
        let text = ByteString(login.text().expose().as_bytes().to_vec());
        wanted.data.get_or_insert_default().insert(key.clone(), text);
        // Carries the version that was read: the API server refuses it once there is a newer one.
        match self.api.replace(&secret.name_any(), &PostParams::default(), &wanted).await {
            Ok(stored) => {
                self.seen = Some((stored, key.clone()));
                true
            }
            Err(error) => {
                let name = &self.name.secret;
                tracing::error!(
                    secret.name = %name,
                    %error,
                    "renewed login cannot be stored in Secret {name} and would be lost with this process; trying again"
                );
                false
            }
        }
    }
}
