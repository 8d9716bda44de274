//! Events on the objects that people wrote, said once per cause.
//!
//! An Event is published when its text differs from the last one of the same object and reason, so that a
//! retry says nothing new. A failure to publish is logged and changes nothing else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Most object-and-reason pairs whose last text is remembered.
const REMEMBERED: usize = 4_096;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Whether someone should look.
    pub(crate) warning: bool,
    /// The reason, as in conditions: `SecretConflict`.
    pub(crate) reason: &'static str,
    /// What was being done: `Mint`.
    pub(crate) action: &'static str,
    /// One sentence.
    pub(crate) message: String,
}

impl Note {
    /// Something went as it should.
    pub(crate) fn normal(reason: &'static str, action: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, action, message: message.into() }
    }

    /// Someone should look.
    pub(crate) fn warning(reason: &'static str, action: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, action, message: message.into() }
    }
}

/// Publishes Events.
pub(crate) struct Events {
    recorder: Recorder,
    said: Mutex<HashMap<(String, &'static str), String>>,
}

impl Events {
    /// A publisher that names this replica as the reporter.
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        let reporter =
            Reporter { controller: "la-router-operator".to_owned(), instance: Some(identity.to_owned()) };
        Self { recorder: Recorder::new(client, reporter), said: Mutex::default() }
    }

    /// Publishes what has not been said of `object`.
    pub(crate) async fn publish(&self, notes: Vec<Note>, object: &ObjectReference) {
        for note in notes {
            if !self.is_news(&note, object) {
                continue;
            }
            let event = Event {
                type_: if note.warning { EventType::Warning } else { EventType::Normal },
                reason: note.reason.to_owned(),
                note: Some(note.message.chars().take(1_000).collect()),
                action: note.action.to_owned(),
                secondary: None,
            };
            if let Err(error) = self.recorder.publish(&event, object).await {
                tracing::warn!(event.reason = note.reason, %error, "event {} was not published", note.reason);
            }
        }
    }

    /// Forgets that `reason` was said of `object`: its cause has gone, its return is news.
    pub(crate) fn forget(&self, object: &ObjectReference) {
        let uid = object.uid.clone().unwrap_or_default();
        self.said.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _), _| *known != uid);
    }

    fn is_news(&self, note: &Note, object: &ObjectReference) -> bool {
        if !note.warning {
            return true;
        }
        let key = (object.uid.clone().unwrap_or_default(), note.reason);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= REMEMBERED {
            said.clear();
        }
        said.insert(key, note.message.clone()).as_ref() != Some(&note.message)
    }
}
