#!/usr/bin/env bash
# Ends what node-up.sh has started and removes its directory: node-down.sh DIR NETNS
set -uo pipefail
dir=$(realpath -m "$1") netns=$2
export PATH=$PATH:/usr/sbin:/sbin
[ -d "$dir/pids" ] || exit 0
# Only one of two that come at the same time does the work.
mv "$dir/pids" "$dir/pids.ending" 2>/dev/null || exit 0

# A recorded id is ours only while its process still names our directory or namespace.
end() {
  local name pid
  for name; do
    pid=$(cat "$dir/pids.ending/$name" 2>/dev/null) || continue
    [ "$(readlink "/proc/$pid/cwd" 2>/dev/null)" = "$dir" ] && kill "$pid" 2>/dev/null
  done
  sleep 1
}
# The kubelet first, which would start containers again; then they, which outlive containerd and its shims.
end kubelet
ctr=("$dir/bin/ctr" -a "$dir/containerd.sock" -n k8s.io tasks)
timeout 10 "${ctr[@]}" list -q 2>/dev/null | while read -r task; do timeout 10 "${ctr[@]}" kill -a -s KILL "$task" 2>/dev/null; done
end proxy coredns scheduler controller-manager apiserver containerd etcd
for pid in $(ps -eo pid,args | awk -v socket="-address $dir/containerd.sock" '/containerd-shim/ && index($0, socket) { print $1 }'); do
  kill "$pid" 2>/dev/null
done
sleep 1
awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
ip netns list | awk '/^cni-/ { print $1 }' | sort | comm -13 "$dir/netns.before" - | while read -r pod; do ip netns del "$pod"; done
ip netns del "$netns" 2>/dev/null
rm -rf "$dir"
