//! The CustomResourceDefinitions, as objects and as the YAML that is committed and installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt as _;

use crate::manifests::shape::Shapes;
use crate::{RouterBudget, RouterProxy, RouterToken, UpstreamProvider};

/// All definitions, sorted by name.
pub fn all_crds() -> [CustomResourceDefinition; 4] {
    [RouterBudget::crd(), RouterProxy::crd(), RouterToken::crd(), UpstreamProvider::crd()]
}

/// File name and text of all that is in `crds/generated/`: the definitions, and the shapes of their specs.
///
/// # Errors
/// When a definition cannot be written, which a test rules out.
pub fn generated_files() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    let mut files = crd_files()?;
    let shapes = Shapes::generate(&all_crds()).map_err(<serde_yaml::Error as serde::ser::Error>::custom)?;
    files.push(("shapes.json".to_owned(), shapes));
    Ok(files)
}

/// File name and text of every definition.
///
/// # Errors
/// When a definition cannot be written as YAML, which a test rules out.
fn crd_files() -> Result<Vec<(String, String)>, serde_yaml::Error> {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn committed_definitions_are_those_of_the_kinds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
        let files = generated_files().unwrap();
        for (name, text) in &files {
            let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            assert!(&committed == text, "crds/generated/{name} is not what the kinds say; run `make crds`");
        }
        let count = std::fs::read_dir(&folder).unwrap().count();
        assert_eq!(count, files.len(), "crds/generated has a file that is not generated; delete it");
    }

    #[test]
    fn every_text_and_list_that_people_write_is_bounded() {
        for crd in all_crds() {
            let json = serde_json::to_value(&crd).unwrap();
            let spec = &json["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
            let mut unbounded = Vec::new();
            collect_unbounded("spec", spec, &mut unbounded);
            assert!(unbounded.is_empty(), "{}: {unbounded:?}", crd.spec.names.kind);
        }
    }

    fn collect_unbounded(path: &str, schema: &serde_json::Value, unbounded: &mut Vec<String>) {
        let bound = match schema["type"].as_str() {
            Some("string") if schema["enum"].is_null() => "maxLength",
            Some("array") => "maxItems",
            Some("object") if !schema["additionalProperties"].is_null() => "maxProperties",
            _ => "",
        };
        if !bound.is_empty() && schema[bound].is_null() {
            unbounded.push(path.to_owned());
        }
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            collect_unbounded(&format!("{path}.{name}"), field, unbounded);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                collect_unbounded(&format!("{path}.{inner}"), &schema[inner], unbounded);
            }
        }
    }
}
