//! Routers without a shared disk that serve the same manifests with the same key and the same Redis: each mints the
//! texts that the others mint.

use std::path::Path;
use std::time::Duration;

use la_tests::caller::Call;
use la_tests::cluster::eventually;
use la_tests::fakes::FakeUpstream;
use la_tests::fakes::vendor::{self, Known};
use la_tests::redis::RedisServer;
use la_tests::router::{Router, Setup};

const BODY: &str =
    r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"hi"}]}"#;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// How long a revocation at one router may take to reach the others.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// How long a text may take to be served, on a machine that is busy with other tests.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

fn setup(upstream: &FakeUpstream, server: &RedisServer) -> Setup {
    let setup = Setup::team(&upstream.base_url(), "").agent().env("TOKEN_SECRET", SECRET);
    setup.arg("--ledger", "redis").arg("--redis-url", &server.url())
}

fn three(upstream: &FakeUpstream, server: &RedisServer) -> Vec<Router> {
    (0..3).map(|_| setup(upstream, server).start().unwrap()).collect()
}

/// The text that all of them have, once they have the same.
fn common_text(routers: &[Router], other_than: &str) -> String {
    let common = eventually("one text everywhere", Duration::from_secs(10), || {
        let texts: Vec<_> = routers.iter().filter_map(|router| router.team_token("agent").ok()).collect();
        let is_common = texts.len() == routers.len() && texts.iter().all(|text| *text == texts[0]);
        Ok(texts.into_iter().next().filter(|text| is_common && text != other_than))
    });
    common.unwrap()
}

async fn statuses(routers: &[Router], token: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for router in routers {
        statuses.push(Call::message(token, BODY).send(router.address()).await.unwrap().status);
    }
    statuses
}

async fn reaches(routers: &[Router], token: &str, wanted: u16) {
    let mut found = Vec::new();
    let all = async {
        while found.is_empty() || found.iter().any(|status| *status != wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            found = statuses(routers, token).await;
        }
    };
    let within = if wanted == 200 { SERVED_WITHIN } else { REFUSED_WITHIN };
    let reached = tokio::time::timeout(within, all).await;
    assert!(reached.is_ok(), "{found:?} instead of {wanted}");
}

/// The id of the text that works.
fn live_id(router: &Router) -> String {
    let (_, list) = router.ask_admin("GET", "/api/tokens", "").unwrap();
    let live = list["data"].as_array().unwrap().iter().find(|token| token["revoked"] == false);
    live.unwrap()["id"].as_str().unwrap().to_owned()
}

fn manifest(router: &Router) -> std::path::PathBuf {
    router.directory().join("manifests/agent.yaml")
}

fn take(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    std::fs::remove_file(path).unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_routers_mint_one_text_which_each_serves_and_one_revokes_for_all() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let mut routers = three(&upstream, &server);
    let first = common_text(&routers, "");
    reaches(&routers, &first, 200).await;

    // Revoked at one: refused at all, and all mint the same new one.
    routers[1].tokens(&["revoke", &live_id(&routers[0])]).unwrap();
    reaches(&routers, &first, 403).await;
    let second = common_text(&routers, &first);
    reaches(&routers, &second, 200).await;

    // After a restart, and with all but the Redis lost.
    routers[0].kill();
    routers[0].restart().unwrap();
    assert_eq!(routers[0].team_token("agent").unwrap(), second);
    let fourth = setup(&upstream, &server).start().unwrap();
    assert_eq!(common_text(&[fourth], ""), second);
    reaches(&routers, &first, 403).await;
    reaches(&routers, &second, 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_token_stays_revoked_when_it_is_made_anew_and_a_router_that_never_had_it_revokes_nothing() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let server = RedisServer::start(&[]).unwrap();
    let routers = three(&upstream, &server);
    let first = common_text(&routers, "");
    let stranger = Setup::team(&upstream.base_url(), "").env("TOKEN_SECRET", SECRET);
    let stranger = stranger.arg("--ledger", "redis").arg("--redis-url", &server.url()).start().unwrap();
    assert_eq!(
        statuses(std::slice::from_ref(&stranger), &first).await,
        [401],
        "its manifests have no such token"
    );
    reaches(&routers, &first, 200).await;

    let texts: Vec<_> = routers.iter().map(|router| take(&manifest(router))).collect();
    reaches(&routers, &first, 401).await;
    for (router, text) in routers.iter().zip(&texts) {
        std::fs::write(manifest(router), text).unwrap();
    }
    let second = common_text(&routers, &first);
    reaches(&routers, &second, 200).await;
    reaches(&routers, &first, 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_served_from_the_file_while_the_server_is_away_and_no_revocation_is_promised() {
    let upstream = FakeUpstream::start(vendor::script(Known::default())).await.unwrap();
    let mut server = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let routers = three(&upstream, &server);
    let first = common_text(&routers, "");
    let id = live_id(&routers[0]);
    server.kill();
    let refused = routers[0].tokens(&["revoke", &id]).unwrap_err().to_string();
    assert!(refused.contains("tokens are shared through a Redis"), "{refused}");
    assert_eq!(routers[0].team_token("agent").unwrap(), first);
    server.restart().unwrap();
    let revoked = eventually("the revocation", Duration::from_secs(10), || {
        Ok(routers[0].tokens(&["revoke", &id]).ok())
    });
    revoked.unwrap();
    let second = common_text(&routers, &first);
    let back =
        |router: &Router| router.ask_admin("GET", "/readyz", "").is_ok_and(|(status, _)| status == 200);
    eventually("all to be ready", Duration::from_secs(10), || Ok(routers.iter().all(back).then_some(())))
        .unwrap();
    reaches(&routers, &first, 403).await;
    reaches(&routers, &second, 200).await;
}
