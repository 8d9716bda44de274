//! The command line as clap reads it: texts only, so that flags, environment and files are judged by one
//! set of rules and every fault is told at once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use la_core::secret::Secret;

/// Gives each agent its own capped, expiring token and keeps the real credential to itself.
#[derive(Debug, Parser)]
#[command(name = "la-router", version, args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// What to do; `serve` when absent.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve requests (the default).
    Serve(Box<ServeArgs>),
    /// Listen on localhost, attach a mounted token, and forward to a gateway.
    Forward(ForwardArgs),
    /// Make keys, find a credential, issue a token, print how to use it, and serve.
    Quickstart(QuickstartArgs),
    /// Issue, list, show, revoke and expire tokens.
    Tokens(TokensArgs),
    /// Count the ledger again from the usage log, replay other prices, export and import.
    Ledger(LedgerToolArgs),
    /// List accounts, renew their logins, and import a pool of logins.
    Accounts(AccountsArgs),
    /// Keep a login file in step with the macOS keychain.
    Credentials(CredentialsArgs),
    /// Check configuration, data folder, credentials, keys, ports and upstream.
    Doctor(Box<ServeArgs>),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub struct CommonArgs {
    /// Folder of keys, tokens and ledger [env: DATA_DIR] [default: ~/.link-assistant-router]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Say more [env: VERBOSE]
    #[arg(long)]
    pub verbose: bool,
    /// What to log, as LEVEL or TARGET=LEVEL,… [env: RUST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub upstream: UpstreamArgs,
    #[command(flatten)]
    pub refresh: RefreshArgs,
    #[command(flatten)]
    pub listen: ListenArgs,
    #[command(flatten)]
    pub ledger: LedgerArgs,
    #[command(flatten)]
    pub bounds: BoundsArgs,
    #[command(flatten)]
    pub access: AccessArgs,
    #[command(flatten)]
    pub usage_log: UsageLogArgs,
}

/// Where the configuration comes from, when not from flags.
#[derive(Debug, Clone, Default, Args)]
pub struct SourceArgs {
    /// Serve the manifests (YAML) in this folder
    #[arg(long, value_name = "DIR", conflicts_with = "snapshot_dir")]
    pub manifests: Option<String>,
    /// Where tokens minted for manifests are written [default: DATA_DIR/tokens]
    #[arg(long, value_name = "DIR", requires = "manifests")]
    pub tokens_dir: Option<String>,
    /// Serve the snapshot that an operator writes into this folder
    #[arg(long, value_name = "DIR")]
    pub snapshot_dir: Option<String>,
}

