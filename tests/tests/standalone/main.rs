//! The router as a real process on loopback, in front of a scripted upstream. No Kubernetes, no network.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod bills;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod bytes;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod endings;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod heads;
#[cfg(test)]
mod ledger_crashes;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod stories;
