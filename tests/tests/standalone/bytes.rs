//! Bytes pass untouched in both directions, whatever way they are split, and what they used is counted right.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use la_core::amount::Unit;
use la_core::usage::Usage;
use la_tests::caller::Call;
use la_tests::cluster::eventually;
use la_tests::fakes::{Answer, FakeUpstream, Received, Script, always, sha256};
use la_tests::proof::{rounds, seed};
use la_tests::router::{Router, Setup};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::budgeted;
use crate::stories::{Story, tell};

const AT_ONCE: usize = 16;

/// What one request should have come to.
struct Sent {
    story: Arc<Story>,
    request_id: String,
    body_sha256: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_requests_pass_byte_for_byte_and_usage_is_the_truth() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    let stories: Vec<Arc<Story>> = (0..rounds(1000)).map(|_| Arc::new(tell(&mut random))).collect();
    let upstream = FakeUpstream::start(teller(stories.clone())).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&["--label", "bytes"]).unwrap();
    let bodies: Vec<String> = (0..stories.len()).map(|number| request_body(&mut random, number)).collect();
    let calls = stories.iter().zip(bodies).enumerate().map(|(number, (story, body))| {
        exchange(
            router.address(),
            token.clone(),
            Arc::clone(story),
            body,
            format!("seed {seed}, story {number}"),
        )
    });
    let sent: Vec<Sent> = futures::stream::iter(calls).buffer_unordered(AT_ONCE).collect().await;

    let mut arrived: Vec<String> =
        upstream.received().into_iter().map(|request| request.body_sha256).collect();
    let mut expected: Vec<String> = sent.iter().map(|sent| sent.body_sha256.clone()).collect();
    arrived.sort_unstable();
    expected.sort_unstable();
    assert_eq!(arrived, expected, "seed {seed}: request bodies changed on their way");
    check_log(&router, &sent, seed);
    check_ledger(&router, &sent, seed);
}

/// Answers the request for the model `story-N` with that story.
fn teller(stories: Vec<Arc<Story>>) -> Script {
    Arc::new(move |request: &Received| {
        let number = request.model().strip_prefix("story-").and_then(|number| number.parse::<usize>().ok());
        let story = number.and_then(|number| stories.get(number));
        story.map_or_else(
            || Answer::error(404, "not_found_error", "no such story"),
            |story| story.answer.clone(),
        )
    })
}

/// A request body as clients may write it: its members in any order, with white space and escapes of theirs.
fn request_body(random: &mut StdRng, number: usize) -> String {
    let length =
        if random.random_bool(0.1) { random.random_range(0..300_000) } else { random.random_range(0..2000) };
    let text: String = (0..length).map(|_| random.random_range(' '..'\u{2ff}')).collect();
    let text = serde_json::to_string(&text).unwrap();
    let space = " ".repeat(random.random_range(0..3));
    let mut members = [
        format!("\"model\"{space}:{space}\"story-{number}\""),
        format!("\"stream\":{space}true"),
        "\"max_tokens\":1024".to_owned(),
        format!("\"messages\":[{{\"role\":\"user\",{space}\"content\":{text}}}]"),
        "\"system\":\"caf\\u00e9 \\\"model\\\": 1e5\",\"x\":1.50e+1,\"x\":-0".to_owned(),
    ];
    for at in (1..members.len()).rev() {
        members.swap(at, random.random_range(0..=at));
    }
    format!("{space}{{{}}}{space}", members.join(&format!("{space},\n")))
}

async fn exchange(address: SocketAddr, token: String, story: Arc<Story>, body: String, what: String) -> Sent {
    let body_sha256 = sha256(body.as_bytes());
    let reply = Call::message(&token, body).send(address).await.unwrap();
    assert_eq!(reply.status, 200, "{what}: {}", reply.text());
    assert!(reply.complete, "{what}: cut short after {} bytes", reply.body.len());
    assert!(reply.body == story.answer.body, "{what}: the stream changed on its way: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"), "{what}");
    let request_id = reply.header("x-request-id").unwrap().to_owned();
    Sent { story, request_id, body_sha256 }
}

