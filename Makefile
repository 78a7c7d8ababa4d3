# Every command sets up what it needs first; what is there already costs a moment. See README.md.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test up bench bench-farm bench-peers bench-fanout plots fuzz soak torture lint tiny-model sim clean

# rustup's folder, which a non-login shell may not have in PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)
PROGRAMS := -p flowai -p flowai-api -p flowai-coordinator -p flowai-render-node -p flowai-svd
# Crates whose tests compare with the Python oracle keep those behind a feature, so that plain `cargo test` needs no Python.
ORACLE := $(patsubst %,--features %,$(shell awk '/^name = /{gsub(/"/,"",$$3); name=$$3} /^oracle = /{print name "/oracle"}' Cargo.toml */Cargo.toml */*/Cargo.toml))

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

# Crash points are compiled into what tests run, and into nothing else.
FAILPOINTS := $(patsubst %,--features %,$(shell awk '/^name = /{gsub(/"/,"",$$3); name=$$3} /^failpoints = /{print name "/failpoints"}' */Cargo.toml))

setup: ## install what building and testing needs
	ops/setup/all.sh test

demo: ## from a picture to out/demo.mp4 on a farm of its own; ADAPTER=pan-left or rotate for another motion
	ops/setup/all.sh demo
	cargo build --release $(PROGRAMS)
	$(TARGET)/release/flowai demo --out out/demo.mp4 $(if $(ADAPTER),--adapter $(ADAPTER))

up: ## start the farm and keep it running
	ops/setup/all.sh demo
	cargo build --release $(PROGRAMS)
	$(TARGET)/release/flowai up

test: setup ## run every test
	cargo build --workspace --all-targets $(ORACLE) $(FAILPOINTS)
	cargo test --workspace $(ORACLE) $(FAILPOINTS)
	cargo test -p flowai-sim --features planted-bugs --test planted_bugs

SEEDS ?= 2000
sim: ## break SEEDS=2000 simulated farms and check every invariant after every step
	ops/setup/debian.sh demo
	ops/setup/rust.sh
	cargo run --release -p flowai -- sim check --seeds $(SEEDS)

lint: setup ## formatting, clippy, shell syntax
	for script in ops/setup/*.sh ops/tiny-model/*.sh render-node/fuzz/run.sh .ci/run; do bash -n "$$script"; done
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(ORACLE) -- -D warnings

bench: setup ## the engine beside diffusers, into target/bench/engine.json
	cargo build --release $(PROGRAMS) -p flowai-benches
	cargo run --release -p flowai-benches -- engine --out $(TARGET)/bench/engine.json

bench-farm: ## what the farm adds to a render, and the API under load, into target/bench
	ops/setup/all.sh demo
	cargo build --release $(PROGRAMS) -p flowai-benches
	$(TARGET)/release/flowai-benches farm overhead --out $(TARGET)/bench/farm.json
	$(TARGET)/release/flowai-benches farm previews --out $(TARGET)/bench/previews.json
	$(TARGET)/release/flowai-benches farm api --out $(TARGET)/bench/api.json

bench-peers: ## FlowAI's queue beside nine others, an hour, into target/bench/peers.json; PEERS="--rounds 1 --only flowai,celery"
	ops/setup/debian.sh peers
	ops/setup/rust.sh
	ops/setup/peers.sh
	cargo build --release -p flowai-benches
	$(TARGET)/release/flowai-benches peers --out $(TARGET)/bench/peers.json $(PEERS)
	$(TARGET)/release/flowai-benches peers --table $(TARGET)/bench/peers.json

bench-fanout: ## 10,000 open event streams on one api, into target/bench/fanout.json
	ops/setup/debian.sh demo
	ops/setup/rust.sh
	cargo build --release -p flowai-api -p flowai-benches
	$(TARGET)/release/flowai-benches fanout --out $(TARGET)/bench/fanout.json

FARM_SEEDS ?= 20
plots: ## simulate farms under four policies, FARM_SEEDS each, into target/sim/farm.json and docs/plots
	ops/setup/debian.sh demo
	ops/setup/rust.sh
	cargo build --release -p flowai -p flowai-benches
	$(TARGET)/release/flowai sim farm --compare --seeds $(FARM_SEEDS) --out $(TARGET)/sim/farm.json
	$(TARGET)/release/flowai-benches plots --from $(TARGET)/sim/farm.json --into docs/plots

JOBS ?= 300
FAULTS ?= 20
SEED ?= 1
torture: setup ## the real programs under faults, into target/torture/report.json; JOBS, FAULTS, SEED, and TORTURE for more options
	cargo build $(PROGRAMS) -p flowai-torture $(FAILPOINTS)
	$(TARGET)/debug/flowai-torture run --jobs $(JOBS) --faults $(FAULTS) --seed $(SEED) --out $(TARGET)/torture/report.json $(TORTURE)

soak: setup ## render 200 jobs of changing sizes and adapters in one process, and compare its memory
	FLOWAI_SOAK_JOBS=200 cargo test -p flowai-svd --test memory_stays_after_many_jobs -- --nocapture

FUZZ_SECONDS := 60
fuzz: ## fuzz what reads files of users, FUZZ_SECONDS each
	ops/setup/debian.sh demo
	ops/setup/rust.sh
	render-node/fuzz/run.sh $(FUZZ_SECONDS)

tiny-model: setup ## train the small model that really moves, two hours, into out/tiny-model
	ops/tiny-model/train.sh out/tiny-model

clean: ## remove what was built here; what setup made for all checkouts stays in ~/.cache/flowai
	cargo clean
	rm -rf out
