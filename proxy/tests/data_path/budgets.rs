//! Budgets of tokens and money, rates and concurrency: what they refuse, what they say, and what they charge.

use std::io::Write as _;

use la_core::amount::Unit;
use la_core::budget::{BudgetSpec, CalendarSpec, ConcurrencySpec, Every, LimitsSpec, RateSpec, WindowSpec};
use la_core::id::Subject;
use la_core::snapshot::{Account, PoolRecord};

use crate::router::{Router, Setting, account, body, eventually, key, read_answer, status};
use crate::vendor::Vendor;

/// A model of the built-in price table: $5 for a million tokens of input, $25 for one of output.
const MODEL: &str = "claude-opus-4-6";

fn budget(name: &str, unit: Unit, limit: &str) -> BudgetSpec {
    let calendar = Some(CalendarSpec { every: Every::Day, time_zone: "UTC".to_owned() });
    BudgetSpec {
        name: name.to_owned(),
        unit,
        limit: limit.to_owned(),
        window: WindowSpec { calendar, rolling: None },
        enforcement: Default::default(),
        allow_unbounded: false,
        allow_unpriced: false,
    }
}

fn limits(budgets: Vec<BudgetSpec>) -> LimitsSpec {
    LimitsSpec { budgets, ..LimitsSpec::default() }
}

fn router(vendor: &Vendor, limits: LimitsSpec) -> Router {
    Router::with(vendor.address, Setting { limits, accounts: vec![account("a")], ..Setting::default() })
}

/// The same with a second account, for requests that fail with the first.
fn router_of_two(vendor: &Vendor, limits: LimitsSpec) -> Router {
    let accounts = vec![account("a"), Account { priority: 1, ..account("b") }];
    Router::with(vendor.address, Setting { limits, accounts, ..Setting::default() })
}

/// A body that has the vendor do `what`.
fn asking(what: &str, is_stream: bool) -> String {
    format!(r#"{{"model":"{MODEL}","system":"{what}","stream":{is_stream},"max_tokens":100,"messages":[]}}"#)
}

fn post(router: &Router, path: &str, text: &str) -> String {
    let mut client = router.connect();
    client.write_all(request(router, path, text).as_bytes()).unwrap();
    read_answer(&mut client)
}

fn request(router: &Router, path: &str, text: &str) -> String {
    let (token, length) = (router.token("id-1"), text.len());
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ncontent-length: {length}\r\n\r\n{text}")
}

fn ask(router: &Router, text: &str) -> String {
    post(router, "/v1/messages", text)
}

/// All values of a field, in order.
fn fields<'a>(answer: &'a str, name: &str) -> Vec<&'a str> {
    let head = answer.split_once("\r\n\r\n").map_or(answer, |(head, _)| head);
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(other, _)| *other == name).map(|(_, value)| value).collect()
}

/// A router whose token has narrow limits of every kind that a request can be too large for.
fn narrow(vendor: &Vendor) -> Router {
    let budgets = vec![budget("tokens", Unit::Tokens, "1000000"), budget("money", Unit::Usd, "10")];
    let (max_output_tokens, max_request_bytes) = (Some(100), Some(2_000));
    router(vendor, LimitsSpec { max_output_tokens, max_request_bytes, ..limits(budgets) })
}