/// Every request has one line, with its own counts.
fn check_log(router: &Router, sent: &[Sent], seed: u64) {
    let lines = eventually("a line for each request", Duration::from_secs(10), || {
        let lines = request_lines(&router.log());
        Ok((lines.len() == sent.len()).then_some(lines))
    });
    let lines = lines.unwrap();
    for sent in sent {
        let line = &lines[&sent.request_id];
        let counted = (line["usage.input_tokens"].as_u64(), line["usage.output_tokens"].as_u64());
        let used = &sent.story.used;
        let expected = (Some(used.total_input()), Some(used.output_tokens));
        assert_eq!(
            counted,
            expected,
            "seed {seed}: {line} after {}",
            String::from_utf8_lossy(&sent.story.answer.body)
        );
    }
}

fn request_lines(log: &str) -> HashMap<String, Value> {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let requests = lines.filter(|line| line.get("outcome").is_some());
    requests.filter_map(|line| Some((line.get("request.id")?.as_str()?.to_owned(), line))).collect()
}

/// The ledger has the sum of all.
fn check_ledger(router: &Router, sent: &[Sent], seed: u64) {
    let sum = sent.iter().fold(Usage::default(), |sum, sent| sum.plus(&sent.story.used));
    let (_, usage) = router.ask_admin("GET", "/v1/usage", "").unwrap();
    let entry = &usage["data"][0];
    assert_eq!(entry["requests"], sent.len(), "seed {seed}: {usage}");
    assert_eq!(serde_json::from_value::<Usage>(entry["tokens"].clone()).unwrap(), sum, "seed {seed}");
}

#[tokio::test]
async fn json_answers_pass_byte_for_byte_and_are_counted() {
    let text = r#"x\u00e9\n\"usage\":{\"input_tokens\":1}"#.repeat(100_000);
    let body = format!(
        r#"{{ "id":"msg_1","content":[{{"type":"text","text":"{text}"}}], "usage":{{"input_tokens":7,"output_tokens":9}} }}"#
    );
    let upstream = FakeUpstream::start(always(Answer::json(200, body.clone()))).await.unwrap();
    let router = Setup::flags(&upstream.base_url()).start().unwrap();
    let token = router.issue(&[]).unwrap();
    let reply =
        Call::message(&token, r#"{"model":"m","max_tokens":1}"#).send(router.address()).await.unwrap();
    assert_eq!((reply.status, reply.complete), (200, true));
    assert!(reply.body == body.as_bytes(), "the answer changed on its way");
    let used = eventually("the request to be settled", Duration::from_secs(10), || {
        let (_, usage) = router.ask_admin("GET", "/v1/usage", "")?;
        let entry = usage["data"][0].clone();
        Ok((entry["requests"] == 1).then(|| entry["tokens"].clone()))
    });
    let used: Usage = serde_json::from_value(used.unwrap()).unwrap();
    assert_eq!((used.input_tokens, used.output_tokens), (7, 9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answer_in_another_vendors_form_passes_as_it_is_and_costs_what_was_reserved() {
    let body = r#"{"id":"gen-1","object":"chat.completion","choices":[{"message":{"role":"assistant","content":"hi"}}],
        "usage":{"prompt_tokens":7,"completion_tokens":9}}"#;
    let upstream = FakeUpstream::start(always(Answer::json(200, body))).await.unwrap();
    let router = budgeted::setup(&upstream.base_url()).start().unwrap();
    let token = budgeted::add_token(&router, "agent", &budgeted::limits(Unit::Tokens, 100));
    let call = Call::message(&token, budgeted::body("agent", false));
    let reply = call.send(router.address()).await.unwrap();
    assert_eq!((reply.status, reply.complete), (200, true));
    assert!(reply.body == body.as_bytes(), "the answer changed on its way");
    let charge = eventually("the request to be settled", Duration::from_secs(10), || {
        Ok(budgeted::lines(&router).pop())
    });
    let charge = charge.unwrap();
    assert_eq!(charge["quality"], "unknown", "{charge}");
    assert_eq!(charge["charged"]["tokens"], charge["reserved"]["tokens"], "{charge}");
    assert_ne!(charge["charged"]["tokens"], 0, "{charge}");
}
