//! One controller per kind: gather what is known, decide purely, apply what was decided.

pub(crate) mod budgets;
pub(crate) mod router_budget;
pub(crate) mod router_proxy;
pub(crate) mod router_token;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod upstream_provider;
