//! The vendor: a fake in this process, which the node's pods reach by the name of a Service.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use la_tests::fakes::vendor::{self, Known};
use la_tests::fakes::{FakeUpstream, Received};
use tokio::runtime::Runtime;

use crate::world::World;

/// The access token of the sample's Claude login: what must be nowhere but where it has to be.
pub(crate) const ACCESS_CANARY: &str = "sk-ant-oat01-canary-7f3b1c55d2e94a0e8f6b2d91c04e7a38-access";

/// Its refresh token, which not even a proxy may see.
pub(crate) const REFRESH_CANARY: &str = "sk-ant-ort01-canary-1d8e6a27b5f04c93a2e7d3c8b9f05164-refresh";

/// The node, as its pods and this process have it.
const NODE: &str = "10.250.0.1";
const PORT: u16 = 9000;

pub(crate) struct Upstream {
    /// Since the epoch.
    pub(crate) started: Duration,
    fake: FakeUpstream,
    _runtime: Runtime,
}

impl Upstream {
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let known = Known { bearer: Some(ACCESS_CANARY.to_owned()), key: None };
        let address = SocketAddr::new(NODE.parse()?, PORT);
        let fake = runtime.block_on(FakeUpstream::start_on(address, vendor::script(known)))?;
        Ok(Self { started: now(), fake, _runtime: runtime })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://vendor.upstream.svc:{PORT}")
    }

    /// Gives the fake the name that [`Self::url`] has.
    pub(crate) fn publish(&self, world: &World) -> Result<()> {
        world.apply(&format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: upstream}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: vendor, namespace: upstream}}, \
             spec: {{ports: [{{port: {PORT}}}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: vendor, namespace: upstream, \
             labels: {{kubernetes.io/service-name: vendor}}}}, addressType: IPv4, ports: [{{port: {PORT}}}], \
             endpoints: [{{addresses: [{NODE}]}}]}}"
        ))
    }

    /// Every request that came, in order.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.fake.received()
    }
}

#[expect(clippy::disallowed_methods, reason = "logins and credentials say until when they are good")]
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
