//! The lease that elects the one replica that reconciles.
//!
//! Guarantees: [`Leadership::won`] returns only while this replica holds the lease; [`Leadership::lost`]
//! returns before another replica can hold it, as long as clocks agree within a second.
//! Whoever loses the lease ends the process: a restart is the only state that is surely clean. What a
//! replica that was stopped in mid-write could still write is refused by the resource versions it carries.

use std::time::Duration;

use kube::{Client, Config};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};

/// How long the lease lasts after a renewal.
const DURATION_SECONDS: u64 = 15;

/// How long before its end it is renewed: every 5 s.
const GRACE_SECONDS: u64 = 10;

/// Longest wait for one answer about the lease.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long after a failed renewal the lease is surely still ours. A renewal is due 5 s after the last one
/// and fails within 3 s more; with these 6 s that is a second before the lease can be another's.
const SURELY_OURS: Duration = Duration::from_secs(6);

/// Between two tries after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Why the lease cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The lease object cannot be read or made.
    #[error("lease {name} cannot be used")]
    Unusable {
        /// Its name.
        name: String,
        /// Why.
        source: LeaseManagerError,
    },
    /// No client for it.
    #[error("no client for the lease")]
    Client(#[source] kube::Error),
}

/// This replica's claim to the lease.
pub(crate) struct Leadership {
    lease: LeaseManager,
}

impl Leadership {
    /// Prepares the claim of `identity` to the lease `namespace/name`.
    pub(crate) async fn prepare(
        mut config: Config,
        namespace: &str,
        name: &str,
        identity: &str,
    ) -> Result<Self, LeaseError> {
        config.connect_timeout = Some(ANSWER_TIMEOUT);
        config.read_timeout = Some(ANSWER_TIMEOUT);
        config.write_timeout = Some(ANSWER_TIMEOUT);
        let client = Client::try_from(config).map_err(LeaseError::Client)?;
        let lease = LeaseManagerBuilder::new(client, name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await
            .map_err(|source| LeaseError::Unusable { name: name.to_owned(), source })?;
        Ok(Self { lease })
    }

    /// Waits until this replica holds the lease.
    pub(crate) async fn won(&self) {
        loop {
            match self.lease.changed().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "lease could not be taken, retrying");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Keeps the lease; returns when it is lost, or could not be renewed for as long as it is surely ours.
    pub(crate) async fn lost(&self) {
        loop {
            match self.lease.changed().await {
                Ok(true) => continue,
                Ok(false) => return,
                Err(error) => tracing::warn!(%error, "lease could not be renewed, retrying"),
            }
            match tokio::time::timeout(SURELY_OURS, self.renewed()).await {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Gives the lease back, so that another replica need not wait for its end.
    pub(crate) async fn release(&self) {
        if let Err(error) = self.lease.release().await {
            tracing::warn!(%error, "lease was not given back; another replica takes it when it ends");
        }
    }

    /// Retries until a renewal worked and gives true, or until the lease is another's and gives false.
    ///
    /// A failing renewal ends at once with an error; a working one silently waits for the next.
    async fn renewed(&self) -> bool {
        loop {
            tokio::time::sleep(RETRY).await;
            match tokio::time::timeout(ANSWER_TIMEOUT + RETRY, self.lease.changed()).await {
                Err(_still_holding) => return true,
                Ok(Ok(holding)) => return holding,
                Ok(Err(error)) => tracing::warn!(%error, "lease could not be renewed, retrying"),
            }
        }
    }
}
