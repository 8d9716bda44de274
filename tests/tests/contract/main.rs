//! What the house promises of itself: who may depend on whom, that the chart renders, that nothing generated has
//! drifted, that samples are valid, that documents name what exists and that files keep to the conventions. No
//! Kubernetes, no network; Helm only.

#[cfg(test)]
mod chart;
#[cfg(test)]
mod checkout;
#[cfg(test)]
mod conventions;
#[cfg(test)]
mod dependencies;
#[cfg(test)]
mod derived;
#[cfg(test)]
mod predecessors;
#[cfg(test)]
mod prose;
#[cfg(test)]
mod samples;
