//! Stage 9b: nobody else is left, and the credential of an account is being renewed: the request waits for it.

use std::time::Duration;

use super::choose::Chosen;
use super::forward::Job;
use crate::config::live::{AccountEntry, Fitness};
use crate::listener::client::Client;
use crate::refuse::{self, Refusal};

/// How long a request waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for a new credential of the first account that will have one. Nothing when there is none, or it did
/// not come in time.
///
/// # Errors
/// Why the request must end.
pub(super) async fn wait<'a>(job: Job<'a>, client: &mut Client) -> Result<Option<Chosen<'a>>, Refusal> {
    let wish = job.wish();
    let is_renewed = |account: &AccountEntry| {
        let is_unfit = matches!(account.fitness(wish.now), Fitness::Refused | Fitness::Expired);
        is_unfit && account.is_renewable() && wish.may(account)
    };
    let found = wish.way.stops().find_map(|stop| {
        stop.provider.accounts.iter().find(|account| is_renewed(account)).map(|account| (stop, account))
    });
    let Some((stop, account)) = found else { return Ok(None) };
    client.seat().begin_phase(u64::MAX);
    match client.race(job.worker.live.renewed(account, PATIENCE)).await {
        Ok(renewed) => Ok(renewed.and_then(|account| Chosen::renewed(job.wish(), stop, &account))),
        Err(end) => Err(refuse::ended(end, &stop.provider.name, "renew its credential")),
    }
}
