# The daily verbs of KeplerFS. `make` alone lists them.

CARGO ?= cargo
SEEDS ?=
FULL ?=
export FULL

.DEFAULT_GOAL := help
.PHONY: help run build test check sim cluster bench fmt clean

help: ## List these verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: build ## Build, start a three-node cluster, say what to open and type
	dist/kepler dev --nodes 3

build: ## Leave dist/kepler-node and dist/kepler, optimised
	$(CARGO) build --release --locked --bins
	mkdir -p dist
	cp target/release/kepler-node target/release/kepler dist/

test: ## Everything that continuous integration runs
	tests/all

check: ## The quick part of it: formatting, lints, unit tests, docs
	tests/all check

sim: ## Simulations; SEEDS=10000 for more
	SEEDS=$(SEEDS) tests/all sim

cluster: ## Tests on real processes; FULL=1 for the full numbers
	tests/all cluster

bench: ## Measure, and write docs/BENCHMARKS.md
	tests/bench

fmt: ## Format all code
	$(CARGO) fmt --all

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf dist
