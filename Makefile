# The two commands of the README, and what they stand on. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help demo local image test check bench bench-store crowd race exactly-once cuts moves idle hosts nemesis prove soak

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: ## set up, build, and run the demo on http://127.0.0.1:8000 (more flags: ARGS='--workers 5')
	tests/setup.sh demo
	cargo build --release -p single-state-gateway -p single-state-worker
	target/release/gateway dev --vendor gateway/client/node_modules $(ARGS)

local: ## 2 gateways, 3 workers and PostgreSQL as plain processes; Prometheus and Grafana if installed
	tests/setup.sh local
	cargo build --release -p single-state-gateway -p single-state-worker
	deploy/local.sh $(ARGS)

image: ## build target/image.tar, an OCI archive of static programs, without Docker; run it, print sizes
	tests/setup.sh test
	deploy/image/binaries.sh target/image
	deploy/image/oci.sh target/image target/image.tar single-state:dev
	SINGLE_STATE_TEST_IMAGE=$(CURDIR)/target/image.tar \
	  cargo test -p single-state-tests --test deploy image

# Crash points and mutants, which nothing but tests may have.
FAULTS := --features single-state-tests/faults

# The tests start the binaries, so these are built first, as the tests want them.
test: ## set up and run all tests
	tests/setup.sh test
	cargo build --workspace --bins --examples $(FAULTS)
	if cargo nextest --version >/dev/null 2>&1; then \
	  cargo nextest run --workspace --all-targets $(FAULTS); \
	  else cargo test --workspace --all-targets $(FAULTS); fi
	cargo test --doc --workspace
	cd gateway/client && npm test && npm run check

check: ## format, lints and types, without running anything
	tests/setup.sh test
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked $(FAULTS) -- -D warnings
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cd gateway/client && npm run check

bench: ## measure against one process and against HAProxy; prints the commands and a table
	tests/setup.sh bench
	cargo build --release --workspace --bins
	cargo run --release -p single-state-tests --bin bench

bench-store: ## measure what it costs to keep sessions; a part only: ARGS='--part saves'
	tests/setup.sh bench
	cargo build --release --workspace --bins
	cargo run --release -p single-state-tests --bin bench-store -- $(ARGS)

crowd: ## 10,000 browsers of which 1,000 do not read and 1,000 drip their handshake
	cargo build --workspace --bins
	SINGLE_STATE_TEST_CROWD=10000 cargo test -p single-state-tests --test limits crowd -- --nocapture

race: ## six processes fight for the same rows, 60 s in PostgreSQL and 60 s in SQLite; prints the figures
	cargo build -p single-state-tests --bins
	SINGLE_STATE_TEST_RACE_SECONDS=60 cargo test -p single-state-tests --test racing racing_owners_lose_nothing -- --nocapture --test-threads 1

exactly-once: ## a minute each of cut connections, killed workers, killed gateways: what clients append arrives once
	cargo build --workspace --bins
	SINGLE_STATE_TEST_ONCE_SECONDS=60 cargo test -p single-state-tests --test client once -- --nocapture --test-threads 1

cuts: ## two minutes of 2 s cuts: what arrives of 10,000 messages each way, beside a bare websocket that reconnects
	cargo build --workspace --bins
	SINGLE_STATE_TEST_CUTS_SECONDS=120 cargo test -p single-state-tests --test client cut_off -- --nocapture

moves: ## 1,000 sessions in both stores while workers and gateways come and go; prints the figures
	tests/setup.sh bench
	cargo build --release -p single-state-gateway -p single-state-worker
	cargo build --workspace --bins
	SINGLE_STATE_TEST_PROGRAMS=$(CURDIR)/target/release SINGLE_STATE_TEST_MOVES=1000 \
	  cargo test -p single-state-tests --test moves -- --nocapture --test-threads 1

idle: ## memory of 100,000 browsers that are quiet, and how fast they connect; as many as fit: BROWSERS=1000000
	cargo build --release -p single-state-gateway -p single-state-worker
	cargo build --release -p single-state-tests --bin swarm
	SINGLE_STATE_TEST_PROGRAMS=$(CURDIR)/target/release SINGLE_STATE_TEST_IDLE=$(or $(BROWSERS),100000) \
	  cargo test -p single-state-tests --test idle -- --nocapture

hosts: ## the manifests at work on hosts of their own: scaled, rolled, cut off, killed, 20,000 sessions in a pod that ends
	tests/setup.sh test
	cargo build --release --workspace --bin gateway --bin worker --bin swarm
	cargo build --workspace --bins
	SINGLE_STATE_TEST_PROGRAMS=$(CURDIR)/target/release SINGLE_STATE_TEST_HOSTS=600 SINGLE_STATE_TEST_SESSIONS=20000 \
	  cargo test -p single-state-tests --test hosts -- --nocapture --test-threads 1

nemesis: ## ten minutes of faults of all kinds, replayable by their seed: ARGS='--seed 7 --store sqlite --html nemesis.html'
	tests/setup.sh test
	cargo build --workspace --bins $(FAULTS)
	target/debug/swarm nemesis $(ARGS)

prove: ## everything about faults at full length, about an hour: crash points, mutants, moves, exactly-once, cuts, race, nemesis in both stores
	tests/setup.sh test
	cargo build --workspace --bins --examples $(FAULTS)
	cargo test -p single-state-tests $(FAULTS) --test crash_points --test mutants -- --nocapture --test-threads 1
	$(MAKE) moves
	$(MAKE) exactly-once
	$(MAKE) cuts
	$(MAKE) race
	$(MAKE) nemesis ARGS='--store postgres --durability durable $(ARGS)'
	$(MAKE) nemesis ARGS='--store sqlite --durability relaxed $(ARGS)'

soak: ## browsers that stay and others that come and go, for an hour or ARGS='--duration 24h'; fails if a process grows
	cargo build --release -p single-state-gateway -p single-state-worker
	cargo build --release -p single-state-tests --bin swarm
	target/release/swarm soak $(ARGS)
