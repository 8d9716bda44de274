//! What needs a real API server: schemas, and the operator at work. Pods are plain processes here.

mod harness;
mod install;
