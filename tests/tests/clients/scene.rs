//! One upstream, one router before it, and the four tokens that clients come with.

use la_tests::cluster::Client;
use la_tests::fakes::vendor::{self, Known, Turn};
use la_tests::fakes::{Answer, FakeUpstream, Script, always};
use la_tests::gateway::{Gateway, Token};
use tokio::runtime::Runtime;

pub(crate) const KEY: &str = "sk-ant-api03-canary-of-the-client-tests";

const TOKENS: [Token<'static>; 3] = [
    Token { name: "good", max_requests: None, suspended: false },
    Token { name: "suspended", max_requests: None, suspended: true },
    Token { name: "spent", max_requests: Some(1), suspended: false },
];

pub(crate) struct Scene {
    pub(crate) upstream: FakeUpstream,
    pub(crate) gateway: Gateway,
    _runtime: Runtime,
}

/// One way to be refused, and how the client has to see it.
pub(crate) struct Refusal {
    pub(crate) what: &'static str,
    pub(crate) token: &'static str,
    /// What the upstream answers; `None` where the request must not reach it.
    pub(crate) upstream: Option<(u16, &'static str)>,
    pub(crate) status: u16,
    pub(crate) kind: &'static str,
}

pub(crate) const REFUSALS: [Refusal; 6] = [
    refusal("a token that is none", "forged", None, (401, "authentication_error")),
    refusal("a suspended token", "suspended", None, (403, "permission_error")),
    refusal("a spent token", "spent", None, (429, "rate_limit_error")),
    refusal("the vendor forbids", "good", Some((403, "permission_error")), (403, "permission_error")),
    refusal("the vendor is out of quota", "good", Some((429, "rate_limit_error")), (429, "rate_limit_error")),
    refusal("the vendor is overloaded", "good", Some((529, "overloaded_error")), (529, "overloaded_error")),
];

const fn refusal(
    what: &'static str,
    token: &'static str,
    upstream: Option<(u16, &'static str)>,
    (status, kind): (u16, &'static str),
) -> Refusal {
    Refusal { what, token, upstream, status, kind }
}

impl Scene {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let upstream = runtime.block_on(FakeUpstream::start(vendor())).unwrap();
        let gateway = Gateway::start(&upstream.base_url(), KEY, &TOKENS, &[]).unwrap();
        let scene = Self { upstream, gateway, _runtime: runtime };
        scene.spend();
        scene
    }

    /// Uses up the one request of the token `spent`.
    fn spend(&self) {
        let bearer = format!("Bearer {}", self.token("spent"));
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body =
            r#"{"model":"claude-haiku-4-5","max_tokens":8,"messages":[{"role":"user","content":"x"}]}"#;
        let answer =
            Client::new(self.gateway.address()).send_with("POST", "/v1/messages", &headers, body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.upstream.reset();
    }

    /// The text of a token, or one that nobody minted.
    pub(crate) fn token(&self, name: &str) -> String {
        self.gateway.token(name).map_or_else(|_| "la_sk_forged.forged.forged".to_owned(), str::to_owned)
    }

    pub(crate) fn prepare(&self, refusal: &Refusal) {
        self.upstream.reset();
        match refusal.upstream {
            Some((status, kind)) => {
                self.upstream.set_script(always(Answer::error(status, kind, "said the vendor")))
            }
            None => self.upstream.set_script(vendor()),
        }
    }

    /// What must hold after every request: the upstream saw the key, never a token, and nothing it was not to see.
    pub(crate) fn check_upstream(&self, reached: bool) {
        let requests = self.upstream.received();
        assert_eq!(!requests.is_empty(), reached, "requests at the upstream: {}", requests.len());
        for request in &requests {
            assert_eq!(request.header("x-api-key"), Some(KEY));
            assert!(
                request.headers.iter().all(|(_, value)| !value.contains("la_sk_")),
                "a token reached the upstream"
            );
        }
        assert_eq!(self.upstream.violations(), Vec::<String>::new());
    }
}

fn vendor() -> Script {
    vendor::script(Known { bearer: None, key: Some(KEY.to_owned()) })
}

/// What the vendor says in every turn.
pub(crate) fn turn() -> Turn {
    Turn::asked_for_by(&serde_json::json!({"model": "claude-haiku-4-5"}))
}
