//! What needs a real API server: schemas, and the operator at work. Pods are plain processes here.

#[cfg(test)]
mod budgets;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod install;
#[cfg(test)]
mod providers;
#[cfg(test)]
mod proxies;
#[cfg(test)]
mod quiet;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod scene;
#[cfg(test)]
mod schemas;
#[cfg(test)]
mod tokens;
