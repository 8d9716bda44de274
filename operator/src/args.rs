//! The command line and the environment of `la-router-operator`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand};
use la_core::oauth::TokenEndpoint;
use la_core::oauth::federation::EXCHANGE_URL;

/// Reconciles RouterToken, UpstreamProvider and RouterProxy.
#[derive(Debug, Parser)]
#[command(name = "la-router-operator", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconcile until stopped; with several replicas only the holder of the lease does
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinitions as YAML
    Crds,
}

/// Settings of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Namespace of the lease: the one the operator runs in
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: String,
    /// Name of this replica in the lease and in Events
    #[arg(long, env = "POD_NAME", value_name = "NAME", default_value = "la-router-operator")]
    pub identity: String,
    /// Image of proxy pods whose RouterProxy names none
    #[arg(long, env = "LA_PROXY_IMAGE", value_name = "IMAGE")]
    pub proxy_image: String,
    /// Name of the lease that elects the one replica that reconciles
    #[arg(long, default_value = "la-router-operator", value_name = "NAME")]
    pub lease_name: String,
    /// Where /livez, /readyz and /metrics are served
    #[arg(long, default_value = "0.0.0.0:8082", value_name = "ADDRESS")]
    pub metrics_listen: SocketAddr,
    /// Admin port of proxy pods
    #[arg(long, default_value_t = 8081, value_name = "PORT")]
    pub admin_port: u16,
    /// Where OAuth logins are renewed
    #[arg(long, env = "CLAUDE_OAUTH_REFRESH_URL", value_name = "URL", default_value_t = TokenEndpoint::default().url)]
    pub oauth_refresh_url: String,
    /// As which client OAuth logins are renewed
    #[arg(long, env = "CLAUDE_OAUTH_CLIENT_ID", value_name = "ID", default_value_t = TokenEndpoint::default().client_id)]
    pub oauth_client_id: String,
    /// Where workload identities are exchanged
    #[arg(long, env = "ANTHROPIC_TOKEN_EXCHANGE_URL", value_name = "URL", default_value = EXCHANGE_URL)]
    pub token_exchange_url: String,
    /// What is logged: a level, or directives such as `info,la_operator=debug`
    #[arg(long, env = "LA_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
