#!/usr/bin/env bash
# Starts a whole single-node Kubernetes in one network namespace: etcd, API server, controller manager, scheduler,
# kube-proxy, CoreDNS, containerd and a kubelet. Nothing in it can reach beyond the namespace.
#
#   node-up.sh DIR NETNS [OWNER_PID]     ends by itself when the process OWNER_PID has ended; else node-down.sh
#
# Afterwards: DIR/admin.kubeconfig, DIR/bin/kubectl, DIR/containerd.sock, the node at 10.250.0.1 with busybox as the
# image docker.io/local/busybox:1. Run programs inside with `nsenter --net=/run/netns/NETNS`.
# Needs root and what `tests/components/install.sh apt kube containerd coredns` installs.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
dir=$(realpath -m "$1") netns=$2 owner=${3:-}
components=${LA_ROUTER_CACHE:-$HOME/.cache/la-router}/components
export PATH=$PATH:/usr/sbin:/sbin
version() { sed -n "s/^$1=//p" "$here/../components/install.sh"; }
kube=$components/kube-$(version KUBE)/kube
runtime=$components/containerd-$(version CONTAINERD)
coredns=$components/coredns-$(version COREDNS)/coredns

die() { echo "node-up.sh: $*" >&2; exit 1; }
[ "$(id -u)" -eq 0 ] || die "namespaces and mounts need root"
for file in "$kube" "$runtime/containerd" "$coredns" /usr/sbin/runc /usr/lib/cni/bridge; do
  [ -x "$file" ] || die "$file is missing: run tests/components/install.sh apt kube containerd coredns"
done
[ ! -e "$dir/pids" ] || die "$dir is in use: run node-down.sh $dir $netns"

mkdir -p "$dir"/{bin,logs,cni,pids,volumes}
cd "$dir"
for name in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
  ln -sf "$kube" bin/$name
done
ln -sf "$runtime/ctr" bin/ctr
export PATH=$dir/bin:$runtime:$PATH
ip netns list | awk '/^cni-/ { print $1 }' | sort > netns.before
[ -z "$owner" ] || { setsid sh -c 'tail --pid="$1" -f /dev/null; exec "$2" "$3" "$4"' sh "$owner" "$here/node-down.sh" "$dir" "$netns" </dev/null >/dev/null 2>&1 & }

# Not `ip netns exec`: it remounts /sys and hides the cgroups from the kubelet and containerd.
ip netns add "$netns"
inside=(nsenter --net="/run/netns/$netns")
"${inside[@]}" ip link set lo up
"${inside[@]}" ip link add node0 type bridge
"${inside[@]}" ip addr add 10.250.0.1/24 dev node0
"${inside[@]}" ip link set node0 up
"${inside[@]}" ip route add 10.96.0.0/16 dev node0 # Services, for programs of the node itself
"${inside[@]}" sysctl -qw net.ipv4.ip_forward=1

openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 30 -out ca.crt 2>/dev/null
certificate() { # NAME SUBJECT EXTENSIONS
  openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" \
    -extfile <(printf '%b' "$3") 2>/dev/null
}
certificate apiserver /CN=apiserver "subjectAltName=IP:127.0.0.1,IP:10.250.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc"
certificate admin /O=system:masters/CN=admin "extendedKeyUsage=clientAuth"
certificate node /O=system:nodes/CN=system:node:node1 "extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=IP:10.250.0.1,DNS:node1"
openssl ecparam -name prime256v1 -genkey -noout -out sa.key
openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
kubeconfig() {
  cat > "$1.kubeconfig" <<K
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://10.250.0.1:6443", certificate-authority: $dir/ca.crt}}]
users: [{name: u, user: {client-certificate: $dir/$1.crt, client-key: $dir/$1.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
K
}
kubeconfig admin
kubeconfig node

start() { # NAME COMMAND...
  local name=$1
  shift
  nohup "${inside[@]}" "$@" > "logs/$name.log" 2>&1 </dev/null &
  echo $! > "pids/$name"
}
await() { # WHAT LOG COMMAND...
  local what=$1 log=$2
  shift 2
  for _ in $(seq 300); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  tail -n 20 "logs/$log.log" >&2
  die "$what did not get ready within 60 s; the end of its log is above"
}
in_cluster() { "${inside[@]}" kubectl --kubeconfig "$dir/admin.kubeconfig" "$@"; }

start etcd etcd --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn \
  --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
start apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 --secure-port 6443 --advertise-address 10.250.0.1 \
  --client-ca-file ca.crt --tls-cert-file apiserver.crt --tls-private-key-file apiserver.key \
  --service-account-key-file sa.pub --service-account-signing-key-file sa.key \
  --service-account-issuer https://kubernetes.default.svc --service-cluster-ip-range 10.96.0.0/16 \
  --authorization-mode Node,RBAC --allow-privileged --kubelet-certificate-authority ca.crt \
  --kubelet-client-certificate admin.crt --kubelet-client-key admin.key --kubelet-preferred-address-types InternalIP

cat > cni/10-pods.conflist <<C
{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,
  "ipam":{"type":"host-local","dataDir":"$dir/cni-leases","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
C
cat > containerd.toml <<C
version = 3
root = "$dir/containerd"
state = "$dir/containerd-state"
[grpc]
  address = "$dir/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "docker.io/local/busybox:1"
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["/usr/lib/cni"]
  conf_dir = "$dir/cni"
C
start containerd containerd -c containerd.toml
await containerd containerd ctr -a "$dir/containerd.sock" version
# The pause container is busybox too: its default command sleeps, and pods name other commands.
applets=(sh cat cp env grep head ls nc printf ps sed sleep tail touch true wget)
python3 "$here/image.py" busybox.tar local/busybox:1 '["/bin/busybox","sleep","infinity"]' \
  /bin/busybox=/bin/busybox $(printf '/bin/busybox=/bin/%s ' "${applets[@]}")
ctr -a "$dir/containerd.sock" -n k8s.io images import busybox.tar >/dev/null

await "the API server" apiserver in_cluster get --raw /readyz
start controller-manager kube-controller-manager --kubeconfig admin.kubeconfig --service-account-private-key-file sa.key \
  --root-ca-file ca.crt --leader-elect=false --bind-address 127.0.0.1
start scheduler kube-scheduler --kubeconfig admin.kubeconfig --leader-elect=false --bind-address 127.0.0.1
start proxy kube-proxy --kubeconfig admin.kubeconfig --hostname-override node1 --proxy-mode iptables \
  --cluster-cidr 10.244.0.0/16 --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0 --conntrack-tcp-timeout-close-wait 0
cat > Corefile <<C
cluster.local in-addr.arpa {
  bind 10.250.0.1
  errors
  kubernetes {
    kubeconfig $dir/admin.kubeconfig
  }
  cache 1
}
C
start coredns "$coredns" -conf Corefile -dns.port 53
cgroups=true
[ -f /sys/fs/cgroup/cgroup.controllers ] || cgroups=false # cgroup v1, which the kubelet refuses unless told
cat > kubelet.yaml <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: $dir/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: $cgroups
failSwapOn: false
enforceNodeAllocatable: []
oomScoreAdj: 0
clusterDNS: [10.250.0.1]
clusterDomain: cluster.local
resolvConf: ""
evictionHard: {memory.available: "100Mi"}
imageGCHighThresholdPercent: 100
tlsCertFile: $dir/node.crt
tlsPrivateKeyFile: $dir/node.key
C
start kubelet kubelet --config kubelet.yaml --kubeconfig node.kubeconfig --hostname-override node1 --node-ip 10.250.0.1 \
  --root-dir "$dir/kubelet" --cert-dir "$dir/kubelet-pki"
await "the node" kubelet in_cluster wait --for=condition=Ready node/node1 --timeout=1s
