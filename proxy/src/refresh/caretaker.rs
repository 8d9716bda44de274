//! One login in a folder: does what its [`Renewer`] says, and tells how it stands.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use la_core::oauth::{Action, Answer, Event, Fingerprint, LoginFile, Refused, Renewer, Standing};

use super::Shared;
use super::desk::{Desk, Heard, now_ms};
use super::right::{Followed, judge};
use super::store::{self, NotClaimed, Store};
use crate::accounts::fleet::{LoginLease, NotLeased};
use crate::config::live::{Renewal, RenewalStage};
use crate::credentials::{Found, HomeError};
use crate::faults::{self, Point};
use crate::observe::metrics::Refresh;

/// How often a login may have changed while the right to renew it was taken.
const LEASES_IN_A_ROW: usize = 3;

/// Renews one login for as long as its account is served.
pub(super) struct Caretaker {
    desk: Desk,
    home: PathBuf,
    shared: Rc<Shared>,
    store: Store,
    /// The sole right to renew it among processes that share a Redis.
    lease: Option<LoginLease>,
    /// Whether it was said that nobody can be asked for that.
    said_unknown: bool,
    file: PathBuf,
    /// Why the login is not renewed here.
    followed: Option<Followed>,
    /// Why it is not stored, while that is so.
    unstored: Option<String>,
    /// The token that was published last, and the one that was written here last.
    published: Option<Fingerprint>,
    written: Option<Fingerprint>,
}

impl Caretaker {
    pub(super) fn new(desk: Desk, home: PathBuf, shared: Rc<Shared>) -> Self {
        Self {
            desk,
            store: Store::new(home.clone()),
            lease: None,
            said_unknown: false,
            file: home.clone(),
            home,
            shared,
            followed: None,
            unstored: None,
            published: None,
            written: None,
        }
    }

    /// Goes on until told to stop, and then to the end of what was begun.
    pub(super) async fn run(mut self) {
        let (mut renewer, mut action) = Renewer::start(self.shared.plan(&self.desk.account));
        loop {
            let event = match action {
                Action::Read { exclusive } => self.read(exclusive, &mut renewer).await,
                Action::Post(login) => self.post(&login).await,
                Action::Store(login) => self.write(&login),
                Action::Publish(login) => self.publish(login, renewer.is_unstored()).await,
                Action::GiveUp(why) => self.give_up(why),
                Action::Warn { expires_at } => self.warn(expires_at),
                Action::Wait { until_ms } => {
                    if !renewer.is_unstored() {
                        self.store.release();
                        self.lease = None;
                        if self.desk.is_stopped() {
                            return;
                        }
                    }
                    self.wait(until_ms).await
                }
            };
            action = renewer.next(event, now_ms());
            self.tell(&renewer);
            self.desk.unknown = None;
        }
    }

    async fn read(&mut self, exclusive: bool, renewer: &mut Renewer) -> Event {
        if exclusive {
            match self.store.claim() {
                Ok(()) => {}
                Err(NotClaimed::Busy) => return Event::Busy,
                Err(NotClaimed::Failed(error)) => {
                    tracing::debug!("{} cannot be locked: {error}", self.home.display());
                    return Event::Busy;
                }
            }
        }
        let mut found = self.store.read().await;
        // What was renewed already is stored whoever else may renew it.
        if exclusive && !renewer.is_unstored() {
            found = match self.alone_with(found).await {
                Some(found) => found,
                None => return Event::Busy,
            };
        }
        match found {
            Ok(Found { file, login }) => {
                self.followed = self.judge(&file, &login).err();
                self.file = file;
                renewer.allow(self.followed.is_none());
                if exclusive {
                    faults::reach(Point::Claimed);
                }
                Event::Read(Some(login))
            }
            Err(HomeError::None { .. }) => Event::Read(None),
            Err(_) => Event::Unreadable,
        }
    }

    /// Takes the sole right to renew a login among the processes that share a Redis, and reads again what another
    /// may just have stored. Nothing when another has the right, or nobody can be asked.
    async fn alone_with(&mut self, mut found: Result<Found, HomeError>) -> Option<Result<Found, HomeError>> {
        let Some(fleet) = self.shared.fleet.clone() else { return Some(found) };
        for _ in 0..LEASES_IN_A_ROW {
            let token = found.as_ref().ok().and_then(|found| found.login.refresh_token());
            let Some(token) = token.map(Fingerprint::of) else { return Some(found) };
            if self.lease.as_ref().is_some_and(|lease| lease.is_of(token)) {
                return Some(found);
            }
            match fleet.lease_login(token).await {
                Ok(lease) => self.lease = Some(lease),
                Err(NotLeased::Busy) => return None,
                Err(why @ NotLeased::Unknown(_)) => {
                    if !std::mem::replace(&mut self.said_unknown, true) {
                        let name = self.desk.account.key();
                        tracing::warn!("login of account {name} is not renewed for now: {why}");
                    }
                    return None;
                }
            }
            self.said_unknown = false;
            found = self.store.read().await;
        }
        None
    }

    fn judge(&self, file: &Path, login: &LoginFile) -> Result<(), Followed> {
        let live = self.shared.cell.load();
        let account = live.account(&self.desk.account.provider, &self.desk.account.name);
        if account.is_none_or(|account| account.proof().is_none()) {
            return Err(Followed::NotServed);
        }
        login.refresh_token().ok_or(Followed::NoRefreshToken)?;
        judge(&self.shared.settings, &self.home, file)
    }

