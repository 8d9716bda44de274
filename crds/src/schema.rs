//! Parts of schemas that several kinds share: patterns and limits of the strings people write.

use schemars::{Schema, SchemaGenerator, json_schema};

use crate::{limits, pricing};

/// A Go-style duration as [`la_core::duration::parse`] reads it.
pub(crate) const DURATION: &str = "^([0-9]+(h|m|s|ms))+$";

/// Most characters of a duration. Enough for every sensible one, and keeps CEL cheap.
pub(crate) const DURATION_MAX: usize = 20;

/// A name that can be part of a DNS name without dots.
pub(crate) const LABEL_NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The name of an object.
pub(crate) const OBJECT_NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// A key of a Secret.
pub(crate) const SECRET_KEY: &str = "^[-._a-zA-Z0-9]+$";

/// A glob over model ids.
pub(crate) const MODEL_GLOB: &str = "^[-A-Za-z0-9._:@/*?{},!\\[\\]]+$";

/// The id of a federation rule at Anthropic.
pub(crate) const FEDERATION_RULE_ID: &str = "^fdrl_[-_A-Za-z0-9]+$";

/// The id of a service account at Anthropic.
pub(crate) const SERVICE_ACCOUNT_ID: &str = "^svac_[-_A-Za-z0-9]+$";

/// The id of a workspace at Anthropic.
pub(crate) const WORKSPACE_ID: &str = "^(default|wrkspc_[-_A-Za-z0-9]+)$";

/// A UUID.
pub(crate) const UUID: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";

/// The audience of an identity token.
pub(crate) const AUDIENCE: &str = "^[!-~]+$";

/// A model id.
pub(crate) const MODEL: &str = "^[-A-Za-z0-9._:@/]+$";

/// A positive Kubernetes quantity without fraction or sign.
pub(crate) const SIZE: &str = "^[1-9][0-9]*(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

/// A Kubernetes quantity that is not negative.
pub(crate) const QUANTITY: &str = "^([0-9]+([.][0-9]+)?)(Ki|Mi|Gi|Ti|Pi|Ei|m|k|M|G|T|P|E)?$";

/// An image reference.
pub(crate) const IMAGE: &str = "^[-A-Za-z0-9._:@/\\[\\]]+$";

/// A key of a label or an annotation.
pub(crate) const METADATA_KEY: &str = "^([-a-z0-9.]+/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$";

/// The value of a label.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// What a pattern asks for, in words.
pub(crate) fn explain(pattern: &str) -> String {
    let words = match pattern {
        DURATION => "must be a duration such as `24h`, `1h30m` or `250ms`",
        LABEL_NAME => {
            "must consist of lower-case letters, digits and `-`, with a letter or digit at both ends"
        }
        OBJECT_NAME => {
            "must consist of lower-case letters, digits, `-` and `.`, with a letter or digit at both ends"
        }
        SECRET_KEY => "must consist of letters, digits, `-`, `_` and `.`",
        MODEL_GLOB => "must consist of what model ids have, and `*`, `?`, `[…]`, `{a,b}`",
        MODEL => "must consist of letters, digits, `-`, `.`, `_`, `:`, `@` and `/`",
        FEDERATION_RULE_ID => "must be the id of a federation rule: `fdrl_…`",
        SERVICE_ACCOUNT_ID => "must be the id of a service account at the vendor: `svac_…`",
        WORKSPACE_ID => "must be the id of a workspace at the vendor: `wrkspc_…`, or `default`",
        UUID => "must be a UUID",
        AUDIENCE => "must be printable ASCII without spaces",
        SIZE => "must be a size such as `1Gi`, without fraction or sign",
        QUANTITY => "must be a quantity such as `500m` or `128Mi`",
        IMAGE => "must be an image reference",
        limits::BUDGET_NAME => "must consist of letters, digits, `-` and `_`",
        limits::AMOUNT => {
            "must be above zero and written in digits, in quotes, with at most 9 after a point for USD"
        }
        limits::TIME_ZONE => "must be a time zone of the IANA database such as UTC or Europe/Berlin",
        pricing::PER_MILLION => {
            "must be US dollars with digits and a point only, such as \"0.125\", at most six after the point"
        }
        METADATA_KEY => "must be a key of a label, such as `team` or `example.com/team`",
        LABEL_VALUE => "must be the value of a label: letters, digits, `-`, `_` and `.`",
        _ => return format!("must match {pattern}"),
    };
    words.to_owned()
}

/// How accounts share requests, as [`la_core::account::choice::Strategy`] is written.
pub(crate) fn strategy(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "enum": ["LeastUtilized", "RoundRobin", "LeastUsed", "Priority", "Weighted"],
    })
}

/// At most 32 labels.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
    })
}

/// At most 32 annotations of 4096 characters.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 4096 },
    })
}

/// At most 16 quantities by resource name.
pub(crate) fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": { "x-kubernetes-int-or-string": true, "maxLength": 32, "pattern": QUANTITY },
    })
}
