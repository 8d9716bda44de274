//! A real `redis-server` on a free loopback port, with a folder of its own. Needs nothing but the standard library
//! and `tempfile`: the proxy's own tests use this file too.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// How often, and in which steps, a server is asked whether it answers: 20 s, because tests share their machine.
const ATTEMPTS: usize = 4_000;
const STEP: Duration = Duration::from_millis(5);

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A server. Dropping it kills it and removes its folder.
#[derive(Debug)]
pub struct RedisServer {
    process: Child,
    address: SocketAddr,
    arguments: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// Starts one with these settings besides, such as `["--appendonly", "yes"]`, and waits until it answers.
    ///
    /// # Errors
    /// When `redis-server` is missing or does not answer.
    pub fn start(arguments: &[&str]) -> io::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let directory = TempDir::with_prefix("la-redis-")?;
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let process = spawn(address, &arguments, &directory)?;
        let server = Self { process, address, arguments, directory };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a router is given.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again on the same port and folder, and waits until it answers.
    ///
    /// # Errors
    /// As [`RedisServer::start`].
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.process = spawn(self.address, &self.arguments, &self.directory)?;
        self.wait_until_it_answers()
    }

    /// Sends one command and gives its answer as it comes, for answers of one packet.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn command(&self, parts: &[&str]) -> io::Result<String> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut text = format!("*{}\r\n", parts.len());
        for part in parts {
            text.push_str(&format!("${}\r\n{part}\r\n", part.len()));
        }
        socket.write_all(text.as_bytes())?;
        let mut answer = vec![0; 64 << 10];
        let length = socket.read(&mut answer)?;
        answer.truncate(length);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// It answers once it has loaded its data, with or without a password.
    fn wait_until_it_answers(&self) -> io::Result<()> {
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..ATTEMPTS {
            match self.command(&["PING"]) {
                Ok(answer) if answer.starts_with("+PONG") || answer.starts_with("-NOAUTH") => return Ok(()),
                Ok(answer) => last = io::Error::other(answer),
                Err(error) => last = error,
            }
            std::thread::sleep(STEP);
        }
        Err(last)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(address: SocketAddr, arguments: &[String], directory: &TempDir) -> io::Result<Child> {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
    command.arg("--dir").arg(directory.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(
            error.kind(),
            "redis-server is missing: run tests/components/install.sh apt, or apt-get install redis-server",
        ),
        _ => error,
    })
}
