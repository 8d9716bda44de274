#!/usr/bin/env bash
# Finds, and where it can installs, the tools that a make target needs. Says by name what it cannot.
# What tests run against (API server, kubelet, Helm, Debian's packages) is tests/components/install.sh's part.
# Usage: .ci/tools.sh GROUP...   groups: rust go clients lint
set -euo pipefail

cache=${LA_ROUTER_CACHE:-$HOME/.cache/la-router}
export PATH=${CARGO_HOME:-$HOME/.cargo}/bin:/usr/local/go/bin:$PATH:/usr/sbin:/sbin
packages=()   # Debian packages to install
missing=()    # what cannot be installed here, one sentence each

say() { printf '      %s\n' "$*"; }

# want TEST PACKAGE: TEST is a command's name, or a path that must exist.
want() {
  case $1 in
    /*) [ -e "$1" ] && return ;;
    *) command -v "$1" >/dev/null 2>&1 && return ;;
  esac
  packages+=("$2")
}

install_packages() {
  [ ${#packages[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    missing+=("Debian packages ${packages[*]}: run as root, or: apt-get install ${packages[*]}")
    return 0
  fi
  say "installing ${packages[*]} (apt-get)"
  apt-get update -qq >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

rust() {
  if ! command -v cargo >/dev/null 2>&1; then
    say "installing rustup, no default toolchain"
    if ! curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh 2>/dev/null \
      | sh -s -- -y --no-modify-path --profile minimal --default-toolchain none >/dev/null 2>&1; then
      missing+=("cargo: install Rust with rustup, https://rustup.rs")
      return 0
    fi
  fi
  command -v rustup >/dev/null 2>&1 || return 0   # a distribution's cargo: rust-version in Cargo.toml decides
  if ! rustup show active-toolchain >/dev/null 2>&1 || ! cargo --version >/dev/null 2>&1; then
    say "installing the toolchain that rust-toolchain.toml names"
    rustup toolchain install >/dev/null || missing+=("the Rust toolchain of rust-toolchain.toml: rustup toolchain install")
  fi
}

go_version() {
  local version
  version=$(go env GOVERSION 2>/dev/null | sed 's/^go1\.\([0-9]*\).*/\1/')
  # From 1.21 on, Go fetches the version that a go.mod asks for.
  [ "${version:-0}" -ge 21 ] || missing+=("Go 1.21 or newer, this one is ${version:+1.}${version:-missing}: https://go.dev/dl")
}

# cargo_tool NAME VERSION: built once into the cache, apart from the project's own build.
cargo_tool() {
  [ -x "$cache/tools/bin/$1" ] && "$cache/tools/bin/$1" --version 2>/dev/null | grep -q "$2" && return 0
  say "building $1 $2 (once, some minutes)"
  CARGO_TARGET_DIR=$cache/tools-target cargo install --quiet --locked --root "$cache/tools" "$1@$2" \
    || missing+=("$1: cargo install --locked --root $cache/tools $1@$2")
}

after=()
for group in "$@"; do
  case $group in
    rust) want cc build-essential; want redis-server redis-server; command -v cargo >/dev/null 2>&1 || want curl curl; after+=(rust) ;;
    go) want go golang-go; want openssl openssl; after+=(go_version) ;;
    clients) want npm npm; want python3 python3
             python3 -c 'import ensurepip' 2>/dev/null || packages+=(python3-venv) ;;
    lint) after+=("cargo_tool cargo-deny 0.20.2" "cargo_tool cargo-machete 0.9.2") ;;
    *) echo "unknown group $group" >&2; exit 2 ;;
  esac
done
install_packages
for step in "${after[@]}"; do $step; done

if [ ${#missing[@]} -gt 0 ]; then
  printf 'missing: %s\n' "${missing[@]}" >&2
  exit 1
fi
