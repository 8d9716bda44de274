//! A data plane in this process, with a snapshot made by hand and a client on raw sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use la_core::budget::LimitsSpec;
use la_core::credential::{Credential, Credentials};
use la_core::id::{Subject, TokenId};
use la_core::price::Override;
use la_core::secret::Secret;
use la_core::snapshot::{
    Account, CredentialSource, IssuedId, PoolRecord, Provider, Retry, Route, Snapshot, Timeouts, TokenRecord,
};
use la_core::token::{Claims, SigningKey};
use la_proxy::config::live::{Live, LiveCell};
use la_proxy::ledger::Ledger;
use la_proxy::listener::{DataPlane, Running};
use la_proxy::observe::metrics::Metrics;

pub(crate) const OAUTH: &str = "sk-ant-oat01-canary";

pub(crate) struct Router {
    pub(crate) address: SocketAddr,
    pub(crate) running: Running,
    pub(crate) live: Arc<LiveCell>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) snapshot: Snapshot,
    pub(crate) credentials: Credentials,
    pub(crate) key: SigningKey,
}

pub(crate) struct Setting {
    /// Of the token `id-1`.
    pub(crate) limits: LimitsSpec,
    /// Which cover both tokens.
    pub(crate) pools: Vec<PoolRecord>,
    pub(crate) pricing: Vec<Override>,
    pub(crate) timeouts: Timeouts,
    /// Without any, one called `main` and one called `spare`.
    pub(crate) accounts: Vec<Account>,
    pub(crate) retry: Retry,
    pub(crate) keep_alive_ms: Option<u64>,
    pub(crate) max_connections: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) threads: usize,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            limits: LimitsSpec::default(),
            pools: Vec::new(),
            pricing: Vec::new(),
            timeouts: Timeouts { connect_ms: 1_000, first_byte_ms: 1_500, idle_ms: 1_500, total_ms: 20_000 },
            accounts: Vec::new(),
            retry: Retry::default(),
            keep_alive_ms: None,
            max_connections: 100,
            max_body_bytes: 1 << 20,
            threads: 1,
        }
    }
}

impl Router {
    pub(crate) fn start(vendor: SocketAddr) -> Self {
        Self::with(vendor, Setting::default())
    }

    pub(crate) fn with(vendor: SocketAddr, setting: Setting) -> Self {
        let signing = SigningKey::from_seed([7; 32]);
        let mut snapshot = Snapshot::empty("platform/gateway");
        snapshot.keys = vec![signing.verifying().unwrap()];
        let mut accounts = setting.accounts;
        if accounts.is_empty() {
            // In this order, so that a test knows which one is asked first.
            accounts = vec![account("main"), Account { priority: 1, ..account("spare") }];
        }
        let oauth = Credential::OAuth { access_token: Secret::new(OAUTH), expires_at: None };
        let api_key = |name: &str| Credential::ApiKey { key: Secret::new(key(name)) };
        let credential = |name: &str| if name == "main" { oauth.clone() } else { api_key(name) };
        let named = |account: &Account| (format!("anthropic/{}", account.name), credential(&account.name));
        let credentials = Credentials::from_iter(accounts.iter().map(named));
        snapshot.providers = vec![Provider {
            timeouts: setting.timeouts,
            pricing: setting.pricing,
            ..Provider::anthropic("anthropic", &format!("http://{vendor}"), accounts)
        }];
        snapshot.routes = vec![Route { retry: setting.retry, ..Route::to("anthropic", Vec::new()) }];
        snapshot.keep_alive_ms = setting.keep_alive_ms;
        let pools: Vec<_> = setting.pools.iter().map(|pool| pool.subject.clone()).collect();
        snapshot.pools = setting.pools;
        snapshot.tokens =
            vec![record("agent", "id-1", setting.limits), record("other", "id-2", LimitsSpec::default())];
        snapshot.tokens.iter_mut().for_each(|token| token.pools.clone_from(&pools));
        let live = LiveCell::new(build(&snapshot, &credentials));
        let ledger = Ledger::memory();
        let metrics = Arc::new(Metrics::new());
        let plane = DataPlane {
            listen: "127.0.0.1:0".parse().unwrap(),
            threads: setting.threads,
            max_connections: setting.max_connections,
            max_body_bytes: setting.max_body_bytes,
            body_budget_bytes: 64 << 20,
            request_log: true,
        };
        let running = plane.start(Arc::clone(&live), Arc::clone(&ledger), Arc::clone(&metrics)).unwrap();
        Self {
            address: running.local_addr(),
            running,
            live,
            ledger,
            metrics,
            snapshot,
            credentials,
            key: signing,
        }
    }

