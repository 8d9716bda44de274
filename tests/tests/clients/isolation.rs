//! Runs a test again in a network namespace of its own.

use std::process::Command;

const MARK: &str = "LA_TESTS_ISOLATED";

/// Runs `body` where only loopback exists; `test` is the test's own path, as `cargo test` prints it.
#[expect(clippy::disallowed_methods, reason = "the mark tells the inner run from the outer one")]
pub(crate) fn isolated(test: &str, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args([
            "--net",
            "--",
            "sh",
            "-c",
            r#"PATH=$PATH:/usr/sbin:/sbin; ip link set lo up && exec "$@""#,
            "sh",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A name that fits no test would pass as well.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in a private network (needs root): {said}"
    );
}
