//! The vendor's credential, looked for everywhere that somebody else could read.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use la_core::report::{ADMIN_LIFETIME_SECONDS, ADMIN_TYPE, AdminClaims};
use la_core::secret::Secret;
use la_core::token::SigningKey;
use la_tests::cluster::Client;
use serde_json::Value;

use crate::upstream::{self, ACCESS_CANARY, REFRESH_CANARY};
use crate::world::World;

/// What an agent can see of itself: environment, files of its mounts, processes.
const LOOK_AROUND: &str =
    "env; cat /var/run/la-router/* || true; cat /proc/*/environ /proc/*/cmdline || true";

/// Where a proxy's pod answers its operator.
const ADMIN_PORT: u16 = 8081;

pub(crate) fn credential(world: &mut World) -> Result<String> {
    let mut places = Places::default();
    secrets(world, &mut places)?;
    objects(world, &mut places)?;
    agents_view(world, &mut places)?;
    logs(world, &mut places)?;
    answers(world, &mut places)?;
    ensure!(asked_as_the_operator(world, &mut places)? > 0, "no pod of a proxy answered the operator");
    ensure!(places.expected == 2, "found in {} of the two places where it has to be", places.expected);
    ensure!(places.found.is_empty(), "found in {:?}", places.found);
    Ok(format!(": {} places searched", places.searched))
}

#[derive(Debug, Default)]
struct Places {
    searched: usize,
    /// The login's own Secret and the snapshot; that they are found proves that the search works.
    expected: usize,
    found: Vec<String>,
}

impl Places {
    fn search(&mut self, place: &str, content: &str) {
        self.searched += 1;
        if holds(content) {
            self.found.push(place.to_owned());
        }
    }
}

/// Plain, or in base64 at any of the three alignments.
fn holds(content: &str) -> bool {
    [ACCESS_CANARY, REFRESH_CANARY].iter().any(|canary| {
        let encoded = (0..3).filter_map(|skip| {
            let whole = canary.get(skip..canary.len() - (canary.len() - skip) % 3)?;
            Some(base64::engine::general_purpose::STANDARD_NO_PAD.encode(whole))
        });
        content.contains(canary) || encoded.into_iter().any(|text| content.contains(&text))
    })
}

fn secrets(world: &World, places: &mut Places) -> Result<()> {
    let list = world.object("/api/v1/secrets")?;
    for secret in list["items"].as_array().into_iter().flatten() {
        let name = format!("{}/{}", word(secret, "/metadata/namespace"), word(secret, "/metadata/name"));
        let data = secret["data"].as_object();
        let is_snapshot = data.is_some_and(|data| data.contains_key("snapshot.json"));
        let mut content = secret["metadata"].to_string();
        for value in data.into_iter().flatten().filter_map(|(_, value)| value.as_str()) {
            let bytes = base64::engine::general_purpose::STANDARD.decode(value)?;
            content.push_str(&String::from_utf8_lossy(&bytes));
        }
        if name == "la-router/claude-login" || is_snapshot {
            ensure!(!is_snapshot || !content.contains(REFRESH_CANARY), "the refresh token went to a proxy");
            places.expected += usize::from(holds(&content));
        } else {
            places.search(&format!("secret {name}"), &content);
        }
    }
    Ok(())
}

/// Every object of every kind that can be listed: specs, statuses, Events, ConfigMaps.
fn objects(world: &World, places: &mut Places) -> Result<()> {
    let kinds = world.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    for kind in kinds.lines().filter(|kind| *kind != "secrets") {
        let list = world.kubectl(&[
            "get",
            kind,
            "-A",
            "-o",
            "json",
            "--show-managed-fields",
            "--ignore-not-found",
        ])?;
        places.search(&format!("objects of kind {kind}"), &list);
    }
    Ok(())
}