    pub(crate) fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.live.publish(build(&self.snapshot, &self.credentials));
    }

    pub(crate) fn token(&self, id: &str) -> String {
        self.mint(id, |_| ())
    }

    pub(crate) fn mint(&self, id: &str, change: impl FnOnce(&mut Claims)) -> String {
        let mut claims = Claims {
            sub: "gateway/team/agent".to_owned(),
            jti: Some(TokenId::try_from(id.to_owned()).unwrap()),
            aud: Some(self.snapshot.audience.clone()),
            iat: 1_700_000_000,
            nbf: None,
            exp: 4_000_000_000,
        };
        change(&mut claims);
        self.key.mint(&claims).unwrap().expose().to_owned()
    }

    pub(crate) fn used(&self, name: &str) -> (u64, u64) {
        let subject = Subject::of("gateway", "team", name).unwrap();
        self.ledger.usage(&subject).map_or((0, 0), |used| (used.settled, used.open))
    }

    /// What the token `id-1` was charged in its life: tokens and nano-dollars.
    pub(crate) fn charged(&self) -> (u64, u64) {
        let subject = Subject::of("gateway", "team", "agent").unwrap();
        let all = self.ledger.usage_all();
        let used = all.iter().find(|used| used.subject == subject);
        used.map_or((0, 0), |used| (used.tokens.total_input() + used.tokens.output_tokens, used.nano_usd))
    }

    /// Sends a message that asks the vendor to do `what`, and gives the whole answer.
    pub(crate) fn ask(&self, what: &str) -> String {
        let mut client = self.connect();
        client.write_all(message(&self.token("id-1"), what).as_bytes()).unwrap();
        read_answer(&mut client)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }
}

/// An account with a credential of its own.
pub(crate) fn account(name: &str) -> Account {
    Account::new(name, CredentialSource::Published)
}

/// The API key of an account.
pub(crate) fn key(account: &str) -> String {
    format!("sk-ant-api03-{account}")
}

pub(crate) fn build(snapshot: &Snapshot, credentials: &Credentials) -> Live {
    let (snapshot, faults) = snapshot.clone().checked().unwrap();
    assert_eq!(faults, []);
    Live::build(snapshot, credentials, &|_| Err("no directories here".to_owned()))
}

fn record(name: &str, id: &str, limits: LimitsSpec) -> TokenRecord {
    let id = TokenId::try_from(id.to_owned()).unwrap();
    let issued = IssuedId { id, not_before: 0, not_after: 4_000_000_000, revoked: false };
    TokenRecord::new(Subject::of("gateway", "team", name).unwrap(), vec![issued], Arc::new(limits))
}

pub(crate) fn message(token: &str, what: &str) -> String {
    let body = format!("{{\"model\":\"{what}\",\"stream\":true,\"max_tokens\":10,\"messages\":[]}}");
    let length = body.len();
    format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
}

/// Reads one answer: to its end if it tells one, else to the end of the connection.
pub(crate) fn read_answer(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut scratch = [0; 65_536];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ").map(|n| n.parse::<usize>().unwrap()));
            if length.is_some_and(|length| body.len() >= length) || body.ends_with("0\r\n\r\n") {
                return text;
            }
        }
        match socket.read(&mut scratch) {
            Ok(0) => return text,
            Ok(count) => bytes.extend_from_slice(&scratch[..count]),
            Err(e) => return format!("{text}<{:?}>", e.kind()),
        }
    }
}

/// The body of an answer, out of its chunks if it has any.
pub(crate) fn body(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return rest.to_owned();
    }
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        if size == 0 {
            return whole;
        }
        whole.push_str(after.get(..size).unwrap_or(after));
        rest = after.get(size + 2..).unwrap_or_default();
    }
    format!("{whole}<cut>")
}

pub(crate) fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// Waits until `good` holds.
pub(crate) fn eventually(what: &str, mut good: impl FnMut() -> bool) {
    for _ in 0..500 {
        if good() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

/// The statuses of all answers in a text.
pub(crate) fn statuses(text: &str) -> Vec<u16> {
    text.match_indices("HTTP/1.1 ").map(|(at, _)| status(&text[at..])).filter(|status| *status > 0).collect()
}

/// Reads on to the end of a chunked answer.
pub(crate) fn read_rest(socket: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut scratch = [0; 65_536];
    while !bytes.ends_with(b"0\r\n\r\n") {
        match socket.read(&mut scratch) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&scratch[..count]),
            end => return format!("{}<{end:?}>", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `full` rounds when `LA_PROOF` is 1, else a tenth.
#[expect(clippy::disallowed_methods, reason = "the edge where tests read their one switch")]
pub(crate) fn rounds(full: usize) -> usize {
    if std::env::var("LA_PROOF").is_ok_and(|proof| proof == "1") { full } else { full.div_ceil(10) }
}
