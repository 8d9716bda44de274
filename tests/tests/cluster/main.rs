//! What needs a real API server: schemas, and the operator at work. Pods are plain processes here.

#[cfg(test)]
#[cfg(test)]
mod budgets;
#[cfg(test)]
#[cfg(test)]
mod crashes;
#[cfg(test)]
#[cfg(test)]
mod harness;
#[cfg(test)]
#[cfg(test)]
mod install;
#[cfg(test)]
#[cfg(test)]
mod providers;
#[cfg(test)]
#[cfg(test)]
mod proxies;
#[cfg(test)]
#[cfg(test)]
mod quiet;
#[cfg(test)]
#[cfg(test)]
mod scene;
#[cfg(test)]
#[cfg(test)]
mod schemas;
#[cfg(test)]
#[cfg(test)]
mod tokens;
