//! How long an apply and a deletion take until the running proxy acts on them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use la_tests::cluster::{Client, eventually, measure};
use la_tests::proof::rounds;
use serde_json::{Value, json};

use crate::world::World;

const TOKENS: &str = "/apis/router.link-assistant.dev/v1alpha1/namespaces/agents/routertokens";
const APPLY_LIMIT: Duration = Duration::from_secs(3);
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn apply_to_answer(world: &mut World) -> Result<String> {
    let gateway = world.gateway()?;
    let mut times = Vec::new();
    for number in 0..rounds(20).max(5) {
        let name = format!("fast-{number}");
        let (outcome, took) = measure(|| issue(world, gateway, &name));
        outcome?;
        times.push(took);
    }
    let (median, longest) = summary(&mut times)?;
    ensure!(median <= APPLY_LIMIT, "the median of {} tries is {median:?}", times.len());
    Ok(format!(": median {median:.2?}, longest {longest:.2?} of {} tries", times.len()))
}

pub(crate) fn delete_to_refusal(world: &mut World) -> Result<String> {
    let gateway = world.gateway()?;
    let mut times = Vec::new();
    for number in 0..rounds(50).max(10) {
        let name = format!("doomed-{number}");
        let token = issue(world, gateway, &name)?;
        let (outcome, took) = measure(|| {
            world.api.delete(&format!("{TOKENS}/{name}"))?;
            eventually("the deleted token to be refused", PATIENCE, || {
                Ok((ask(gateway, &token)? == 401).then_some(()))
            })
        });
        outcome?;
        times.push(took);
    }
    let (median, longest) = summary(&mut times)?;
    ensure!(
        longest <= REFUSAL_LIMIT,
        "the longest of {} tries is {longest:?}, median {median:?}",
        times.len()
    );
    Ok(format!(": median {median:.2?}, longest {longest:.2?} of {} tries", times.len()))
}

pub(crate) fn without_operator(world: &mut World) -> Result<String> {
    let gateway = world.gateway()?;
    let token = issue(world, gateway, "lonely")?;
    let scale = |replicas: &str| {
        world.kubectl(&[
            "-n",
            "la-router",
            "scale",
            "deployment/la-router-operator",
            &format!("--replicas={replicas}"),
        ])
    };
    scale("0")?;
    world.kubectl(&[
        "-n",
        "la-router",
        "wait",
        "--for=delete",
        "pod",
        "-l",
        "app.kubernetes.io/component=operator",
        "--timeout=60s",
    ])?;
    ensure!(ask(gateway, &token)? == 200, "the gateway refused a token because no operator runs");
    scale("1")?;
    world.kubectl(&[
        "-n",
        "la-router",
        "rollout",
        "status",
        "deployment/la-router-operator",
        "--timeout=60s",
    ])?;
    Ok(String::new())
}

/// Applies a RouterToken and waits until a request with its text is answered.
fn issue(world: &World, gateway: Client, name: &str) -> Result<String> {
    let object = json!({
        "apiVersion": "router.link-assistant.dev/v1alpha1", "kind": "RouterToken", "metadata": {"name": name},
        "spec": {"proxyRef": {"name": "gateway", "namespace": "la-router"}, "secretName": format!("{name}-token"),
            "limits": {"maxRequests": 1000}},
    });
    world.api.create(TOKENS, &object)?;
    let secret = format!("/api/v1/namespaces/agents/secrets/{name}-token");
    let token =
        eventually("the minted Secret", PATIENCE, || world.api.get(&secret)?.map(|s| text(&s)).transpose())?;
    eventually("the token to be accepted", PATIENCE, || Ok((ask(gateway, &token)? == 200).then_some(())))?;
    Ok(token)
}

fn text(secret: &Value) -> Result<String> {
    let value = secret["data"]["token"].as_str().context("the Secret has no key `token`")?;
    Ok(String::from_utf8(base64::engine::general_purpose::STANDARD.decode(value)?)?)
}

fn ask(gateway: Client, token: &str) -> Result<u16> {
    let body =
        r#"{"model":"claude-haiku-4-5","max_tokens":16,"messages":[{"role":"user","content":"Hello"}]}"#;
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    Ok(gateway.send_with("POST", "/v1/messages", &headers, body)?.status)
}

fn summary(times: &mut [Duration]) -> Result<(Duration, Duration)> {
    times.sort();
    let median = times.get(times.len() / 2).context("nothing was measured")?;
    Ok((*median, *times.last().context("nothing was measured")?))
}
