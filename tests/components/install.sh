#!/usr/bin/env bash
# Builds and fetches the real components that tests run against, once, and keeps them outside the checkout.
#
#   install.sh [kube|containerd|coredns|helm|apt|node-clients|python-clients ...]   (all of them when none is named)
#
# Everything lands in ${LA_ROUTER_CACHE:-~/.cache/la-router}/components/NAME-VERSION. A directory appears only when it
# is complete, so an interrupted run leaves nothing half. Running again does nothing. What a directory was built from
# is remembered in its file `.inputs`: a changed go.sum, lock file or build flag builds it anew.
set -euo pipefail

KUBE=1.36.3
CONTAINERD=2.4.2
COREDNS=1.15.0
HELM=4.3.1
# The versions of the clients are in node-clients/package.json and python-clients/requirements.txt.
APT_NODE=(runc containernetworking-plugins iptables busybox-static iproute2 openssl buildah procps util-linux curl)
APT_BENCH=(nginx-light wrk)
APT_LEDGER=(redis-server)

here=$(dirname "$(realpath "$0")")
root=${LA_ROUTER_CACHE:-$HOME/.cache/la-router}/components
mkdir -p "$root"

log() { printf '%s\n' "$*" >&2; }
die() { log "install.sh: $*"; exit 1; }
need() { command -v "$1" >/dev/null || die "$1 is missing: $2"; }

# One install at a time: two test binaries that start together must not build the same thing twice.
exec 9>"$root/.lock"
flock -n 9 || { log "another install.sh is at work, waiting for it"; flock 9; }

# fresh DIR INPUTS: whether DIR was built from exactly these inputs.
fresh() { [ -f "$1/.inputs" ] && [ "$(cat "$1/.inputs")" = "$2" ]; }

# digest FILES... : one checksum over files and the text on stdin.
digest() { { cat "$@"; cat; } | sha256sum | cut -d' ' -f1; }

# publish TEMP DIR INPUTS: makes a finished directory visible under its name.
publish() {
  printf '%s' "$3" > "$1/.inputs"
  rm -rf "$2"
  mv "$1" "$2"
}

# build NAME-VERSION DURATION INPUTS COMMAND...: runs COMMAND with the directory to fill as its last argument.
build() {
  local name=$1 duration=$2 inputs=$3 began=$SECONDS out
  shift 3
  if fresh "$root/$name" "$inputs"; then log "$step $name is there"; return; fi
  log "$step building $name, about $duration the first time"
  out=$root/.$name.new
  rm -rf "$out"
  mkdir -p "$out"
  "$@" "$out" > "$root/$name.log" 2>&1 || { tail -n 20 "$root/$name.log" >&2; die "building $name failed, all of its output is in $root/$name.log"; }
  publish "$out" "$root/$name" "$inputs"
  log "$step $name is ready after $((SECONDS - began)) s"
}

go_build() { CGO_ENABLED=0 go build -trimpath "$@"; }

kube_flags="-s -w -X k8s.io/component-base/version.gitVersion=v$KUBE -X k8s.io/component-base/version.gitMajor=${KUBE%%.*} -X k8s.io/component-base/version.gitMinor=$(cut -d. -f2 <<<"$KUBE")"
fill_kube() { cd "$here/kube" && go_build -ldflags "$kube_flags" -o "$1/kube" .; }
install_kube() {
  need go "install Go 1.26 or newer"
  build "kube-$KUBE" "8 minutes" "$(digest "$here"/kube/{go.mod,go.sum,main.go} <<<"$kube_flags")" fill_kube
}

containerd_tags="no_btrfs no_devmapper no_zfs"
fill_containerd() {
  local at=github.com/containerd/containerd/v2/cmd
  cd "$here/containerd" && go_build -tags "$containerd_tags" -ldflags "-s -w" -o "$1/" "$at/containerd" "$at/containerd-shim-runc-v2" "$at/ctr"
}
install_containerd() {
  need go "install Go 1.26 or newer"
  build "containerd-$CONTAINERD" "2 minutes" "$(digest "$here"/containerd/{go.mod,go.sum,tools.go} <<<"$containerd_tags")" fill_containerd
}

fill_coredns() { cd "$here/coredns" && go_build -ldflags "-s -w" -o "$1/coredns" .; }
install_coredns() {
  need go "install Go 1.26 or newer"
  build "coredns-$COREDNS" "2 minutes" "$(digest "$here"/coredns/{go.mod,go.sum,main.go} </dev/null)" fill_coredns
}

fill_helm() { CGO_ENABLED=0 GOBIN=$1 go install -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@v$HELM"; }
install_helm() {
  need go "install Go 1.26 or newer"
  build "helm-$HELM" "3 minutes" "helm v$HELM" fill_helm
}

install_apt() {
  local missing=() package sudo=
  need dpkg-query "the whole-node tests and the benchmark are made for Debian; install by hand: ${APT_NODE[*]} ${APT_BENCH[*]} ${APT_LEDGER[*]}"
  for package in "${APT_NODE[@]}" "${APT_BENCH[@]}" "${APT_LEDGER[@]}"; do
    # nginx-light is one of several packages that bring the same server.
    [ "$package" = nginx-light ] && command -v nginx >/dev/null && continue
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then log "$step Debian's packages are there"; return; fi
  log "$step installing Debian's packages ${missing[*]}, about a minute"
  if [ "$(id -u)" -ne 0 ]; then need sudo "run install.sh apt as root"; sudo=sudo; fi
  { $sudo apt-get update && $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
    > "$root/apt.log" 2>&1 || { tail -n 20 "$root/apt.log" >&2; die "apt-get failed, all of its output is in $root/apt.log"; }
}

fill_node_clients() { cp "$here"/node-clients/package*.json "$1/" && cd "$1" && npm ci --no-audit --no-fund; }
install_node_clients() {
  need npm "install Node 20 or newer"
  build node-clients "a minute" "$(digest "$here"/node-clients/package*.json </dev/null)" fill_node_clients
}

fill_python_clients() { python3 -m venv "$1/venv" && "$1/venv/bin/pip" install --disable-pip-version-check -r "$here/python-clients/requirements.txt"; }
install_python_clients() {
  need python3 "install Python 3.11 or newer"
  build python-clients "a minute" "$(digest "$here"/python-clients/requirements.txt </dev/null)" fill_python_clients
}

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(apt kube containerd coredns helm node-clients python-clients)
number=0
for part in "${parts[@]}"; do
  number=$((number + 1))
  step="[$number/${#parts[@]}]"
  case $part in
    kube | containerd | coredns | helm | apt) "install_$part" ;;
    node-clients) install_node_clients ;;
    python-clients) install_python_clients ;;
    *) die "no such component: $part (there are kube containerd coredns helm apt node-clients python-clients)" ;;
  esac
done