/// The one provider of a router that is configured by flags.
#[derive(Debug, Clone, Default, Args)]
pub struct UpstreamArgs {
    /// Whose API the upstream speaks; `anthropic` [env: UPSTREAM_PROVIDER]
    #[arg(long, value_name = "NAME")]
    pub upstream_provider: Option<String>,
    /// The upstream's address [env: UPSTREAM_BASE_URL] [default: https://api.anthropic.com]
    #[arg(long, value_name = "URL")]
    pub upstream_base_url: Option<String>,
    /// Folder of a Claude login, re-read when it changes [env: CLAUDE_CODE_HOME] [default: ~/.claude]
    #[arg(long, value_name = "DIR")]
    pub claude_code_home: Option<String>,
    /// Folders of more logins, comma-separated; all share the load [env: ADDITIONAL_ACCOUNT_DIRS]
    #[arg(long, value_name = "DIRS")]
    pub additional_account_dirs: Option<String>,
    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// A workload identity that the vendor trusts by a federation rule. Names in the environment are the SDKs'.
#[derive(Debug, Clone, Default, Args)]
pub struct IdentityArgs {
    /// File with the token of a workload identity, read at every exchange [env: ANTHROPIC_IDENTITY_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub identity_token_file: Option<String>,
    /// The federation rule that accepts it, `fdrl_…` [env: ANTHROPIC_FEDERATION_RULE_ID]
    #[arg(long, value_name = "ID")]
    pub federation_rule_id: Option<String>,
    /// The organization at the vendor, a UUID [env: ANTHROPIC_ORGANIZATION_ID]
    #[arg(long, value_name = "UUID")]
    pub organization_id: Option<String>,
    /// The service account at the vendor, `svac_…` [env: ANTHROPIC_SERVICE_ACCOUNT_ID]
    #[arg(long, value_name = "ID")]
    pub service_account_id: Option<String>,
    /// The workspace, `wrkspc_…` or `default`, where the rule is for several [env: ANTHROPIC_WORKSPACE_ID]
    #[arg(long, value_name = "ID")]
    pub workspace_id: Option<String>,
}

/// Who renews Claude logins that are read from folders.
#[derive(Debug, Clone, Default, Args)]
pub struct RefreshArgs {
    /// Which logins in folders are renewed here: `auto` (those that can be stored, but not Claude Code's own),
    /// `always` (that one too; also without a value) or `never` [env: REFRESH] [default: auto]
    #[arg(long, value_name = "POLICY", num_args = 0..=1, default_missing_value = "always")]
    pub refresh: Option<String>,
    /// How long before its end a login is renewed at the latest [env: REFRESH_BEFORE] [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub refresh_before: Option<String>,
}

#[derive(Debug, Clone, Default, Args)]
pub struct ListenArgs {
    /// Address to listen on [env: ROUTER_HOST] [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Port to listen on [env: ROUTER_PORT] [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Address and port of probes, metrics and administration [env: ADMIN_LISTEN] [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<String>,
    /// How long open streams may go on after SIGTERM [env: DRAIN] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
}

/// Where use is counted.
#[derive(Debug, Clone, Default, Args)]
pub struct LedgerArgs {
    /// Where use is counted: `embedded` (in the data folder), `redis` (shared by several processes), or `memory`
    /// [env: LEDGER] [default: embedded]
    #[arg(long, value_name = "KIND")]
    pub ledger: Option<String>,
    /// File with the URL of the Redis or Valkey, redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for
    /// TLS [env: REDIS_URL_FILE]
    #[arg(long, value_name = "FILE")]
    pub redis_url_file: Option<String>,
    /// The URL itself; other users of the machine may see it, so a file is better [env: REDIS_URL]
    #[arg(long, value_name = "URL", value_parser = secret)]
    pub redis_url: Option<Secret>,
    /// While the Redis cannot be asked, `deny` requests, or `allow` them and count them nowhere
    /// [env: LEDGER_ON_UNAVAILABLE] [default: deny]
    #[arg(long, value_name = "POLICY")]
    pub ledger_on_unavailable: Option<String>,
}

/// What keeps memory and work bounded.
#[derive(Debug, Clone, Default, Args)]
pub struct BoundsArgs {
    /// Threads that carry requests [env: ROUTER_THREADS] [default: one per core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<String>,
    /// Most client connections at a time [env: MAX_CONNECTIONS] [default: 4096]
    #[arg(long, value_name = "COUNT")]
    pub max_connections: Option<String>,
    /// Longest request body in bytes [env: MAX_BODY_BYTES] [default: 33554432]
    #[arg(long, value_name = "BYTES")]
    pub max_body_bytes: Option<String>,
    /// Most bytes of all request bodies together [env: BODY_BUDGET_BYTES] [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    pub body_budget_bytes: Option<String>,
    /// Whether each request gets a log line [env: REQUEST_LOG] [default: true]
    #[arg(long, value_name = "BOOL")]
    pub request_log: Option<String>,
}

/// What is written down of every charge.
#[derive(Debug, Clone, Default, Args)]
pub struct UsageLogArgs {
    /// Whether every charge gets a line in DATA_DIR/usage, `on` or `off` [env: USAGE_LOG] [default: on]
    #[arg(long, value_name = "BOOL")]
    pub usage_log: Option<String>,
    /// Most bytes of the usage log, and at most a quarter of its file system; an eighth of it is one file
    /// [env: USAGE_LOG_MAX_BYTES] [default: 268435456]
    #[arg(long, value_name = "BYTES")]
    pub usage_log_max_bytes: Option<String>,
    /// How long its lines are kept; a file is closed after an eighth of it [env: USAGE_LOG_MAX_AGE] [default: 720h]
    #[arg(long, value_name = "DURATION")]
    pub usage_log_max_age: Option<String>,
}

/// Who may do what.
#[derive(Debug, Clone, Default, Args)]
pub struct AccessArgs {
    /// Secret that signs tokens; without it a key is made and kept in the data folder [env: TOKEN_SECRET]
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    pub token_secret: Option<Secret>,
    /// Credential of the admin API; without it the API does not exist [env: TOKEN_ADMIN_KEY]
    #[arg(long, value_name = "KEY", value_parser = secret)]
    pub admin_key: Option<Secret>,
    /// Do not serve /metrics [env: DISABLE_METRICS]
    #[arg(long)]
    pub disable_metrics: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ForwardArgs {
    /// The gateway's address, http:// or https:// [env: GATEWAY_URL]
    #[arg(long, value_name = "URL")]
    pub gateway: Option<String>,
    /// File that holds the token; followed when it changes [env: TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Address and port to listen on; loopback only [env: FORWARD_LISTEN] [default: 127.0.0.1:8787]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Allow a listening address that other machines can reach
    #[arg(long)]
    pub allow_non_loopback: bool,
    /// Address and port of /livez and /readyz; none when absent [env: ADMIN_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<String>,
    /// How long open streams may go on after SIGTERM [env: DRAIN] [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
    /// Say more [env: VERBOSE]
    #[arg(long)]
    pub verbose: bool,
    /// What to log, as LEVEL or TARGET=LEVEL,… [env: RUST_LOG] [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct QuickstartArgs {
    /// Serve a built-in scripted upstream instead of a vendor
    #[arg(long)]
    pub sandbox: bool,
    /// Port to listen on [env: ROUTER_PORT] [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<String>,
    /// Address and port of probes, metrics and administration [env: ADMIN_LISTEN] [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub admin_listen: Option<String>,
    #[command(flatten)]
    pub common: CommonArgs,
}

#[derive(Debug, Clone, Args)]
pub struct TokensArgs {
    #[command(subcommand)]
    pub command: TokensCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum TokensCommand {
    /// Issue a token and print nothing but its text.
    Issue(IssueArgs),
    /// List all tokens; their texts are not kept and not shown.
    List(TokenAccessArgs),
    /// Print the record of one token as JSON; exit 2 when there is none.
    Show(TokenIdArgs),
    /// Refuse a token from now on (403).
    Revoke(TokenIdArgs),
    /// Let a token end now (401).
    Expire(TokenIdArgs),
}

/// What the token commands need to find the store.
#[derive(Debug, Clone, Args)]
pub struct TokenAccessArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Secret that signs tokens; only used when no server runs [env: TOKEN_SECRET]
    #[arg(long, value_name = "SECRET", value_parser = secret)]
    pub token_secret: Option<Secret>,
}

#[derive(Debug, Clone, Args)]
pub struct IssueArgs {
    #[command(flatten)]
    pub access: TokenAccessArgs,
    /// How many hours the token lives
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=87_600))]
    pub ttl_hours: u32,
    /// What people call it
    #[arg(long, default_value = "")]
    pub label: String,
    /// Most requests in the token's whole life
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_requests: Option<u64>,
}

