//! Drives one login: does what its [`Renewer`] says, and tells it what came of it.

use la_core::oauth::{Action, Event, Plan, Renewer};
use la_crds::conditions::reason;
use tokio::sync::{mpsc, watch};

use super::store::{Store, Written};
use super::{Hands, LoginName, State, due};
use crate::clock;
use crate::events::Note;
use crate::faults::{Point, reach};

/// Follows a login until its inbox is closed and nothing is under way, or it has nobody and no place left.
pub(super) async fn follow(
    hands: &Hands,
    name: &LoginName,
    plan: Plan,
    (mut events, told): (mpsc::Receiver<Event>, watch::Sender<State>),
) {
    let mut store = Store::new(hands.client.clone(), name.clone());
    let (mut renewer, mut action) = Renewer::start(plan);
    loop {
        let event = match action {
            Action::Wait { until_ms } => {
                tell(hands, name, &renewer, &told);
                match wait(&mut events, until_ms, renewer.is_unstored()).await {
                    Some(event) => event,
                    None => return,
                }
            }
            other => match perform(hands, name, &mut store, other).await {
                Some(event) => event,
                None => return,
            },
        };
        action = renewer.next(event, clock::now_ms());
    }
}

/// What came of an action; nothing when there is nobody left to act for.
async fn perform(hands: &Hands, name: &LoginName, store: &mut Store, action: Action) -> Option<Event> {
    let secret = &name.secret;
    Some(match action {
        // The lease is the right to renew, and the Secret's version the right to store.
        Action::Read { .. } => {
            reach(Point::BeforeLoginRead);
            store.read().await
        }
        Action::Post(login) => {
            reach(Point::BeforeLoginPost);
            let answer = hands.endpoint.renew(&login).await;
            hands.metrics.refreshed(&answer);
            Event::Answered(answer)
        }
        Action::Store(login) => {
            reach(Point::AfterLoginAnswered);
            let written = store.write(&login, hands.is_named(name)).await;
            reach(Point::AfterLoginStored);
            match written {
                Written::Done => {
                    tracing::info!(secret.name = %secret, "login in Secret {secret} was renewed");
                }
                Written::Failed => {}
                Written::Unwanted => {
                    drop_login(hands, name, store).await;
                    return None;
                }
            }
            Event::Stored { is_done: written == Written::Done }
        }
        // Proxies get what the Secret holds, and it holds this.
        Action::Publish(_) | Action::Wait { .. } => Event::Done,
        Action::GiveUp(why) => {
            tracing::error!(
                secret.name = %secret,
                "login in Secret {secret} cannot be renewed: {why}; log in again and put the new login there"
            );
            Event::Done
        }
        Action::Warn { expires_at } => {
            tracing::warn!(
                secret.name = %secret,
                credential.expires_at = expires_at,
                "login in Secret {secret} has no refresh token and ends soon; log in again and put the new login there"
            );
            Event::Done
        }
    })
}

/// Lets a login go that was just renewed.
async fn drop_login(hands: &Hands, name: &LoginName, store: &Store) {
    let secret = &name.secret;
    let why = "it was taken out of its Secret while it was renewed, and no UpstreamProvider names it any more; \
               log in again where it is needed";
    tracing::error!(secret.name = %secret, "login of Secret {secret} was dropped: {why}");
    let note = Note::warning(reason::LOGIN_DROPPED, "Refresh", format!("the login was dropped: {why}"));
    hands.events.publish(vec![note], &store.reference()).await;
}

/// What happens first; nothing when the inbox is closed and nothing is held that is not stored.
async fn wait(events: &mut mpsc::Receiver<Event>, until_ms: Option<i64>, is_unstored: bool) -> Option<Event> {
    let due = due(until_ms);
    tokio::pin!(due);
    tokio::select! {
        () = &mut due => Some(Event::Due),
        event = events.recv() => match event {
            Some(event) => Some(event),
            None if is_unstored => {
                due.await;
                Some(Event::Due)
            }
            None => None,
        },
    }
}

fn tell(hands: &Hands, name: &LoginName, renewer: &Renewer, told: &watch::Sender<State>) {
    let state = State { standing: renewer.standing(), renewed_at_ms: renewer.renewed_at_ms() };
    if told.send_if_modified(|known| std::mem::replace(known, state) != state) {
        (hands.on_change)(&name.secret);
    }
}
