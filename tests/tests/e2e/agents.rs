//! The samples' agents, as they are in the repository.

use anyhow::{Result, ensure};

use crate::upstream::ACCESS_CANARY;
use crate::world::World;

pub(crate) fn with_secret(world: &mut World) -> Result<String> {
    stream(world, "agent-job.yaml", "agent")
}

pub(crate) fn beside_forwarder(world: &mut World) -> Result<String> {
    let fact = stream(world, "forwarder-job.yaml", "agent-beside-forwarder")?;
    let pods =
        world.object("/api/v1/namespaces/agents/pods?labelSelector=job-name%3Dagent-beside-forwarder")?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let agent = &pod["spec"]["containers"][0];
        let mounts = agent["volumeMounts"].as_array().map_or(0, Vec::len);
        ensure!(mounts == 0, "the agent's container mounts something: {agent}");
        let sidecar = &pod["status"]["initContainerStatuses"][0]["state"]["terminated"];
        ensure!(sidecar["exitCode"] == 0, "the forwarder ended with {sidecar}");
    }
    Ok(fact)
}

fn stream(world: &World, sample: &str, job: &str) -> Result<String> {
    world.apply(&World::sample(sample)?)?;
    let name = format!("job/{job}");
    world.kubectl(&["-n", "agents", "wait", "--for=condition=Complete", &name, "--timeout=90s"])?;
    let answer = world.kubectl(&["-n", "agents", "logs", &name, "-c", "agent"])?;
    for event in ["event: message_start", "event: content_block_delta", "event: message_stop"] {
        ensure!(answer.contains(event), "no {event:?} in the agent's answer: {answer}");
    }
    Ok(format!(": {} events", answer.matches("event: ").count()))
}

pub(crate) fn upstream_saw_the_credential(world: &mut World) -> Result<String> {
    let seen = world.upstream.received();
    ensure!(!seen.is_empty(), "nothing reached the upstream");
    let bearer = format!("Bearer {ACCESS_CANARY}");
    for request in &seen {
        ensure!(request.header("authorization") == Some(&bearer), "a request without the credential");
        let beta = request.header("anthropic-beta").unwrap_or_default();
        ensure!(beta.contains("oauth-2025-04-20"), "a request without the OAuth beta flag: {beta:?}");
        let token = request.headers.iter().find(|(_, value)| value.contains("la_sk_"));
        ensure!(token.is_none(), "a token reached the upstream in {:?}", token.map(|(name, _)| name));
    }
    Ok(format!(": {} requests", seen.len()))
}