/// A body with some members beside the model.
fn with(members: &str) -> String {
    format!(r#"{{"model":"{MODEL}",{members},"messages":[]}}"#)
}

/// Each body is refused with a status and a text that has some parts; nothing is reserved or sent.
fn are_refused(vendor: &Vendor, router: &Router, cases: &[(&str, String, u16, &[&str])]) {
    for (what, text, expected, parts) in cases {
        let answer = ask(router, text);
        assert_eq!(status(&answer), *expected, "{what}: {answer}");
        for part in *parts {
            assert!(body(&answer).contains(part), "{what}: {part} is missing in {answer}");
        }
    }
    assert_eq!((vendor.requests(), router.used("agent"), router.charged()), (0, (0, 0), (0, 0)));
}

#[test]
fn request_that_asks_for_odd_or_too_much_output_is_refused_before_anything_is_reserved() {
    let vendor = Vendor::start();
    let router = narrow(&vendor);
    let whole: &[&str] = &["`max_tokens` must be a whole number"];
    let cases: [(&str, String, u16, &[&str]); 7] = [
        ("missing", with(r#""x":1"#), 400, &["`max_tokens` is missing"]),
        ("negative", with(r#""max_tokens":-1"#), 400, whole),
        ("a fraction", with(r#""max_tokens":1.5"#), 400, whole),
        ("a text", with(r#""max_tokens":"9""#), 400, whole),
        ("huge", with(r#""max_tokens":99999999999999999999"#), 400, whole),
        (
            "too much",
            with(r#""max_tokens":101"#),
            400,
            &["`max_tokens` is 101", "at most 100", "maxOutputTokens"],
        ),
        (
            "too long",
            with(&format!(r#""max_tokens":9,"x":"{}""#, "x".repeat(2_000))),
            413,
            &["2000 bytes", "`maxRequestBytes`"],
        ),
    ];
    are_refused(&vendor, &router, &cases);
    assert!(router.metrics.encode().contains("la_router_refusals_total{reason=\"body\"} 7"));
}

#[test]
fn request_that_no_budget_can_judge_is_refused_before_anything_is_reserved() {
    let vendor = Vendor::start();
    let router = narrow(&vendor);
    let searching = with(r#""max_tokens":9,"tools":[{"type":"web_search_20250305","name":"web_search"}]"#);
    let unpriced = asking("json", false).replace(MODEL, "mystery");
    let image =
        r#"[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"https://x.test/"}}]}]"#;
    let tokens = "budget tokens of this token";
    let cases: [(&str, String, u16, &[&str]); 3] = [
        ("unbounded", searching, 400, &["web_search_20250305", tokens, "allowUnbounded"]),
        ("no window", unpriced.replace("[]", image), 400, &["mystery", tokens, "pricing.overrides"]),
        (
            "no price",
            unpriced,
            403,
            &["mystery", "budget money of this token", "allowUnpriced", "pricing.overrides"],
        ),
    ];
    are_refused(&vendor, &router, &cases);
    let metrics = router.metrics.encode();
    for (reason, count) in [("unbounded", 2), ("unpriced", 1)] {
        let line = format!("la_router_refusals_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
}

#[test]
fn missing_max_tokens_is_refused_without_any_budget_and_nothing_else_is() {
    let vendor = Vendor::start();
    let router = Router::start(vendor.address);
    assert_eq!(status(&ask(&router, r#"{"model":"json","messages":[]}"#)), 400);
    let searching =
        r#"{"model":"json","max_tokens":0,"tools":[{"type":"web_search_20250305"}],"messages":[]}"#;
    assert_eq!(status(&ask(&router, searching)), 200, "nobody wants a bound or a price");
    let count = post(&router, "/v1/messages/count_tokens", r#"{"model":"json","messages":[]}"#);
    assert_eq!(status(&count), 200, "counting needs no `max_tokens`: {count}");
}

#[test]
fn what_a_budget_lets_pass_is_charged_as_it_came() {
    let vendor = Vendor::start();
    let tokens = BudgetSpec { allow_unbounded: true, ..budget("tokens", Unit::Tokens, "10000000") };
    let money =
        BudgetSpec { allow_unbounded: true, allow_unpriced: true, ..budget("money", Unit::Usd, "1000") };
    let router = router(&vendor, limits(vec![tokens, money]));
    let searching = asking("json", false)
        .replace("\"messages\"", r#""tools":[{"type":"web_search_20250305"}],"messages""#);
    let answer = ask(&router, &searching);
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(router.charged(), (7, 3 * 5_000 + 4 * 25_000));
    let answer = ask(&router, &searching.replace(MODEL, "mystery"));
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(router.charged(), (14, 115_000), "tokens count, and money does not without a price");
}

#[test]
fn every_answer_tells_how_the_budgets_stand() {
    let vendor = Vendor::start();
    let pool = PoolRecord {
        subject: Subject::of_pool("gateway", "platform", "all").unwrap(),
        budgets: vec![BudgetSpec { window: WindowSpec::default(), ..budget("shared", Unit::Requests, "3") }],
        thresholds: Vec::new(),
    };
    let limits = limits(vec![budget("Tokens", Unit::Tokens, "2000"), budget("money", Unit::Usd, "1.5")]);
    let router = Router::with(vendor.address, Setting { limits, pools: vec![pool], ..Setting::default() });
    let text = asking("json", false);
    let bound = text.len() + 256 + 100;
    let answer = ask(&router, &text);
    assert_eq!(status(&answer), 200, "{answer}");
    let [tokens] = fields(&answer, "la-budget-tokens")[..] else { panic!("{answer}") };
    assert!(tokens.starts_with(&format!("unit=Tokens; limit=2000; used={bound}; reset=")), "{tokens}");
    let [money] = fields(&answer, "la-budget-money")[..] else { panic!("{answer}") };
    assert!(money.starts_with("unit=USD; limit=1.5; used=0.00"), "{money}");
    let shared = fields(&answer, "la-budget-shared");
    assert_eq!(shared, ["unit=Requests; limit=3; used=1; pool=platform/all"]);
    let answer = ask(&router, &text);
    let [tokens] = fields(&answer, "la-budget-tokens")[..] else { panic!("{answer}") };
    assert!(tokens.contains(&format!("used={}", 7 + bound)), "what was settled and what is open: {tokens}");
    assert_eq!(status(&ask(&router, &text)), 200);
    let answer = ask(&router, &text);
    assert_eq!((status(&answer), fields(&answer, "x-should-retry")), (429, vec!["false"]), "{answer}");
    assert_eq!(fields(&answer, "retry-after"), [""; 0], "a lifetime does not reset");
    assert!(
        body(&answer).contains("budget shared of pool platform/all is used up: 3 of 3 Requests"),
        "{answer}"
    );
    assert_eq!(fields(&answer, "la-budget-shared"), ["unit=Requests; limit=3; used=3; pool=platform/all"]);
    assert_eq!(fields(&answer, "la-budget-tokens").len(), 1, "refusals tell it too");
}

#[test]
fn refusal_says_which_limit_and_when_to_ask_again() {
    let vendor = Vendor::start();
    let budgets = vec![budget("tokens", Unit::Tokens, "1000")];
    let mut router = router(&vendor, limits(budgets));
    let answer = ask(&router, &asking("json", false).replace("100", "5000"));
    assert_eq!((status(&answer), fields(&answer, "x-should-retry")), (429, vec!["false"]), "{answer}");
    assert!(body(&answer).contains("budget tokens of this token can never admit this request"), "{answer}");
    let rate = RateSpec { unit: Unit::Requests, limit: 1, per: "1m".to_owned(), burst: None };
    router.publish(|snapshot| {
        snapshot.tokens[0].limits = LimitsSpec { rates: vec![rate], ..LimitsSpec::default() }.into();
    });
    assert_eq!(status(&ask(&router, &asking("json", false))), 200);
    let answer = ask(&router, &asking("json", false));
    assert_eq!(status(&answer), 429, "{answer}");
    let [after] = fields(&answer, "retry-after")[..] else { panic!("{answer}") };
    assert!((1..=60).contains(&after.parse::<u64>().unwrap()), "{after}");
    assert!(body(&answer).contains("the rate of Requests of this token is used up"), "{answer}");
    assert!(router.metrics.encode().contains("la_router_refusals_total{reason=\"rate\"} 1"));
    router.publish(|snapshot| {
        let window = WindowSpec { calendar: None, rolling: Some("1h".to_owned()) };
        snapshot.tokens[0].limits =
            limits(vec![BudgetSpec { window, ..budget("hourly", Unit::Requests, "1") }]).into();
    });
    assert_eq!(status(&ask(&router, &asking("json", false))), 200, "a new window is empty");
    let answer = ask(&router, &asking("json", false));
    let [after] = fields(&answer, "retry-after")[..] else { panic!("{answer}") };
    assert!((3_500..=3_700).contains(&after.parse::<u64>().unwrap()), "{answer}");
    assert!(fields(&answer, "x-should-retry").is_empty(), "{answer}");
}

#[test]
fn free_operations_are_rated_and_count_nowhere() {
    let vendor = Vendor::start();
    let rate = RateSpec { unit: Unit::Requests, limit: 2, per: "1h".to_owned(), burst: None };
    let limits = LimitsSpec {
        max_requests: Some(1),
        rates: vec![rate],
        ..limits(vec![budget("tokens", Unit::Tokens, "100")])
    };
    let mut router = router(&vendor, limits);
    let count = || post(&router, "/v1/messages/count_tokens", r#"{"model":"json"}"#);
    for _ in 0..2 {
        let answer = count();
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(fields(&answer, "la-budget-maxrequests")[0].contains("used=0"), "{answer}");
    }
    let answer = count();
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(body(&answer).contains("the rate of Requests"), "{answer}");
    assert_eq!((router.used("agent"), router.charged()), ((0, 0), (0, 0)));
    router.publish(|snapshot| {
        let concurrency = Some(ConcurrencySpec { limit: 1, queue: None });
        snapshot.tokens[0].limits = LimitsSpec { concurrency, ..LimitsSpec::default() }.into();
    });
    let mut open = router.connect();
    let text = asking("endless", true);
    open.write_all(request(&router, "/v1/messages", &text).as_bytes()).unwrap();
    eventually("it is open", || router.used("agent").1 == 1);
    let answer = post(&router, "/v1/messages/count_tokens", r#"{"model":"json"}"#);
    assert_eq!((status(&answer), fields(&answer, "retry-after")), (429, vec!["1"]), "{answer}");
    assert!(router.metrics.encode().contains("la_router_refusals_total{reason=\"concurrency\"} 1"));
}

#[test]
fn every_ending_is_charged_what_it_came_to() {
    let vendor = Vendor::start();
    let router = router(
        &vendor,
        limits(vec![budget("money", Unit::Usd, "100"), budget("t", Unit::Tokens, "1000000")]),
    );
    let bound = |text: &str| text.len() as u64 + 256;
    let (mut tokens, mut requests) = (0, 0);
    let stream = |what: &str| asking(what, true);
    let cases = [
        ("a JSON answer", asking("json", false), 7),
        ("a stream", stream("whole"), 12),
        ("overloaded", stream("overloaded"), 0),
        ("unauthorized", stream("unauthorized"), 0),
        ("failing", stream("failing"), bound(&stream("failing"))),
        ("reset in the text", stream("reset"), 7 + 2),
        ("without an end", stream("undelimited"), 7 + 2),
        ("stalled", stream("stall"), 7 + 2),
        ("no answer to a stream", stream("hangup"), bound(&stream("hangup"))),
        ("no answer", asking("hangup", false), bound(&asking("hangup", false)) + 100),
        ("half an answer", asking("cut-json", false), bound(&asking("cut-json", false)) + 100),
    ];
    for (what, text, expected) in cases {
        ask(&router, &text);
        (tokens, requests) = (tokens + expected, requests + 1);
        eventually(&format!("{what} is settled"), || router.used("agent") == (requests, 0));
        assert_eq!(router.charged().0, tokens, "{what}");
    }
    let metrics = router.metrics.encode();
    for line in ["la_router_settled_requests_total 11", "la_router_overrun_tokens_total 0"] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(metrics.contains(&format!("la_router_settled_tokens_total {tokens}")), "{metrics}");
}

#[test]
fn every_attempt_that_may_be_billed_is_charged_and_the_request_counts_once() {
    let vendor = Vendor::start();
    let tokens = budget("tokens", Unit::Tokens, "1000000");
    let all = BudgetSpec { window: WindowSpec::default(), ..budget("all", Unit::Requests, "100") };
    let rate = RateSpec { unit: Unit::Requests, limit: 100, per: "1h".to_owned(), burst: None };
    let limits =
        LimitsSpec { rates: vec![rate], ..limits(vec![tokens, all, budget("money", Unit::Usd, "100")]) };
    let router = router_of_two(&vendor, limits);
    let bound = |text: &str| text.len() as u64 + 256;
    let text = asking("whole", true);
    let (mut tokens, mut requests) = (0, 0);
    for (what, expected) in [
        ("overloaded", 0),
        ("throttled", 0),
        ("failing", bound(&text)),
        ("hangup", bound(&text)),
        // What its message_start told: 7 of input, 1 of output.
        ("failed-start-0", 8),
    ] {
        let router = &router;
        vendor.fail(&key("a"), what, 1);
        let before = vendor.requests();
        let answer = ask(router, &text);
        assert_eq!(status(&answer), 200, "{what}: {answer}");
        (tokens, requests) = (tokens + expected + 12, requests + 1);
        eventually(&format!("{what} is settled"), || router.used("agent") == (requests, 0));
        let attempts = vendor.requests() - before;
        assert_eq!((router.charged().0, attempts), (tokens, 2), "{what}");
        router.live.load().account("anthropic", "a").unwrap().known.forget_trouble();
    }
    let answer = ask(&router, &asking("json", false));
    let [all] = fields(&answer, "la-budget-all")[..] else { panic!("{answer}") };
    assert!(all.contains("used=6;") || all.ends_with("used=6"), "each was one request: {all}");
}

#[test]
fn attempt_that_no_budget_has_room_for_is_not_made() {
    let vendor = Vendor::start();
    let text = asking("json", false);
    let bound = text.len() as u64 + 256;
    let limit = bound + 100 + 50;
    for (what, expected, tried, charged) in [("failing", 500, 1, bound), ("overloaded", 200, 2, 7)] {
        let router = router_of_two(&vendor, limits(vec![budget("tokens", Unit::Tokens, &limit.to_string())]));
        vendor.fail(&key("a"), what, 1);
        let before = vendor.requests();
        let answer = ask(&router, &text);
        assert_eq!(status(&answer), expected, "{what}: {answer}");
        assert_eq!(vendor.requests() - before, tried, "{what}");
        eventually(&format!("{what} is settled"), || router.used("agent") == (1, 0));
        assert_eq!(router.charged().0, charged, "{what}");
        assert!(charged <= limit);
    }
}
