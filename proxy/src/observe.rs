//! What a person can see of the data path: metrics and one log line per request.

pub mod health;
pub mod line;
pub mod metrics;
pub mod settlement;
