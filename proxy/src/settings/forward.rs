//! What `forward` needs to know.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use la_core::duration;

use super::{CommonArgs, ForwardArgs, Judge, Logging, Lookup, socket_address};

const LISTEN_DEFAULT: u16 = 8787;

/// The sidecar in its forwarding form.
#[derive(Debug)]
pub struct ForwardSettings {
    /// `http(s)://HOST[:PORT]`, without a slash at its end.
    pub gateway: String,
    pub token_file: PathBuf,
    pub listen: SocketAddr,
    /// Where `/livez` and `/readyz` are answered.
    pub admin: Option<SocketAddr>,
    pub drain: Duration,
    pub logging: Logging,
}

impl ForwardSettings {
    /// Judges the command line against the places below it.
    ///
    /// # Errors
    /// Every fault, one sentence each.
    pub fn read(args: &ForwardArgs, lookup: &Lookup) -> Result<Self, Vec<String>> {
        let mut judge = Judge::default();
        let gateway = lookup.find(("--gateway", args.gateway.as_deref()), "GATEWAY_URL");
        if gateway.is_none() {
            judge
                .faults
                .push("--gateway: must be given, such as http://gateway.platform.svc:8080".to_owned());
        }
        let gateway = judge.parse(gateway, "http(s)://HOST[:PORT]", origin).unwrap_or_default();
        let token_file =
            args.token_file.clone().or_else(|| lookup.named("TOKEN_FILE").map(|f| f.text.into()));
        if token_file.is_none() {
            judge
                .faults
                .push("--token-file: must be given; it is the file that holds the la_sk_ token".to_owned());
        }
        let listen = lookup.find(("--listen", args.listen.as_deref()), "FORWARD_LISTEN");
        let listen = judge
            .parse(listen, "ADDRESS:PORT", socket_address)
            .unwrap_or_else(|| SocketAddr::new(IpAddr::from([127, 0, 0, 1]), LISTEN_DEFAULT));
        if !listen.ip().is_loopback() && !args.allow_non_loopback {
            let message = "can be reached by other machines, which would use the token; \
                           use a loopback address or add --allow-non-loopback";
            judge.faults.push(format!("--listen: {listen} {message}"));
        }
        let admin = lookup.find(("--admin-listen", args.admin_listen.as_deref()), "ADMIN_LISTEN");
        let admin = judge.parse(admin, "ADDRESS:PORT", socket_address);
        let drain = lookup.find(("--drain", args.drain.as_deref()), "DRAIN");
        let drain = judge.parse(drain, "a duration such as `30s`", |t| duration::parse(t).ok());
        let common = CommonArgs { data_dir: None, verbose: args.verbose, log: args.log.clone() };
        let logging = Logging::read(&common, lookup, &mut judge);
        if !judge.faults.is_empty() {
            return Err(judge.faults);
        }
        let token_file = token_file.unwrap_or_default();
        let drain = drain.unwrap_or(super::DRAIN_DEFAULT);
        Ok(Self { gateway, token_file, listen, admin, drain, logging })
    }
}

fn origin(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    let good = !rest.is_empty() && !rest.contains(['@', '?', '#', ' ', '/']);
    good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Command, CommandLine};
    use super::*;

    fn read(line: &[&str]) -> Result<ForwardSettings, Vec<String>> {
        let line = CommandLine::try_parse_from([&["la-router", "forward"], line].concat()).unwrap();
        let Some(Command::Forward(args)) = line.command else { panic!("{:?}", line.command) };
        ForwardSettings::read(&args, &Lookup::of(&[]))
    }

    #[test]
    fn forwarder_needs_a_gateway_and_a_token_file() {
        assert_eq!(read(&[]).unwrap_err().len(), 2);
        let settings = read(&["--gateway", "http://gateway:8080/", "--token-file", "/t"]).unwrap();
        assert_eq!(
            (settings.gateway.as_str(), settings.listen.to_string().as_str()),
            ("http://gateway:8080", "127.0.0.1:8787")
        );
    }

    #[test]
    fn forwarder_listens_for_its_own_machine_unless_told() {
        let line = ["--gateway", "http://g", "--token-file", "/t", "--listen", "0.0.0.0:1"];
        assert!(read(&line).unwrap_err()[0].contains("--allow-non-loopback"));
        assert!(read(&[&line[..], &["--allow-non-loopback"]].concat()).is_ok());
    }
}