    async fn post(&mut self, login: &LoginFile) -> Event {
        self.desk.show_underway();
        let answer = self.shared.client.renew(login).await;
        let outcome = match &answer {
            Answer::Renewed(_) => {
                faults::reach(Point::Answered);
                return Event::Answered(answer);
            }
            Answer::Refused(_) => {
                faults::reach(Point::Refused);
                Refresh::Refused
            }
            Answer::TryLater { trouble, .. } => {
                let name = self.desk.account.key();
                tracing::warn!(
                    provider.name = self.desk.account.provider,
                    account.name = self.desk.account.name,
                    "login of account {name} is not renewed yet: {trouble}"
                );
                Refresh::Delayed
            }
        };
        self.shared.metrics.refresh(outcome);
        Event::Answered(answer)
    }

    fn write(&mut self, login: &LoginFile) -> Event {
        let result = store::write(&self.file, login);
        let is_first = self.unstored.is_none();
        match result {
            Ok(()) => {
                faults::reach(Point::Stored);
                self.unstored = None;
                self.written = Some(login.fingerprint());
                self.shared.metrics.refresh(Refresh::Renewed);
                tracing::info!(
                    provider.name = self.desk.account.provider,
                    account.name = self.desk.account.name,
                    "login of account {} is renewed until {}",
                    self.desk.account.key(),
                    shown(login.expires_at()),
                );
                Event::Stored { is_done: true }
            }
            Err(error) => {
                let why = format!("{} cannot be written: {error}", self.file.display());
                if is_first {
                    self.shared.metrics.refresh(Refresh::Unstored);
                    tracing::error!(
                        provider.name = self.desk.account.provider,
                        account.name = self.desk.account.name,
                        "login of account {} was renewed and is kept in memory only: {why}; the old one is \
                         used up, so make it writable before this process ends",
                        self.desk.account.key(),
                    );
                }
                self.unstored = Some(why);
                Event::Stored { is_done: false }
            }
        }
    }

    /// Has the login served, and waits until it is.
    async fn publish(&mut self, login: LoginFile, is_unstored: bool) -> Event {
        let token = Some(login.fingerprint());
        let is_first = self.published.is_none();
        if !is_first && !is_unstored && self.written != token {
            self.shared.metrics.refresh(Refresh::Adopted);
        }
        self.published = token;
        let before = self.shared.cell.load().serial();
        if is_unstored {
            self.shared.homes.hold(&self.home, login);
        } else if is_first {
            // What is there at the start is served already.
            return Event::Done;
        } else {
            self.unstored = None;
            self.shared.homes.release(&self.home);
        }
        self.desk.served_anew(before).await;
        Event::Done
    }

    fn give_up(&self, why: Refused) -> Event {
        self.shared.metrics.refresh(Refresh::GivenUp);
        tracing::error!(
            provider.name = self.desk.account.provider,
            account.name = self.desk.account.name,
            "login of account {} is over: {why}; {}",
            self.desk.account.key(),
            self.remedy(),
        );
        Event::Done
    }

    fn warn(&self, expires_at: i64) -> Event {
        let why = self.followed.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        tracing::warn!(
            provider.name = self.desk.account.provider,
            account.name = self.desk.account.name,
            "login of account {} ends at {} and is not renewed here{why}",
            self.desk.account.key(),
            shown(Some(expires_at)),
        );
        Event::Done
    }

    async fn wait(&mut self, until_ms: Option<i64>) -> Event {
        match self.desk.listen(until_ms).await {
            Heard::Due => Event::Due,
            Heard::Changed => Event::Changed,
            Heard::Refused(token) => Event::Demanded(token),
            Heard::Asked => Event::Asked,
            Heard::Stopped => Event::Done,
        }
    }

    fn tell(&mut self, renewer: &Renewer) {
        let (stage, message) = match renewer.standing() {
            Standing::Missing => (RenewalStage::Nobody, String::new()),
            Standing::Followed => {
                let why = self.followed.as_ref().map(|why| format!("not renewed here: {why}"));
                (RenewalStage::Nobody, why.unwrap_or_default())
            }
            Standing::Planned => (RenewalStage::Planned, String::new()),
            Standing::Underway => (RenewalStage::Underway, String::new()),
            Standing::Delayed { trouble, .. } => (RenewalStage::Planned, format!("{trouble}; trying again")),
            Standing::Unstored => {
                let why = self.unstored.clone().unwrap_or_default();
                (RenewalStage::Unstored, format!("renewed and kept in memory only: {why}"))
            }
            Standing::LoginRequired(why) => {
                (RenewalStage::LoginRequired, format!("{why}; {}", self.remedy()))
            }
        };
        let last = renewer.renewed_at_ms().map(|at_ms| at_ms / 1_000);
        self.desk.show(Renewal { stage, last: last.or(self.desk.shown.last), message });
    }

    fn remedy(&self) -> String {
        format!("log in again with Claude Code, CLAUDE_CONFIG_DIR={}", self.home.display())
    }
}

fn shown(expires_at: Option<i64>) -> String {
    let at = expires_at.and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.map_or_else(|| "an unknown time".to_owned(), |at| at.to_string())
}
