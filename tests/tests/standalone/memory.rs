//! What budgets cost in memory, when every token has some and has used them.

use futures::future::join_all;
use la_core::budget::LimitsSpec;
use la_tests::caller::{Call, Caller};
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::gateway::{Gateway, Token};
use la_tests::proof;

/// Most that the budgets of one token may take, in bytes.
const MOST_BYTES: usize = 1_000;

/// Clients that use tokens at a time.
const CLIENTS: usize = 16;

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

/// Four budgets of three units in four kinds of window, and a rate.
fn limits() -> LimitsSpec {
    serde_json::from_str(
        r#"{"budgets":[
            {"name":"day","unit":"Requests","limit":"1000","window":{"calendar":{"every":"Day"}}},
            {"name":"month","unit":"Tokens","limit":"1000000000","window":{"calendar":{"every":"Month"}}},
            {"name":"week","unit":"USD","limit":"50","window":{"rolling":"168h"}},
            {"name":"life","unit":"USD","limit":"500"}],
          "rates":[{"unit":"Requests","limit":100,"per":"1m"}]}"#,
    )
    .unwrap()
}

/// Resident bytes that are a router's own, with `count` tokens after each was used once. The first has budgets in any
/// case, so that what the program itself needs for any is not taken for theirs.
async fn own_bytes(upstream: &FakeUpstream, count: usize, limits: &LimitsSpec) -> usize {
    let token = |at, limits| Token { name: format!("t{at}"), limits, suspended: false };
    let first = token(0, self::limits());
    let tokens: Vec<_> =
        std::iter::once(first).chain((1..=count).map(|at| token(at, limits.clone()))).collect();
    let gateway = Gateway::start(&upstream.base_url(), "sk-ant-api03-key", &tokens, &["--threads", "1"]);
    let gateway = gateway.unwrap();
    let gateway = &gateway;
    // A budget's first use waits for the disk, so several are made at a time.
    let uses = tokens.chunks(tokens.len().div_ceil(CLIENTS)).map(|tokens| async move {
        let mut caller = Caller::connect(gateway.address()).await.unwrap();
        for token in tokens {
            let call = Call::message(gateway.token(&token.name).unwrap(), BODY);
            caller.write(&call.bytes()).await.unwrap();
            let reply = caller.reply(false).await.unwrap();
            assert_eq!(reply.status, 200, "{}", reply.text());
        }
    });
    join_all(uses).await;
    usize::try_from(gateway.own_bytes().unwrap()).unwrap()
}

#[tokio::test]
async fn budgets_of_ten_thousand_tokens_take_at_most_ten_megabytes() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let count = proof::rounds(10_000);
    // A busy machine only ever adds to what is resident: the least of three is what it takes.
    let (mut without, mut with) = (usize::MAX, usize::MAX);
    for _ in 0..3 {
        without = without.min(own_bytes(&upstream, count, &LimitsSpec::default()).await);
        with = with.min(own_bytes(&upstream, count, &limits()).await);
    }
    let more = with.saturating_sub(without);
    println!("{count} tokens: {without} bytes without budgets, {more} more with them");
    assert!(more <= count * MOST_BYTES, "{more} bytes more than the {without} without budgets");
}
