//! What happens when an account or the vendor fails before a byte of an answer has reached the client.

use std::io::Write as _;

use la_core::report::AccountState;
use la_core::snapshot::{Account, Backend, Candidate, Provider, Retry, Route, Timeouts};

use crate::router::{Router, Setting, account, body, eventually, key, message, read_answer, status};
use crate::vendor::{SSE, SSE_END, Vendor, refusal};

/// A router over accounts called `a`, `b` and so on, asked in this order.
fn pool(vendor: &Vendor, count: u8) -> Router {
    Router::with(vendor.address, Setting { accounts: in_order(count), ..Setting::default() })
}

/// Long enough for a vendor that is late.
const PATIENT: Timeouts =
    Timeouts { connect_ms: 1_000, first_byte_ms: 10_000, idle_ms: 10_000, total_ms: 60_000 };

fn in_order(count: u8) -> Vec<Account> {
    (0..count).map(|at| Account { priority: at.into(), ..account(&letter(at)) }).collect()
}

fn letter(at: u8) -> String {
    char::from(b'a' + at).to_string()
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer
        .lines()
        .take_while(|line| !line.is_empty())
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[test]
fn whatever_fails_before_the_first_byte_is_tried_with_another_account() {
    for (what, reason) in [
        ("overloaded", "overload"),
        ("failing", "fault"),
        ("throttled", "quota"),
        ("limited", "quota"),
        ("spent", "quota"),
        ("forbidden", "auth"),
        ("unauthorized", "auth"),
        ("failed-start-0", "overload"),
        ("hangup", "broken"),
        ("silent", "timeout"),
    ] {
        let vendor = Vendor::start();
        let router = pool(&vendor, 2);
        vendor.fail(&key("a"), what, 1);
        let answer = router.ask("stream");
        assert_eq!((status(&answer), body(&answer)), (200, format!("{SSE}{SSE_END}")), "{what}: {answer}");
        assert_eq!(vendor.credentials(), [key("a"), key("b")], "{what}");
        eventually(&format!("{what}: one request was settled"), || router.used("agent") == (1, 0));
        let count = format!("la_router_failovers_total{{reason=\"{reason}\"}} 1");
        let metrics = router.metrics.encode();
        assert!(metrics.contains(&count), "{what}: {count} is missing in\n{metrics}");
    }
}

#[test]
fn mistakes_of_a_client_pass_as_they_are_and_touch_no_account() {
    let vendor = Vendor::start();
    let router = pool(&vendor, 2);
    for (what, expected, text) in [
        ("mistaken", 400, refusal("invalid_request_error", "messages: must not be empty")),
        ("too-long", 400, refusal("invalid_request_error", "prompt is too long: 3 tokens > 2 maximum")),
        ("unknown", 404, refusal("not_found_error", "model: unknown")),
    ] {
        let before = vendor.requests();
        for _ in 0..6 {
            let answer = router.ask(what);
            assert_eq!((status(&answer), body(&answer)), (expected, text.clone()), "{what}: {answer}");
        }
        assert_eq!(vendor.requests(), before + 6, "{what} is tried once");
        assert_eq!(vendor.credentials().last(), Some(&key("a")), "{what} says nothing of the account");
    }
}

#[test]
fn last_failure_passes_byte_for_byte() {
    let vendor = Vendor::start();
    let router = pool(&vendor, 3);
    for (what, expected, text) in [
        ("overloaded", 529, refusal("overloaded_error", "Overloaded")),
        ("failing", 500, refusal("api_error", "Internal server error")),
    ] {
        let before = vendor.requests();
        let answer = router.ask(what);
        assert_eq!((status(&answer), body(&answer)), (expected, text), "{what}: {answer}");
        assert_eq!(vendor.requests(), before + 3, "{what}: every account was tried once");
    }
    let stream = body(&router.ask("failed-start-0"));
    assert!(
        stream.ends_with("\"message\":\"Overloaded\"}}\n\n") && stream.matches("message_start").count() == 2
    );
}

#[test]
fn no_more_attempts_are_made_than_the_route_allows() {
    let vendor = Vendor::start();
    for attempts in 1..=3 {
        let retry = Retry { attempts, ..Retry::default() };
        let setting = Setting { accounts: in_order(4), retry, ..Setting::default() };
        let router = Router::with(vendor.address, setting);
        let before = vendor.requests();
        assert_eq!(status(&router.ask("failing")), 500);
        assert_eq!(vendor.requests() - before, attempts as usize);
    }
}

#[test]
fn limit_is_a_429_also_after_the_account_was_forbidden() {
    let vendor = Vendor::start();
    let router = pool(&vendor, 1);
    assert_eq!(status(&router.ask("forbidden")), 403);
    let answer = router.ask("throttled");
    assert_eq!(status(&answer), 429, "{answer}");
    assert!(body(&answer).contains("rate_limit_error"), "{answer}");
}

#[test]
fn nobody_left_is_a_429_that_says_who_and_until_when() {
    let vendor = Vendor::start();
    let router = pool(&vendor, 2);
    for asked in 0..2 {
        let answer = router.ask("limited");
        assert_eq!(status(&answer), 429, "{answer}");
        let after: u64 = field(&answer, "retry-after").unwrap().parse().unwrap();
        assert!((3_500..=3_660).contains(&after), "{answer}");
        let text = body(&answer);
        for part in [
            "rate_limit_error",
            "none of the 2 accounts",
            "\\\"limited\\\"",
            "has used up a limit",
            "back, at 20",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(vendor.requests(), 2, "request {asked}: who rests is not asked");
    }
    assert_eq!(status(&router.ask("json")), 429, "the limit is of the account, whatever the model");
    eventually("what was refused here costs nothing", || router.used("agent") == (1, 0));
    let metrics = router.metrics.encode();
    assert!(metrics.contains("la_router_cooldowns_total{scope=\"account\"} 2"), "{metrics}");
}

#[test]
fn refused_credential_is_never_the_clients_401() {
    let vendor = Vendor::start();
    let router = pool(&vendor, 1);
    let answer = router.ask("unauthorized");
    assert_eq!(status(&answer), 502, "{answer}");
    assert!(body(&answer).contains("does not accept the credential of account anthropic/a"), "{answer}");
    let is_refused = || router.live.load().accounts(0)[0].state == AccountState::Unauthorized;
    assert!(is_refused());
    assert_eq!(status(&router.ask("json")), 200, "only the vendor can say that it works again");
    assert!(!is_refused());
}

#[test]
fn account_that_was_never_told_until_when_is_asked_again_when_nobody_else_is_left() {
    for (what, times, expected) in
        [("overloaded", 1, 529), ("throttled", 1, 429), ("forbidden", 1, 403), ("failing", 6, 500)]
    {
        let vendor = Vendor::start();
        let router = pool(&vendor, 1);
        vendor.fail(&key("a"), what, times);
        for _ in 0..times {
            assert_eq!(status(&router.ask("stream")), expected, "{what}");
        }
        assert_eq!(status(&router.ask("stream")), 200, "{what}");
    }
}

#[test]
fn account_that_failed_is_tried_by_one_request_when_its_rest_is_over() {
    let vendor = Vendor::start();
    let setting = Setting { accounts: in_order(2), timeouts: PATIENT, ..Setting::default() };
    let mut router = Router::with(vendor.address, setting);
    router.publish(|snapshot| {
        snapshot.providers[0].health.consecutive_failures = 1;
        snapshot.providers[0].health.cooldown_seconds = 1;
    });
    vendor.fail(&key("a"), "failing", 1);
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!(vendor.credentials(), [key("a"), key("b")]);
    std::thread::sleep(std::time::Duration::from_millis(2_100));
    vendor.fail(&key("a"), "late", 1);
    let mut clients: Vec<_> = (0..16).map(|_| router.connect()).collect();
    for client in &mut clients {
        client.write_all(message(&router.token("id-1"), "json").as_bytes()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(status(&read_answer(client)), 200);
    }
    let probes = vendor.credentials().iter().skip(2).filter(|used| **used == key("a")).count();
    assert_eq!(probes, 1, "one request tries it, the others go elsewhere");
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!(vendor.credentials().last(), Some(&key("a")), "it serves again");
}

#[test]
fn account_serves_exactly_as_many_at_a_time_as_it_may() {
    let vendor = Vendor::start();
    let accounts = ["a", "b"].map(|name| Account { max_concurrency: Some(3), ..account(name) });
    let setting =
        Setting { accounts: accounts.to_vec(), timeouts: PATIENT, threads: 2, ..Setting::default() };
    let router = Router::with(vendor.address, setting);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let ask = || router.ask("late");
        let asking: Vec<_> = (0..64).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    let served = answers.iter().filter(|answer| status(answer) == 200).count();
    assert_eq!(served, 6, "all places were taken, and no more");
    let refused = answers.iter().find(|answer| status(answer) != 200).unwrap();
    assert_eq!((status(refused), field(refused, "retry-after")), (503, Some("1")), "{refused}");
    let seen = vendor.seen.lock().unwrap();
    assert!(seen.open.values().all(|(_, most)| *most == 3), "{:?}", seen.open);
    drop(seen);
    assert_eq!(status(&router.ask("json")), 200, "places are given back");
}

#[test]
fn pinned_token_is_served_by_its_account_or_not_at_all() {
    let vendor = Vendor::start();
    let mut router = pool(&vendor, 2);
    router.publish(|snapshot| snapshot.tokens[0].account = Some("b".to_owned()));
    assert_eq!(status(&router.ask("json")), 200);
    vendor.fail(&key("b"), "overloaded", 1);
    assert_eq!(status(&router.ask("json")), 529);
    assert_eq!(vendor.credentials(), [key("b"), key("b")]);
    router.publish(|snapshot| snapshot.tokens[0].account = Some("gone".to_owned()));
    assert_eq!(status(&router.ask("json")), 502);
    assert_eq!(vendor.requests(), 2);
}

#[test]
fn disabled_account_never_serves() {
    let vendor = Vendor::start();
    let mut router = pool(&vendor, 2);
    let disable = |at: usize| {
        move |snapshot: &mut la_core::snapshot::Snapshot| {
            let Backend::Anthropic { accounts, .. } = &mut snapshot.providers[0].backend;
            accounts[at].disabled = true;
        }
    };
    router.publish(disable(0));
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!(vendor.credentials(), [key("b")]);
    router.publish(disable(1));
    let answer = router.ask("json");
    assert!(status(&answer) == 502 && body(&answer).contains("taken it out of service"), "{answer}");
    assert_eq!(vendor.requests(), 1);
}

#[test]
fn model_is_renamed_where_the_candidate_calls_it_otherwise_and_nothing_else_changes() {
    let vendor = Vendor::start();
    let mut router = pool(&vendor, 1);
    router.publish(|snapshot| {
        let candidate =
            Candidate { provider: "anthropic".to_owned(), priority: 0, model: Some("a \"b\"\\c".to_owned()) };
        snapshot.routes[0].candidates = vec![candidate];
    });
    let text = r#"{ "max_tokens" : 5, "model":"json" ,"messages":["json"], "x":"\u00e4" }"#;
    let token = router.token("id-1");
    let mut client = router.connect();
    let head = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {token}\r\ncontent-length: {}\r\n\r\n",
        text.len()
    );
    write!(client, "{head}{text}").unwrap();
    assert_eq!(status(&read_answer(&mut client)), 200);
    let sent = String::from_utf8(vendor.seen.lock().unwrap().requests[0].1.clone()).unwrap();
    assert_eq!(sent, r#"{ "max_tokens" : 5, "model":"a \"b\"\\c" ,"messages":["json"], "x":"\u00e4" }"#);
}

#[test]
fn next_provider_serves_when_no_account_of_the_first_can() {
    let (first, second) = (Vendor::start(), Vendor::start());
    let mut router = pool(&first, 2);
    let credential = la_core::credential::Credential::ApiKey { key: la_core::secret::Secret::new(key("z")) };
    router.credentials.insert("other/z".to_owned(), credential);
    let base_url = format!("http://{}", second.address);
    router.publish(|snapshot| {
        let timeouts = snapshot.providers[0].timeouts;
        let other = Provider { timeouts, ..Provider::anthropic("other", &base_url, vec![account("z")]) };
        snapshot.providers.push(other);
        let candidate =
            |provider: &str, priority| Candidate { provider: provider.to_owned(), priority, model: None };
        let candidates = vec![candidate("other", 7), candidate("anthropic", 1)];
        snapshot.routes = vec![Route { candidates, ..Route::to("anthropic", Vec::new()) }];
    });
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!((first.requests(), second.requests()), (1, 0));
    first.fail(&key("a"), "limited", 1);
    first.fail(&key("b"), "limited", 1);
    assert_eq!(status(&router.ask("json")), 200);
    assert_eq!((first.requests(), second.requests()), (3, 1));
    router.publish(|snapshot| snapshot.tokens[0].providers = vec!["anthropic".to_owned()]);
    assert_eq!(status(&router.ask("json")), 429, "a token that may not reach the other stays");
    assert_eq!((first.requests(), second.requests()), (3, 1));
}

#[test]
fn redirects_and_pages_are_no_answers_and_count_against_the_account() {
    let vendor = Vendor::start();
    for (what, expected) in [("redirect", 502), ("html", 200)] {
        let mut router = pool(&vendor, 2);
        router.publish(|snapshot| snapshot.providers[0].health.consecutive_failures = 1);
        assert_eq!(status(&router.ask(what)), expected, "{what}");
        assert_eq!(vendor.credentials().last(), Some(&key("a")), "{what} is not tried again");
        assert_eq!(status(&router.ask("json")), 200);
        assert_eq!(vendor.credentials().last(), Some(&key("b")), "{what} puts the account to rest");
    }
}
