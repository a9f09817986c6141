# Everything a person types. Each goal installs what it needs (scripts/setup.sh) and runs.
#
#   make demo    build, start a three-node cluster, show the services working on it, stop it
#   make test    build and run every test (what CI runs)
#   make torture MINUTES=10
#                a real cluster at work while its nodes are killed, paused, restarted and cut off; histories checked
#   make build   leave the release binary at target/release/dbos
#   make check   format, clippy, rustdoc, licences and sources, repository rules: before each commit
#   make audit   security advisories, where their database can be reached
#   make sim     the seeded simulator: SEED=0 RUNS=100 [MUTATION=name]
#   make sim-mutations   how many seeds it takes to find each planted fault
#   make repro [FULL=1|SMOKE=1] [ONLY=name] [AGAIN=1] [BUDGET=minutes]
#                the papers' experiments beside what is used instead, and one report (about 25 minutes; docs/report/README.md)
#   make bench   criterion micro-benchmarks and the engine benchmark
#   make bench-compare BASE=rev   the micro-benchmarks of a revision, and of the working tree against it

CARGO ?= cargo
MINUTES ?= 10
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
export ROCKSDB_LIB_DIR = $(CARGO_TARGET_DIR)/rocksdb
export ROCKSDB_STATIC = 1

.PHONY: build demo test torture repro repro-publish check audit bench bench-compare sim sim-mutations rocksdb setup setup-test clean
.DEFAULT_GOAL := build

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

rocksdb: setup
	@scripts/build-rocksdb.sh "$(ROCKSDB_LIB_DIR)"

build: rocksdb
	$(CARGO) build --release --locked --bin dbos
	@[ "$(CARGO_TARGET_DIR)" = "$(CURDIR)/target" ] || { mkdir -p target/release && \
	  ln -sf "$(CARGO_TARGET_DIR)/release/dbos" target/release/dbos; }

demo: build
	@target/release/dbos demo

test: setup-test rocksdb
	$(CARGO) build --release --locked --workspace --all-targets
	$(CARGO) test --release --locked --workspace

torture: rocksdb
	TORTURE_MINUTES=$(MINUTES) $(CARGO) test --release --locked -p dbos --test torture -- --nocapture

# Results go to target/repro/SCALE and outlive an interruption: the same command goes on. Peers are fetched as Debian
# packages into target/peers, which needs no root; where that fails they are reported as not installed. DBOS_PEERS: others.
SCALE = $(if $(FULL),full,$(if $(SMOKE),smoke,default))
repro: setup-test build
	$(CARGO) build --release --locked --bin paper-repro
	@[ -n "$$DBOS_PEERS" ] || scripts/peers.sh "$(CARGO_TARGET_DIR)/peers"
	DBOS_PEERS="$${DBOS_PEERS-$$([ ! -f "$(CARGO_TARGET_DIR)/peers/complete" ] || echo "$(CARGO_TARGET_DIR)/peers")}" \
	  "$(CARGO_TARGET_DIR)/release/paper-repro" --scale $(SCALE) $(if $(ONLY),--only "$(ONLY)") $(if $(AGAIN),--again) $(if $(BUDGET),--minutes $(BUDGET))

# Copies the last report of that scale to docs/report and its summary into the README.
repro-publish:
	"$(CARGO_TARGET_DIR)/release/paper-repro" --scale $(SCALE) --publish

check: rocksdb
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --release --locked --workspace --no-deps --document-private-items
	$(CARGO) test --release --locked -p tidy

audit:
	@scripts/audit.sh

bench: rocksdb
	$(CARGO) bench --locked --workspace

# Micro-benchmarks of a revision and of the working tree: make bench-compare BASE=HEAD~1 [FILTER=name]
bench-compare: rocksdb
	@[ -n "$(BASE)" ] || { echo "usage: make bench-compare BASE=revision [FILTER=name]" >&2; exit 2; }
	@scripts/bench-compare.sh "$(BASE)" "$(FILTER)"

# Seeds SEED to SEED + RUNS - 1; MUTATION plants a fault, HISTORY_ONLY=1 looks at nothing but what clients see, TRANSCRIPT
# names a file for a failing seed's whole transcript.
SIM = $(CARGO) test --quiet --release --locked -p kernel-db --lib -- --ignored --nocapture --exact
sim: rocksdb
	SEED=$(SEED) RUNS=$(RUNS) MUTATION=$(MUTATION) $(SIM) sim::runs::make_sim

sim-mutations: rocksdb
	SEED=$(SEED) RUNS=$(RUNS) $(SIM) sim::runs::make_sim_mutations

clean:
	$(CARGO) clean
