//! A scripted upstream on raw TCP: answers as it is told and remembers everything that arrived.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::answer::{Answer, Ending, When};
use super::bill::Bill;
use super::connection::Connection;
use super::request::Received;

/// Decides the answer to each request whose body arrived whole.
pub type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;

/// A running upstream; ends with all its connections when dropped.
pub struct FakeUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

/// What all connections share.
pub(super) struct Shared {
    script: Mutex<Script>,
    log: Mutex<Log>,
    pub(super) bytes: AtomicU64,
    connections: AtomicU64,
}

#[derive(Default)]
struct Log {
    requests: Vec<Received>,
    violations: Vec<String>,
}

/// The same answer to every request.
pub fn always(answer: Answer) -> Script {
    Arc::new(move |_| answer.clone())
}

/// One answer after the other; the last one again and again.
pub fn in_turn(answers: Vec<Answer>) -> Script {
    let next = AtomicU64::new(0);
    Arc::new(move |_| {
        let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
        let answer = answers.get(at).or(answers.last());
        answer.cloned().unwrap_or_else(|| Answer::error(500, "api_error", "the script has no answer"))
    })
}

impl FakeUpstream {
    /// Starts on a free port of the loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(script: Script) -> io::Result<Self> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Starts on an address.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start_on(address: SocketAddr, script: Script) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            log: Mutex::default(),
            bytes: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, without a slash at its end.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, other answers.
    pub fn set_script(&self, script: Script) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// Every request that arrived whole, in the order they did.
    pub fn received(&self) -> Vec<Received> {
        self.shared.log(|log| log.requests.clone())
    }

    /// How many requests arrived whole.
    pub fn count(&self) -> usize {
        self.shared.log(|log| log.requests.len())
    }

    /// How many requests a vendor would bill.
    pub fn billed(&self) -> usize {
        self.shared.log(|log| log.requests.iter().filter(|request| request.billed).count())
    }

    /// The bill of the last request whose body holds `mark`, once that has arrived.
    pub fn bill_of(&self, mark: &str) -> Option<Bill> {
        let has_mark = |body: &[u8]| body.windows(mark.len()).any(|part| part == mark.as_bytes());
        self.shared.log(|log| log.requests.iter().rev().find(|request| has_mark(&request.body))?.bill)
    }

    /// How many answers the other side did not wait for.
    pub fn cancelled(&self) -> usize {
        self.shared.log(|log| log.requests.iter().filter(|request| request.cancelled).count())
    }

    /// What arrived that cannot be understood, in words.
    pub fn violations(&self) -> Vec<String> {
        self.shared.log(|log| log.violations.clone())
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// How many bytes arrived, whole requests or not.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Forgets what arrived.
    pub fn reset(&self) {
        self.shared.log(|log| *log = Log::default());
        self.shared.bytes.store(0, Ordering::Relaxed);
        self.shared.connections.store(0, Ordering::Relaxed);
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until aborted, which ends every connection with it.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(Connection::new(stream, Arc::clone(&shared), number).serve());
            }
            Some(_) = open.join_next() => {}
        }
    }
}

impl Shared {
    /// Decides the answer to a request and remembers both.
    pub(super) fn answer(&self, mut received: Received) -> (usize, Answer) {
        let script = Arc::clone(&self.script.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = script(&received);
        let is_answered = !matches!(answer.ending, Ending::Break(_, When::BeforeHead));
        received.status = is_answered.then_some(answer.status);
        let is_good = is_answered && (200..300).contains(&answer.status);
        received.billed = is_good && received.path() == "/v1/messages";
        received.bill = answer.bill;
        let number = self.log(|log| {
            received.number = log.requests.len();
            log.requests.push(received);
            log.requests.len() - 1
        });
        (number, answer)
    }

    pub(super) fn note_cancelled(&self, number: usize) {
        self.log(|log| {
            if let Some(request) = log.requests.get_mut(number) {
                request.cancelled = true;
            }
        });
    }

    pub(super) fn note_violation(&self, violation: String) {
        self.log(|log| log.violations.push(violation));
    }

    fn log<T>(&self, with: impl FnOnce(&mut Log) -> T) -> T {
        with(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