fn agents_view(world: &World, places: &mut Places) -> Result<()> {
    for (sample, job) in [("agent-job.yaml", "agent"), ("forwarder-job.yaml", "agent-beside-forwarder")] {
        let yaml = World::sample(sample)?.replacen(&format!("name: {job}\n"), "name: looks-around\n", 1);
        let (head, tail) = yaml.split_once("            - |\n").context("sample has another form")?;
        let rest = tail.find("          volumeMounts:").or_else(|| tail.find("          securityContext:"));
        let rest = tail.get(rest.context("sample has another form")?..).unwrap_or_default();
        world.apply(&format!("{head}            - |\n              {LOOK_AROUND}\n{rest}"))?;
        let wait = ["-n", "agents", "wait", "--for=condition=Complete", "job/looks-around", "--timeout=60s"];
        world.kubectl(&wait)?;
        let seen = world.kubectl(&["-n", "agents", "logs", "job/looks-around", "-c", "agent"])?;
        ensure!(seen.contains("KUBERNETES_SERVICE_HOST"), "the agent did not see its environment: {seen}");
        let has_token = seen.contains("la_sk_");
        ensure!(has_token == (job == "agent"), "{job} sees a token: {has_token}");
        places.search(&format!("what the agent of {sample} sees"), &seen);
        // In the foreground, so that the pod is gone with it when the next search lists pods.
        world.kubectl(&["-n", "agents", "delete", "job", "looks-around", "--cascade=foreground"])?;
    }
    Ok(())
}

fn logs(world: &World, places: &mut Places) -> Result<()> {
    let pods = world.object("/api/v1/pods")?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let (namespace, name) = (word(pod, "/metadata/namespace"), word(pod, "/metadata/name"));
        let log = world.kubectl(&["-n", &namespace, "logs", &name, "--all-containers"])?;
        ensure!(
            !log.contains("la_sk_") || namespace == "agents",
            "a token is in the log of {namespace}/{name}"
        );
        places.search(&format!("log of {namespace}/{name}"), &log);
    }
    Ok(())
}

/// Metrics, probes and what the admin port and the gateway say to those who may not ask.
fn answers(world: &World, places: &mut Places) -> Result<()> {
    let pods = world.object("/api/v1/namespaces/la-router/pods")?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let Some(address) = pod["status"]["podIP"].as_str() else { continue };
        for port in ports(pod) {
            let client = Client::new(format!("{address}:{port}").parse()?);
            for path in [
                "/metrics",
                "/livez",
                "/readyz",
                "/health",
                "/status",
                "/v1/report",
                "/v1/accounts",
                "/v1/usage",
            ] {
                let answer = client.send("GET", path, "", "")?;
                let open = ["/metrics", "/livez", "/readyz", "/health"].contains(&path);
                ensure!(
                    open || answer.status != 200,
                    "{path} of {address}:{port} answers without a credential"
                );
                places.search(&format!("{path} of {address}:{port}"), &answer.body);
            }
        }
    }
    Ok(())
}

/// What the admin port says to its operator, with a credential signed as the operator signs it. How many pods
/// were asked.
fn asked_as_the_operator(world: &World, places: &mut Places) -> Result<usize> {
    let pods = world.object("/api/v1/namespaces/la-router/pods")?;
    let mut asked = 0;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let proxy = word(pod, "/metadata/labels/app.kubernetes.io~1instance");
        let keys = format!("/api/v1/namespaces/la-router/secrets/{proxy}-signing-keys");
        let (Some(address), Ok(keys)) = (pod["status"]["podIP"].as_str(), world.object(&keys)) else {
            continue;
        };
        let seed = base64::engine::general_purpose::STANDARD.decode(word(&keys, "/data/admin.key"))?;
        let key = SigningKey::Ed25519 { seed: Secret::new(String::from_utf8(seed)?) };
        let now = i64::try_from(upstream::now().as_secs())?;
        let claims =
            AdminClaims { aud: word(pod, "/metadata/uid"), iat: now, exp: now + ADMIN_LIFETIME_SECONDS };
        let bearer = format!("Bearer {}", key.sign(ADMIN_TYPE, &claims)?.expose());
        let client = Client::new(format!("{address}:{ADMIN_PORT}").parse()?);
        for path in ["/status", "/v1/report", "/v1/accounts", "/v1/usage"] {
            let answer = client.send_with("GET", path, &[("authorization", &bearer)], "")?;
            ensure!(answer.status == 200, "{path} of {address} answers its operator with {}", answer.status);
            ensure!(!answer.body.contains("la_sk_"), "{path} of {address} shows a token");
            places.search(&format!("{path} of {address} for its operator"), &answer.body);
        }
        asked += 1;
    }
    Ok(asked)
}

fn ports(pod: &Value) -> Vec<u64> {
    let ports = pod["spec"]["containers"][0]["ports"].as_array();
    ports.into_iter().flatten().filter_map(|port| port["containerPort"].as_u64()).collect()
}

fn word(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
