//! The replicas of one proxy, which share through a Redis what each learns of accounts.
//!
//! One thread brings what changes here to the server and what the others tell to this process; requests never wait
//! for it, but for a place of an account with `maxConcurrency`. What is told is in one order, the server's, and who
//! told something hears it too, so that all end with the same. Without the server each replica goes by what it knows
//! itself, and tells the rest once it is back.
//!
//! Besides, a process takes the sole right to renew a login here: a folder's lock holds on one machine only.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use la_core::oauth::Fingerprint;
use tokio::sync::watch;

use crate::config::live::LiveCell;
use crate::observe::metrics::Metrics;
use crate::redis_link::{self, RedisUrl};

mod courier;
mod outbox;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use outbox::Outbox;

/// How long a start waits for what the others know.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

/// The other replicas.
pub struct Fleet {
    shared: Arc<Shared>,
    courier: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread shares with everybody else.
struct Shared {
    url: RedisUrl,
    cell: Arc<LiveCell>,
    metrics: Arc<Metrics>,
    /// Names this process at the server.
    process: String,
    outbox: Arc<Outbox>,
    stage: watch::Sender<Stage>,
    logins: Mutex<Logins>,
    is_ending: watch::Sender<bool>,
    said_unreadable: AtomicBool,
}

/// Whether replicas share what they know.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Connecting,
    Together,
    /// For this reason they do not.
    Alone(String),
}

/// The logins that this process renews.
#[derive(Default)]
struct Logins {
    held: Vec<Fingerprint>,
    /// The server does not know yet that they are held no more.
    given_up: Vec<Fingerprint>,
}

/// The sole right to renew a login, among all processes on one Redis. It is kept up while this lives, and given back
/// when dropped.
pub struct LoginLease {
    shared: Arc<Shared>,
    token: Fingerprint,
}

/// Why a login may not be renewed now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLeased {
    /// Another process renews it.
    #[error("another process renews it")]
    Busy,
    /// Nobody knows whether another process does.
    #[error("the server that processes share cannot be asked: {0}")]
    Unknown(String),
}

impl Fleet {
    /// Shares from now on what is known of the accounts that `cell` serves.
    ///
    /// # Errors
    /// When the machine has no randomness or no thread to give. That the server cannot be used is said in the log,
    /// and is waited out.
    pub fn start(url: RedisUrl, cell: Arc<LiveCell>, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let shared = Arc::new(Shared {
            url,
            cell,
            metrics,
            process: redis_link::process_name()?,
            outbox: Arc::default(),
            stage: watch::Sender::new(Stage::Connecting),
            logins: Mutex::default(),
            is_ending: watch::Sender::new(false),
            said_unreadable: AtomicBool::new(false),
        });
        let courier = Mutex::new(Some(courier::start(&shared)?));
        Ok(Arc::new(Self { shared, courier }))
    }

    /// Waits until this process knows what the others know, or that it goes on alone; 2 s at most.
    pub async fn known(&self) {
        let mut stage = self.shared.stage.subscribe();
        let is_known = stage.wait_for(|stage| *stage != Stage::Connecting);
        let _ = tokio::time::timeout(KNOWN_WITHIN, is_known).await;
    }

    /// Takes the sole right to renew the login with this refresh token.
    ///
    /// # Errors
    /// When another process has it, or nobody can be asked.
    pub async fn lease_login(&self, token: Fingerprint) -> Result<LoginLease, NotLeased> {
        let unknown = || match &*self.shared.stage.borrow() {
            Stage::Alone(why) => NotLeased::Unknown(why.clone()),
            Stage::Connecting | Stage::Together => NotLeased::Unknown("the connection was lost".to_owned()),
        };
        let answer = self.shared.outbox.ask_for_login(token).ok_or_else(unknown)?;
        match answer.await {
            Ok(true) => Ok(LoginLease { shared: Arc::clone(&self.shared), token }),
            Ok(false) => Err(NotLeased::Busy),
            Err(_) => Err(unknown()),
        }
    }

    /// Tells what waits and gives everything back, as far as the server takes it at once.
    pub fn close(&self) {
        self.shared.is_ending.send_replace(true);
        let courier = lock(&self.courier).take();
        // A thread that panicked has nothing more to tell.
        let _ = courier.map(JoinHandle::join);
    }
}

impl LoginLease {
    /// Whether it is for the login with this refresh token.
    pub fn is_of(&self, token: Fingerprint) -> bool {
        self.token == token
    }
}

impl Drop for LoginLease {
    fn drop(&mut self) {
        let mut logins = lock(&self.shared.logins);
        logins.held.retain(|held| *held != self.token);
        logins.given_up.push(self.token);
        self.shared.outbox.wake();
    }
}

/// A thread that panicked under a lock leaves values that are each still valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
