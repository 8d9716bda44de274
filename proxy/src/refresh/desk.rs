//! The desk of whoever takes care of one account: what is heard there, and what is shown.

use std::sync::Arc;
use std::time::Duration;

use la_core::oauth::Fingerprint;
use la_core::snapshot::credential_key;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::config::live::{LiveCell, Renewal, RenewalStage};

/// Longest sleep before the clock is looked at again, which may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long what changed may take to be served.
const SERVED_WITHIN: Duration = Duration::from_secs(1);

/// Whose login or identity it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Account {
    pub(super) provider: String,
    pub(super) name: String,
}

/// Somebody who asked for a renewal: held until there is nothing to do for now.
pub(super) type Asker = oneshot::Sender<()>;

/// Where one account is taken care of.
pub(super) struct Desk {
    pub(super) account: Account,
    /// Held until it is known who renews it.
    pub(super) unknown: Option<oneshot::Sender<()>>,
    pub(super) stop: watch::Receiver<bool>,
    asked: mpsc::Receiver<Asker>,
    asker: Option<Asker>,
    cell: Arc<LiveCell>,
    served: watch::Receiver<u64>,
    seen_serial: u64,
    seen_refused: Option<Fingerprint>,
    /// What others were shown last.
    pub(super) shown: Renewal,
}

/// What ends a wait.
pub(super) enum Heard {
    /// The time that was waited for has come.
    Due,
    /// Something else is served, of this account or of another.
    Changed,
    /// The vendor has refused this access token; said once of each.
    Refused(Fingerprint),
    /// A person wants it renewed.
    Asked,
    /// It is to end.
    Stopped,
}

impl Account {
    pub(super) fn key(&self) -> String {
        credential_key(&self.provider, &self.name)
    }
}

impl Desk {
    /// The desk of an account that `cell` serves.
    pub(super) fn new(
        account: Account,
        cell: Arc<LiveCell>,
        unknown: oneshot::Sender<()>,
        asked: mpsc::Receiver<Asker>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            account,
            unknown: Some(unknown),
            stop,
            asked,
            asker: None,
            served: cell.subscribe(),
            seen_serial: cell.load().serial(),
            cell,
            seen_refused: None,
            shown: Renewal::default(),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Lets go of whoever asked, and waits for what comes next, until `until_ms` (Unix milliseconds) at most.
    pub(super) async fn listen(&mut self, until_ms: Option<i64>) -> Heard {
        self.asker = None;
        loop {
            if let Some(heard) = self.heard() {
                return heard;
            }
            let left_ms = until_ms.map(|at_ms| at_ms.saturating_sub(now_ms()));
            if left_ms.is_some_and(|left_ms| left_ms <= 0) {
                return Heard::Due;
            }
            let left = left_ms.map_or(LOOK_EVERY, |ms| Duration::from_millis(ms.unsigned_abs()));
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                _ = self.served.changed() => {}
                Ok(()) = self.stop.changed() => return Heard::Stopped,
                Some(asker) = self.asked.recv() => {
                    self.asker = Some(asker);
                    return Heard::Asked;
                }
            }
        }
    }

    /// What the served accounts tell.
    fn heard(&mut self) -> Option<Heard> {
        let live = self.cell.load();
        let account = live.account(&self.account.provider, &self.account.name)?;
        let refused = account.refused_token().map(Fingerprint::of);
        if refused != self.seen_refused {
            self.seen_refused = refused;
            if let Some(token) = refused {
                return Some(Heard::Refused(token));
            }
        }
        let is_new = live.serial() != self.seen_serial;
        self.seen_serial = live.serial();
        is_new.then_some(Heard::Changed)
    }

    /// Waits until something else is served than `before`. When that is late, requests find it all the same, at the
    /// next look.
    pub(super) async fn served_anew(&mut self, before: u64) {
        let Self { cell, served, .. } = self;
        let anew = async { while cell.load().serial() == before && served.changed().await.is_ok() {} };
        let _ = tokio::time::timeout(SERVED_WITHIN, anew).await;
    }

    /// Shows others how it stands.
    pub(super) fn show(&mut self, renewal: Renewal) {
        self.cell.set_renewal(&self.account.provider, &self.account.name, renewal.clone());
        self.shown = renewal;
    }

    /// Shows that it is being renewed: requests that are refused meanwhile shall wait for the outcome.
    pub(super) fn show_underway(&mut self) {
        self.show(Renewal { stage: RenewalStage::Underway, ..self.shown.clone() });
    }
}

/// The wall clock in Unix milliseconds, as plans count.
pub(super) fn now_ms() -> i64 {
    i64::try_from(clock::unix_milliseconds()).unwrap_or(i64::MAX)
}
