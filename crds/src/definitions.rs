//! The CustomResourceDefinitions, as objects and as the YAML that is committed and installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt as _;

use crate::{RouterProxy, RouterToken, UpstreamProvider};

/// All definitions, sorted by name.
pub fn all_crds() -> [CustomResourceDefinition; 3] {
    [RouterProxy::crd(), RouterToken::crd(), UpstreamProvider::crd()]
}

/// File name and text of every definition: what `crds/generated/` holds.
///
/// # Errors
/// When a definition cannot be written as YAML, which a test rules out.
pub fn crd_files() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    all_crds()
        .into_iter()
        .map(|crd| {
            let name = format!("{}.yaml", crd.spec.names.plural);
            serde_yaml::to_string(&crd).map(|text| (name, text))
        })
        .collect()
}

/// All definitions as one YAML stream.
///
/// # Errors
/// When a definition cannot be written as YAML, which a test rules out.
pub fn all_crds_yaml() -> Result<String, serde_yaml::Error> {
    let texts: Vec<_> = crd_files()?.into_iter().map(|(_, text)| text).collect();
    Ok(texts.join("---\n"))
}
