//! What waits to be brought to the other replicas, and who waits for their answer.
//!
//! It is bounded: news of one rest and notices of one session take the place of the ones before, and a session
//! that finds no room is told of when it is used again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use la_core::account::affinity::{DEFAULT_CAPACITY, Notice, SessionKey};
use la_core::account::health::Why;
use la_core::account::sharing::News;
use la_core::account::{AccountId, Scope};
use la_core::oauth::Fingerprint;
use tokio::sync::{Notify, oneshot};

use crate::accounts::{Known, Slot};

/// Most news of rests that wait.
const MOST_NEWS: usize = 4_096;

/// A session, and for how many seconds one is remembered where it is.
pub(crate) type Place = (u32, SessionKey);

/// What waits.
#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    work: Notify,
    hurry: Notify,
}

#[derive(Default)]
struct Waiting {
    mail: Mail,
    /// Nothing while nobody brings them to the server.
    questions: Option<Questions>,
}

/// What others are told.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) news: Vec<(AccountId, News)>,
    pub(super) sessions: HashMap<Place, Notice>,
    /// Accounts whose sessions are forgotten.
    pub(super) forgotten: Vec<AccountId>,
}

/// What only the server can answer. Whoever is dropped unanswered goes on alone.
#[derive(Default)]
pub(super) struct Questions {
    pub(super) places: Vec<PlaceWanted>,
    pub(super) logins: Vec<LoginWanted>,
}

/// A request that waits for a place of an account.
pub(super) struct PlaceWanted {
    pub(super) known: Arc<Known>,
    pub(super) most: u32,
    pub(super) answer: oneshot::Sender<Option<Slot>>,
}

/// Somebody who wants to renew the login with this refresh token.
pub(super) struct LoginWanted {
    pub(super) token: Fingerprint,
    pub(super) answer: oneshot::Sender<bool>,
}

impl Outbox {
    /// Tells of an account.
    pub(crate) fn tell(&self, account: AccountId, news: impl IntoIterator<Item = News>) {
        let mut news = news.into_iter().peekable();
        if news.peek().is_none() {
            return;
        }
        let mut waiting = self.lock();
        news.for_each(|news| waiting.mail.add(account, news));
        self.work.notify_one();
    }

    /// Tells where a session is.
    pub(crate) fn place(&self, place: Place, notice: Notice) {
        self.lock().mail.add_session(place, notice);
        self.work.notify_one();
    }

    /// Has everybody forget the sessions of an account.
    pub(crate) fn forget_sessions(&self, account: AccountId) {
        let mut waiting = self.lock();
        // Routes with sessions of their own ask one after the other.
        if !waiting.mail.forgotten.contains(&account) {
            waiting.mail.forgotten.push(account);
        }
        self.work.notify_one();
    }

    /// Asks for a place of an account. Nothing while nobody can be asked.
    pub(crate) fn ask_for_place(
        &self,
        known: &Arc<Known>,
        most: u32,
    ) -> Option<oneshot::Receiver<Option<Slot>>> {
        let (answer, answered) = oneshot::channel();
        let wanted = PlaceWanted { known: Arc::clone(known), most, answer };
        self.lock().questions.as_mut()?.places.push(wanted);
        self.hurry.notify_one();
        Some(answered)
    }

    /// Asks for the sole right to renew a login. Nothing while nobody can be asked.
    pub(super) fn ask_for_login(&self, token: Fingerprint) -> Option<oneshot::Receiver<bool>> {
        let (answer, answered) = oneshot::channel();
        self.lock().questions.as_mut()?.logins.push(LoginWanted { token, answer });
        self.hurry.notify_one();
        Some(answered)
    }

    /// There may be something to tell that is not in here, such as a place that is free.
    pub(crate) fn wake(&self) {
        self.work.notify_one();
    }

    /// Waits until there is something to tell.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Waits until somebody waits for an answer.
    pub(super) async fn hurry(&self) {
        self.hurry.notified().await;
    }

    /// Takes questions from now on, or none, and drops those that there are.
    pub(super) fn open(&self, is_open: bool) {
        self.lock().questions = is_open.then(Questions::default);
    }

