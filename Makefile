# `make help` lists the targets. Each says what it is doing and how far it is, and does the set-up it needs.

SHELL := /bin/bash -o pipefail
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

CACHE := $(or $(LA_ROUTER_CACHE),$(HOME)/.cache/la-router)
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:/usr/local/go/bin:$(CACHE)/tools/bin:$(PATH):/usr/sbin:/sbin

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
TRIPLE := $(shell uname -m)-unknown-linux-gnu
HELM := $(CACHE)/components/helm-$(shell sed -n 's/^HELM=//p' tests/components/install.sh)/helm
IMAGES := $(CARGO_TARGET_DIR)/images
STATIC := --locked --release --config .cargo/static.toml --target $(TRIPLE)

# Checkouts share this folder, and cargo judges by times: what another checkout has built would pass for this one's.
ifneq ($(shell cat $(CARGO_TARGET_DIR)/.checkout 2>/dev/null),$(CURDIR))
$(shell mkdir -p $(CARGO_TARGET_DIR) && git ls-files -z '*.rs' | xargs -0 touch && printf %s $(CURDIR) > $(CARGO_TARGET_DIR)/.checkout)
endif

# Tests find the binaries here; a test never builds them.
export LA_ROUTER_BIN ?= $(CARGO_TARGET_DIR)/debug/la-router
export LA_OPERATOR_BIN ?= $(CARGO_TARGET_DIR)/debug/la-router-operator

# One selection for every build and test of the workspace, so that nothing is compiled twice. Test builds of both
# programs have points at which tests kill them; images are built without.
WORKSPACE := --locked --workspace --features la-operator/fault-points,la-proxy/fault-points

# say N/M,TEXT: one line of progress.
say = @printf '\n\033[1m[$(1)]\033[0m $(2)\n'

##@ Use it

run: ## Build the router and start it with a token and a curl line that works
	$(call say,1/3,tools)
	@.ci/tools.sh rust
	$(call say,2/3,building la-router: 2 to 4 minutes the first time)
	@cargo build --locked -p la-proxy
	$(call say,3/3,starting; Ctrl-C stops it)
	@exec $(CARGO_TARGET_DIR)/debug/la-router quickstart $(ARGS)

images: ## Build both images from static binaries, as docker archives
	$(call say,1/3,tools)
	@.ci/tools.sh rust
	@tests/components/install.sh apt
	$(call say,2/3,static binaries for $(TRIPLE): 6 to 12 minutes the first time)
	@cargo build $(STATIC) -p la-proxy
	@cargo build $(STATIC) -p la-operator
	$(call say,3/3,images la-router:$(VERSION) and la-router-operator:$(VERSION))
	@rm -rf $(IMAGES) && mkdir -p $(IMAGES)/context/data
	@cp $(CARGO_TARGET_DIR)/$(TRIPLE)/release/la-router $(CARGO_TARGET_DIR)/$(TRIPLE)/release/la-router-operator $(IMAGES)/context/
	@for image in la-router:proxy la-router-operator:operator; do name=$${image%:*}; \
	  buildah bud --quiet --isolation chroot --target from-binary -f Dockerfile.$${image#*:} \
	    -t docker.io/local/$$name:$(VERSION) $(IMAGES)/context >/dev/null \
	  && buildah push --quiet docker.io/local/$$name:$(VERSION) docker-archive:$(IMAGES)/$$name.tar:docker.io/local/$$name:$(VERSION) \
	  && printf '      %s\n' $(IMAGES)/$$name.tar || exit 1; done

##@ Check it

test: ## Unit, standalone, contract and API-server tests
	$(call say,1/6,tools)
	@.ci/tools.sh rust go
	$(call say,2/6,API server and Helm: built from Go modules; 10 minutes the first time)
	@tests/components/install.sh kube helm
	$(call say,3/6,building both programs: 4 minutes the first time)
	@cargo build $(WORKSPACE) --bins
	$(call say,4/6,unit tests; every schedule of three threads; the data path in one process)
	@cargo test $(WORKSPACE) --lib --bins --test data_path --test interleavings --test limits_matrix
	$(call say,5/6,standalone and contract tests: real processes on loopback)
	@cargo test $(WORKSPACE) --test standalone --test contract
	$(call say,6/6,API-server tests: etcd; API server and controller manager)
	@cargo test $(WORKSPACE) --test cluster

e2e: images ## Whole node: kubelet, helm install, pods, revocation (needs root)
	$(call say,1/2,components of the node: 15 minutes the first time)
	@tests/components/install.sh apt kube containerd coredns helm
	$(call say,2/2,e2e tests)
	@cargo build $(WORKSPACE) --bins
	@cargo test $(WORKSPACE) --test e2e

clients: ## Claude Code and the official SDKs against the router (needs root)
	$(call say,1/3,tools)
	@.ci/tools.sh rust go clients
	@tests/components/install.sh apt node-clients python-clients
	$(call say,2/3,building both programs)
	@cargo build $(WORKSPACE) --bins
	$(call say,3/3,client tests)
	@cargo test $(WORKSPACE) --test clients -- --nocapture

bench: ## Compare with nginx on this machine; writes the table
	@.ci/tools.sh rust
	@tests/components/install.sh apt
	@tests/bench/run.sh

lint: ## Format, clippy and docs with warnings denied, dependencies, file rules
	$(call say,1/5,format)
	@cargo fmt --all --check
	$(call say,2/5,clippy)
	@cargo clippy $(WORKSPACE) --all-targets -- -D warnings
	$(call say,3/5,docs)
	@RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet
	$(call say,4/5,cargo deny)
	@$(MAKE) deny
	$(call say,5/5,cargo machete)
	@cargo machete --skip-target-dir

deny: ## Licences, sources, duplicate and banned crates; advisories where reachable
	@cargo deny --log-level error check bans licenses sources
	@if cargo deny --log-level error fetch db 2>/dev/null; then cargo deny --log-level error check advisories; \
	else echo '      advisories NOT checked: the RustSec database cannot be reached from here'; fi

chart-lint: ## helm lint, and the drift of CRDs, chart and plain manifests
	@tests/components/install.sh helm
	@$(HELM) lint --quiet --strict charts/la-router
	@cargo test $(WORKSPACE) --test contract

ci: ## Everything that a change must pass
	@.ci/tools.sh rust go clients lint
	@$(MAKE) lint
	@$(MAKE) test
	@$(MAKE) e2e
	@$(MAKE) clients

proof: ## ci with the long random tests at their full number of rounds
	@LA_PROOF=1 $(MAKE) ci

##@ Change it

fmt: ## Format the code
	@cargo fmt --all

crds: ## Write crds/generated from the kinds
	@cargo run --locked --quiet -p la-crds --example crds

chart: ## Write the chart's CRDs and deploy/install.yaml from crds/generated
	@tests/components/install.sh helm
	@charts/generate.sh $(HELM)

clean: ## Remove what the project built, but not the components
	@rm -rf $(CARGO_TARGET_DIR)

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run images test e2e clients bench lint deny chart-lint ci proof fmt crds chart clean help
