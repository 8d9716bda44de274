//! One pod as a process.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::text;
use crate::cluster::{Client, Process, components, volume};

/// Rounds of 100 ms between two looks at the Secrets of a pod that does not change.
const UNPROMPTED_ROUNDS: u64 = 600;

/// Rounds between two starts of a container that ends.
const RESTART_ROUNDS: u64 = 5;

#[derive(Debug)]
pub(super) struct Pod {
    name: String,
    address: IpAddr,
    directory: PathBuf,
    claims: PathBuf,
    process: Option<Process>,
    starts: u64,
    round: u64,
    last_end: u64,
    annotations: Value,
    reported: Option<(bool, u64)>,
}

impl Pod {
    pub(super) fn new(object: &Value, directory: &Path, address: IpAddr) -> Result<Self> {
        let own = directory.join(text(object, "/metadata/uid"));
        std::fs::create_dir_all(&own)?;
        Ok(Self {
            name: text(object, "/metadata/name"),
            address,
            directory: own,
            claims: directory.join("claims"),
            process: None,
            starts: 0,
            round: 0,
            last_end: 0,
            annotations: Value::Null,
            reported: None,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub(super) fn kill(&mut self) {
        self.process = None;
        self.last_end = self.round;
    }

    fn log_file(&self) -> PathBuf {
        self.directory.join("container.log")
    }

    pub(super) fn sync(&mut self, object: &Value, client: Client) -> Result<()> {
        self.round += 1;
        let annotations = object.pointer("/metadata/annotations").cloned().unwrap_or(json!({}));
        if annotations != self.annotations || self.round.is_multiple_of(UNPROMPTED_ROUNDS) {
            self.write_volumes(object, client)?;
            self.annotations = annotations;
        }
        if let Some(process) = &mut self.process
            && process.ended()?.is_some()
        {
            self.kill();
        }
        if self.process.is_none() && (self.starts == 0 || self.round >= self.last_end + RESTART_ROUNDS) {
            self.process = Some(self.start(object)?);
            self.starts += 1;
        }
        let now = (self.process.is_some() && self.probe(object), self.starts);
        if self.reported != Some(now) {
            client.merge(&format!("{}/status", path(object)), &self.status(object, now))?;
            self.reported = Some(now);
        }
        Ok(())
    }

    fn write_volumes(&self, object: &Value, client: Client) -> Result<()> {
        for volume in items(object, "/spec/volumes") {
            let directory = self.volume_directory(volume);
            std::fs::create_dir_all(&directory)?;
            let name = text(volume, "/secret/secretName");
            if name.is_empty() {
                continue;
            }
            let namespace = text(object, "/metadata/namespace");
            let secret = client.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"))?;
            if secret.is_none() && volume.pointer("/secret/optional") == Some(&Value::Bool(true)) {
                continue;
            }
            let secret = secret.with_context(|| format!("secret {name} is not there"))?;
            volume::write(&directory, &volume::content(&secret)?, self.round)?;
        }
        Ok(())
    }

    fn volume_directory(&self, volume: &Value) -> PathBuf {
        match volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str) {
            Some(claim) => self.claims.join(claim),
            None => self.directory.join("volumes").join(text(volume, "/name")),
        }
    }

    fn start(&self, object: &Value) -> Result<Process> {
        let container = object.pointer("/spec/containers/0").context("pod has no container")?;
        let mut mounts: Vec<(String, String)> = Vec::new();
        for mount in items(container, "/volumeMounts") {
            let is_it = |volume: &&Value| volume["name"] == mount["name"];
            let volume = items(object, "/spec/volumes").find(is_it).context("mount without volume")?;
            let directory = self.volume_directory(volume).to_str().context("path is not UTF-8")?.to_owned();
            mounts.push((text(mount, "/mountPath"), directory));
        }
        let args = items(container, "/args").filter_map(Value::as_str).map(|arg| {
            let moved = mounts.iter().fold(arg.to_owned(), |arg, (from, to)| arg.replace(from, to));
            moved.replace("0.0.0.0", &self.address.to_string())
        });
        let mut command = Command::new(components::la_router()?);
        command.args(args).env_clear().envs(environment(container, object, self.address));
        Process::spawn(&mut command, &self.log_file())
    }

    /// The readiness probe of the pod, a pod without one is ready when it runs.
    fn probe(&self, object: &Value) -> bool {
        let Some(probe) = object.pointer("/spec/containers/0/readinessProbe/httpGet") else { return true };
        let named = |port: &&Value| port["name"] == probe["port"];
        let port = probe["port"].as_u64().or_else(|| {
            items(object, "/spec/containers/0/ports")
                .find(named)
                .and_then(|port| port["containerPort"].as_u64())
        });
        let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return false };
        let client = Client::new(SocketAddr::new(self.address, port));
        client.send("GET", &text(probe, "/path"), "", "").is_ok_and(|answer| answer.status == 200)
    }

    fn status(&self, object: &Value, (ready, starts): (bool, u64)) -> Value {
        let container = object.pointer("/spec/containers/0").cloned().unwrap_or_default();
        let since = object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default();
        let condition = |kind: &str, holds: bool| json!({"type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": since});
        let state = match self.process {
            Some(_) => json!({"running": {"startedAt": since}}),
            None => json!({"waiting": {"reason": "CrashLoopBackOff"}}),
        };
        json!({"status": {
            "phase": "Running",
            "startTime": since,
            "podIP": self.address.to_string(),
            "podIPs": [{"ip": self.address.to_string()}],
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", ready), condition("Ready", ready)],
            "containerStatuses": [{
                "name": container["name"], "image": container["image"], "imageID": "", "ready": ready,
                "started": self.process.is_some(), "restartCount": starts.saturating_sub(1), "state": state}],
        }})
    }
}

fn environment(container: &Value, object: &Value, address: IpAddr) -> Vec<(String, String)> {
    let value = |variable: &Value| match text(variable, "/valueFrom/fieldRef/fieldPath").as_str() {
        "" => text(variable, "/value"),
        "status.podIP" => address.to_string(),
        field => text(object, &format!("/{}", field.replace('.', "/"))),
    };
    items(container, "/env").map(|variable| (text(variable, "/name"), value(variable))).collect()
}

fn path(object: &Value) -> String {
    format!(
        "/api/v1/namespaces/{}/pods/{}",
        text(object, "/metadata/namespace"),
        text(object, "/metadata/name")
    )
}

fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}
