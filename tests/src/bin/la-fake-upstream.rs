//! The scripted upstream as a program, for tests whose router or client is one too.
//!
//! Answers as `la_tests::fakes::vendor` documents, by the model's name. Prints its addresses once it
//! listens, one per line.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;
use la_tests::fakes::bench::{self, More};
use la_tests::fakes::vendor::{self, Known};
use la_tests::fakes::{FakeUpstream, control};
use tokio::net::TcpListener;

/// A vendor's API, scripted by the name of the model that is asked for.
#[derive(Debug, Parser)]
#[command(name = "la-fake-upstream", version)]
struct Args {
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address and port of `GET /received` and `POST /reset`
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "bench")]
    control: Option<SocketAddr>,
    /// The one OAuth access token that is good
    #[arg(long, value_name = "TOKEN", conflicts_with = "bench")]
    expect_bearer: Option<String>,
    /// The one API key that is good
    #[arg(long, value_name = "KEY", conflicts_with = "bench")]
    expect_key: Option<String>,
    /// Answer everything alike and as fast as possible, and remember nothing
    #[arg(long)]
    bench: bool,
    /// Tell with every answer how full the limits of the account are, as a subscription's answers do
    #[arg(long, requires = "bench")]
    limits: bool,
    /// The same answers, but with fields that nobody reads in the place of limits
    #[arg(long, requires = "bench", conflicts_with = "limits")]
    other_fields: bool,
}

impl Args {
    fn more(&self) -> More {
        match (self.limits, self.other_fields) {
            (true, _) => More::Limits,
            (false, true) => More::Others,
            (false, false) => More::Nothing,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if args.bench {
        let listener = TcpListener::bind(args.listen).await?;
        say(&format!("listening on {}", listener.local_addr()?))?;
        bench::serve(listener, args.more()).await?;
        return Ok(());
    }
    let known = Known { bearer: args.expect_bearer, key: args.expect_key };
    let upstream = Arc::new(FakeUpstream::start_on(args.listen, vendor::script(known)).await?);
    say(&format!("listening on {}", upstream.address()))?;
    let _control = match args.control {
        Some(address) => {
            let control = FakeUpstream::start_on(address, control::script(Arc::clone(&upstream))).await?;
            say(&format!("control on {}", control.address()))?;
            Some(control)
        }
        None => None,
    };
    std::future::pending().await
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    out.flush()
}