    /// Everything that waits to be told.
    pub(super) fn take_mail(&self) -> Mail {
        std::mem::take(&mut self.lock().mail)
    }

    /// Has what could not be told wait again, before what came since.
    pub(super) fn put_back(&self, mail: Mail) {
        let mut waiting = self.lock();
        let newer = std::mem::replace(&mut waiting.mail, mail);
        newer.news.into_iter().for_each(|(account, news)| waiting.mail.add(account, news));
        newer.sessions.into_iter().for_each(|(place, notice)| waiting.mail.add_session(place, notice));
        waiting.mail.forgotten.extend(newer.forgotten);
    }

    /// Everybody who waits for an answer.
    pub(super) fn take_questions(&self) -> Questions {
        self.lock().questions.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A thread that panicked under the lock leaves values that are each still valid.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mail {
    fn add(&mut self, account: AccountId, news: News) {
        let is_superseded = |known: &News| match (known, &news) {
            (_, News::Forgotten) => true,
            (News::Forgotten, _) => false,
            (known, news) => subject(known) == subject(news),
        };
        self.news.retain(|(of, known)| *of != account || !is_superseded(known));
        if self.news.len() < MOST_NEWS {
            self.news.push((account, news));
        }
    }

    fn add_session(&mut self, place: Place, notice: Notice) {
        let has_room = self.sessions.len() < DEFAULT_CAPACITY;
        match self.sessions.get_mut(&place) {
            // What others know has not changed meanwhile.
            Some(known) => known.to = notice.to,
            None if has_room => {
                self.sessions.insert(place, notice);
            }
            None => {}
        }
    }
}

/// Which rest news are of.
fn subject(news: &News) -> Option<(&Scope, Why)> {
    match news {
        News::Rests(rest) => Some((&rest.scope, rest.why)),
        News::Over { scope, why, .. } => Some((scope, *why)),
        News::Forgotten => None,
    }
}

#[cfg(test)]
mod tests {
    use la_core::account::sharing::Rest;

    use super::*;

    fn account(bits: u64) -> AccountId {
        AccountId::from_bits(bits)
    }

    fn rests(until: i64) -> News {
        News::Rests(Rest { scope: Scope::Account, why: Why::Limit, until, strikes: 0, is_stated: true })
    }

    fn over(until: i64) -> News {
        News::Over { scope: Scope::Account, why: Why::Limit, until }
    }

    #[test]
    fn last_news_of_a_rest_are_told_and_what_is_forgotten_is_not() {
        let outbox = Outbox::default();
        outbox.tell(account(1), [rests(1), rests(2)]);
        outbox.tell(account(2), [rests(3)]);
        outbox.tell(account(1), [over(2)]);
        assert_eq!(outbox.take_mail().news, [(account(2), rests(3)), (account(1), over(2))]);
        outbox.tell(account(1), [rests(1), News::Forgotten, rests(4)]);
        assert_eq!(outbox.take_mail().news, [(account(1), News::Forgotten), (account(1), rests(4))]);
    }

    #[test]
    fn what_could_not_be_told_is_told_before_what_came_since() {
        let outbox = Outbox::default();
        let place = (3_900, SessionKey::from_bits(1));
        let notice = |from: Option<u64>, to| Notice { from: from.map(account), to: account(to) };
        outbox.tell(account(1), [rests(1)]);
        outbox.place(place, notice(None, 1));
        let mail = outbox.take_mail();
        outbox.tell(account(1), [News::Forgotten]);
        outbox.place(place, notice(Some(1), 2));
        outbox.put_back(mail);
        let mail = outbox.take_mail();
        assert_eq!(mail.news, [(account(1), News::Forgotten)]);
        assert_eq!(mail.sessions[&place], notice(None, 2), "others know nothing of it");
    }

    #[tokio::test]
    async fn nobody_waits_for_an_answer_that_nobody_can_give() {
        let outbox = Outbox::default();
        let known = Known::new(account(1));
        assert!(outbox.ask_for_place(&known, 1).is_none());
        outbox.open(true);
        let answer = outbox.ask_for_place(&known, 1).unwrap();
        outbox.open(false);
        assert!(answer.await.is_err());
    }
}