#[derive(Debug, Clone, Args)]
pub struct TokenIdArgs {
    #[command(flatten)]
    pub access: TokenAccessArgs,
    /// The token's id
    pub id: String,
}

#[derive(Debug, Clone, Args)]
pub struct AccountsArgs {
    #[command(subcommand)]
    pub command: AccountsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum AccountsCommand {
    /// List the accounts of the running server: state, end of the credential, last renewal.
    List(CommonArgs),
    /// Renew logins now: one account's, or that of every account whose login is renewed here.
    Refresh(AccountRefreshArgs),
    /// Write each account of a pool file (oauth_pool.json) into a login folder of its own.
    Import(AccountImportArgs),
}

#[derive(Debug, Clone, Args)]
pub struct AccountRefreshArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Its name, or PROVIDER/NAME where several providers have one of that name
    pub name: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct AccountImportArgs {
    /// The pool file
    pub file: PathBuf,
    /// Folder in which each account gets a folder; what is there is never overwritten
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct CredentialsArgs {
    #[command(subcommand)]
    pub command: CredentialsCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum CredentialsCommand {
    /// Write the login of the macOS keychain to a file, once or again and again.
    Sync(SyncArgs),
}

#[derive(Debug, Clone, Args)]
pub struct SyncArgs {
    /// The file to keep [default: ~/.claude/claude-credentials.json]
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Go on, and look so often
    #[arg(long, value_name = "DURATION")]
    pub every: Option<String>,
    /// Have launchd look every --every [default: 5m], from now on and after every login
    #[arg(long, conflicts_with = "remove")]
    pub install: bool,
    /// Undo --install
    #[arg(long)]
    pub remove: bool,
    /// The system's keychain tool
    #[arg(long, value_name = "PATH", default_value = "/usr/bin/security", hide = true)]
    pub security_tool: PathBuf,
    /// The system's service tool
    #[arg(long, value_name = "PATH", default_value = "/bin/launchctl", hide = true)]
    pub launchctl_tool: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct LedgerToolArgs {
    #[command(subcommand)]
    pub command: LedgerCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub enum LedgerCommand {
    /// Count all use again from the usage log and compare it with the ledger; exit 1 when they differ.
    Recompute(RecomputeArgs),
    /// Print everything that the ledger counts as JSON.
    Export(CommonArgs),
    /// Take over what `export` has printed. No server may run on the data folder.
    Import(ImportArgs),
}

#[derive(Debug, Clone, Args)]
pub struct RecomputeArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// Print instead what the log would have cost by other prices: a YAML list as in `pricing.overrides`
    #[arg(long, value_name = "FILE")]
    pub prices: Option<PathBuf>,
    /// Data folder of another process that shares the ledger in a Redis; give all of them
    #[arg(long, value_name = "DIR")]
    pub also: Vec<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    pub common: CommonArgs,
    /// What `export` has printed
    pub file: PathBuf,
    /// Where the ledger is not empty: of every count keep the larger, its own or the imported one
    #[arg(long)]
    pub merge: bool,
}

#[expect(clippy::unnecessary_wraps, reason = "clap's value parsers return a Result")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
