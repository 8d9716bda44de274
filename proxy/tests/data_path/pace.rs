//! What budgets cost a request. A measurement, run by hand with `--release -- --ignored --nocapture`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use la_core::budget::LimitsSpec;

use crate::router::{Router, Setting, message};
use crate::vendor::Vendor;

/// Requests in one measurement.
const COUNT: u64 = 20_000;

/// Time on a processor of the threads that serve requests, in nanoseconds.
fn served_ns() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.ok()?.path();
        let name = std::fs::read_to_string(path.join("comm")).ok()?;
        let spent = std::fs::read_to_string(path.join("schedstat")).ok()?;
        name.starts_with("data-").then(|| spent.split(' ').next()?.parse::<u64>().ok()).flatten()
    };
    tasks.filter_map(of_task).sum()
}

/// Reads one answer whose length is told.
fn skip_answer(client: &mut TcpStream, bytes: &mut [u8]) {
    let mut filled = 0;
    loop {
        filled += client.read(&mut bytes[filled..]).unwrap();
        let text = std::str::from_utf8(&bytes[..filled]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return;
        }
    }
}

fn request_ns(vendor: &Vendor, limits: LimitsSpec) -> u64 {
    let router = Router::with(vendor.address, Setting { limits, ..Setting::default() });
    let mut client = router.connect();
    let model = "claude-opus-4-6\",\"system\":\"json";
    let text = message(&router.token("id-1"), model).replace("\"stream\":true,", "");
    let length = text.split_once("\r\n\r\n").unwrap().1.len();
    let from = text.find("content-length: ").unwrap();
    let (before, after) = (&text[..from], text[from..].split_once("\r\n").unwrap().1);
    let text = format!("{before}content-length: {length}\r\n{after}");
    let mut bytes = vec![0; 65_536];
    let mut ask = |count| {
        for _ in 0..count {
            client.write_all(text.as_bytes()).unwrap();
            skip_answer(&mut client, &mut bytes);
        }
    };
    ask(COUNT / 10);
    let before = served_ns();
    ask(COUNT);
    (served_ns() - before) / COUNT
}

#[test]
#[ignore = "a measurement, not a proof"]
fn four_budgets_and_a_rate_cost_a_few_microseconds() {
    let vendor = Vendor::start();
    let limits: LimitsSpec = serde_json::from_str(
        r#"{"budgets":[{"name":"all","unit":"Requests","limit":"1000000000"},
            {"name":"daily","unit":"Tokens","limit":"1000000000000","window":{"calendar":{"every":"Day"}}},
            {"name":"monthly","unit":"USD","limit":"1000000000","window":{"calendar":{"every":"Month"}}},
            {"name":"rolling","unit":"Tokens","limit":"1000000000000","window":{"rolling":"24h"}}],
            "rates":[{"unit":"Requests","limit":1000000,"per":"1s"}]}"#,
    )
    .unwrap();
    for _ in 0..3 {
        let (none, four) = (request_ns(&vendor, LimitsSpec::default()), request_ns(&vendor, limits.clone()));
        println!("{none} ns without limits, {four} ns with four budgets and a rate");
    }
}
