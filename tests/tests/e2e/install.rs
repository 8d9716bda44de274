//! The way a platform team installs: chart, credential, provider, proxy, token.

use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use la_tests::cluster::{component, measure};

use crate::node::run;
use crate::upstream::{ACCESS_CANARY, REFRESH_CANARY};
use crate::world::World;

/// The user that the images run as.
const USER: u32 = 65_532;

pub(crate) fn chart(world: &mut World) -> Result<String> {
    world.apply(
        "{apiVersion: v1, kind: Namespace, metadata: {name: la-router, labels: \
         {pod-security.kubernetes.io/enforce: restricted}}}",
    )?;
    let helm = component("helm", "helm")?;
    let install =
        ["install", "la-router", "charts/la-router", "-n", "la-router", "--wait", "--timeout", "120s"];
    let (outcome, took) = measure(|| run(world.node.command(helm).args(install)));
    outcome?;
    Ok(format!(": {:.1} s with helm install --wait", took.as_secs_f64()))
}

pub(crate) fn samples(world: &mut World) -> Result<String> {
    volume(world)?;
    world.upstream.publish(world)?;
    login(world)?;
    let backend = "    anthropic:\n";
    let provider = World::sample("provider.yaml")?;
    ensure!(provider.contains(backend), "provider.yaml has another form than this test knows");
    let provider =
        provider.replacen(backend, &format!("{backend}      baseURL: {}\n", world.upstream.url()), 1);
    world.apply(&provider)?;
    world.apply(&World::sample("proxy.yaml")?)?;
    let (outcome, took) = measure(|| {
        world.kubectl(&[
            "-n",
            "la-router",
            "wait",
            "--for=condition=Available",
            "rproxy/gateway",
            "--timeout=90s",
        ])
    });
    outcome?;
    world.apply(&World::sample("token.yaml")?)?;
    world.kubectl(&["-n", "agents", "wait", "--for=condition=Ready", "rtok/agent", "--timeout=30s"])?;
    world.kubectl(&[
        "-n",
        "la-router",
        "wait",
        "--for=condition=Ready",
        "provider/claude",
        "--timeout=30s",
    ])?;
    Ok(format!(": the proxy {:.1} s after its apply", took.as_secs_f64()))
}

/// Nothing provisions volumes on this node, so one is there for the proxy's claim.
fn volume(world: &World) -> Result<()> {
    let path = world.node.directory.join("volumes/ledger");
    std::fs::create_dir_all(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o770))?;
    chown(&path, Some(USER), Some(USER))?;
    let path = path.to_str().context("path is not UTF-8")?;
    world.apply(&format!(
        "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: ledger}}, spec: {{capacity: {{storage: 1Gi}}, \
         accessModes: [ReadWriteOnce], hostPath: {{path: {path}, type: Directory}}}}}}"
    ))
}

/// The Secret of provider.yaml's first line, from a login file as Claude Code writes it.
fn login(world: &World) -> Result<()> {
    let in_an_hour = world.upstream.started.saturating_add(Duration::from_secs(3600)).as_millis();
    let file = world.node.directory.join("credentials.json");
    let text = serde_json::json!({"claudeAiOauth": {
        "accessToken": ACCESS_CANARY, "refreshToken": REFRESH_CANARY, "expiresAt": u64::try_from(in_an_hour)?,
        "scopes": ["user:inference"], "subscriptionType": "max"}});
    std::fs::write(&file, text.to_string())?;
    let file = format!("--from-file=credentials.json={}", file.display());
    world.kubectl(&["-n", "la-router", "create", "secret", "generic", "claude-login", &file])?;
    Ok(())
}
