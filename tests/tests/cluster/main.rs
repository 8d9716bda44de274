//! What needs a real API server: schemas, and the operator at work. Pods are plain processes here.

mod crashes;
mod harness;
mod install;
mod providers;
mod proxies;
mod quiet;
mod scene;
mod schemas;
mod tokens;
