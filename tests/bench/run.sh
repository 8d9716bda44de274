#!/usr/bin/env bash
# Builds what is measured and compares it with nginx: run.sh [--rounds N] [--seconds S] [--write]
#
# `make bench` writes the table to RESULTS.md beside this file. LA_ROUTER_BIN measures another la-router.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
cd "$here/../.."
target=${CARGO_TARGET_DIR:-${LA_ROUTER_CACHE:-$HOME/.cache/la-router}/target}
triple=$(uname -m)-unknown-linux-gnu
export CARGO_TARGET_DIR=$target
router=${BENCH_ROUTER:-}
if [ -z "$router" ]; then
  echo "[1/3] building la-router as the image has it: 4 to 8 minutes the first time" >&2
  cargo build --locked --release --config .cargo/static.toml --target "$triple" -p la-proxy
  router=$target/$triple/release/la-router
fi
upstream=${BENCH_UPSTREAM:-}
if [ -z "$upstream" ]; then
  echo "[2/3] building the upstream: 3 minutes the first time" >&2
  cargo build --locked --release -p la-tests --bin la-fake-upstream
  upstream=$target/release/la-fake-upstream
fi
echo "[3/3] measuring: 4 to 8 minutes; leave the machine alone" >&2
exec python3 "$here/bench.py" --router "$router" --upstream "$upstream" "${@:---write}"
