//! Carries out what was decided about one RouterToken.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource as _, ResourceExt as _};
use la_crds::RouterToken;
use la_crds::router_token::RouterTokenStatus;

use super::TokenError;
use super::decide::{Decision, Step};
use super::gather::{Found, WantedSecret};
use crate::controllers::status;
use crate::faults::{self, Point};
use crate::names::OBJECT_MANAGER;
use crate::shared::Shared;

/// Takes the decided step; gives the token as it is after it.
pub(super) async fn apply(
    shared: &Arc<Shared>,
    token: &RouterToken,
    decision: &Decision,
    (wanted, found): (Option<&WantedSecret>, &mut Found),
) -> Result<RouterToken, TokenError> {
    let after = match decision.step {
        Step::Issue => {
            let after = write_status(shared, token, &decision.status).await?;
            faults::reach(Point::AfterStatusIssuing);
            after
        }
        Step::Store => {
            let wanted = wanted.ok_or(TokenError::NothingToStore)?;
            *found = Some(Some(write_secret(shared, token, wanted).await?));
            shared.metrics.minted.inc();
            faults::reach(Point::AfterSecret);
            token.clone()
        }
        Step::Activate => {
            faults::reach(Point::BeforeActive);
            write_status(shared, token, &decision.status).await?
        }
        Step::Rest => write_status(shared, token, &decision.status).await?,
    };
    let object = token.object_ref(&());
    if decision.step == Step::Rest && decision.notes.is_empty() {
        shared.events.forget(&object);
    }
    // What is due once is told when the status that remembers it is written, and this step writes none.
    if decision.step != Step::Store {
        shared.events.publish(decision.notes.clone(), &object).await;
    }
    Ok(after)
}

/// Writes the status if it differs.
pub(super) async fn write_status(
    shared: &Shared,
    token: &RouterToken,
    status: &RouterTokenStatus,
) -> Result<RouterToken, TokenError> {
    Ok(status::write(&shared.client, token, token.status.as_ref(), status).await?)
}

async fn write_secret(
    shared: &Shared,
    token: &RouterToken,
    wanted: &WantedSecret,
) -> Result<KubeSecret, TokenError> {
    let namespace = token.namespace().unwrap_or_default();
    let api: Api<KubeSecret> = Api::namespaced(shared.client.clone(), &namespace);
    let parameters = PatchParams::apply(OBJECT_MANAGER).force();
    Ok(api.patch(&token.spec.secret_name, &parameters, &Patch::Apply(&wanted.object)).await?)
}
