//! The Kubernetes kinds of la-router and their compilation into a snapshot.
//!
//! Everything here is pure: kinds with their schemas, the rules that bind them, and [`compile::compile`],
//! which the operator and manifests mode share. Reading files, watching a cluster and the clock are left
//! to those who call.
#![warn(missing_docs)]

mod ceilings;
pub mod compile;
pub mod conditions;
pub mod definitions;
pub mod limits;
pub mod manifests;
pub mod names;
mod pricing;
pub mod router_budget;
pub mod router_proxy;
pub mod router_token;
mod rules;
mod schema;
pub mod selector;
pub mod upstream_provider;

pub use definitions::{all_crds, all_crds_yaml};
pub use router_budget::{RouterBudget, RouterBudgetSpec, RouterBudgetStatus};
pub use router_proxy::{RouterProxy, RouterProxySpec, RouterProxyStatus};
pub use router_token::{RouterToken, RouterTokenSpec, RouterTokenStatus};
pub use upstream_provider::{UpstreamProvider, UpstreamProviderSpec, UpstreamProviderStatus};
