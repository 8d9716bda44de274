//! The router as a real process on loopback, in front of a scripted upstream. No Kubernetes, no network.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod admin;
#[cfg(test)]
mod bills;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod budgeted;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod issued;
#[cfg(test)]
mod ledger_crashes;
#[cfg(test)]
mod lost_ledger;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod power_cuts;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod refused_ahead;
#[cfg(test)]
mod shared_ledger;
#[cfg(test)]
mod shared_tokens;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod usage_log;
