# The daily verbs of KeplerFS. `make` alone lists them.

CARGO ?= cargo
# Where cargo leaves what `make build` copies, and where to.
BUILT ?= target/release
DIST ?= dist
SEEDS ?=
FULL ?=
export FULL

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run build ui test check sim cluster browser bench fmt clean

help: ## List these verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: build ## Build, start a three-node cluster, say what to open and type
	$(DIST)/kepler dev --nodes 3

build: ## Leave dist/kepler-node and dist/kepler, optimised; with the browser UI where npm is
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory ui || echo 'the browser UI could not be built: the node will show a plain page'; \
	else echo 'npm is not here: the node will show a plain page instead of the browser UI'; fi
	$(CARGO) build --release --locked --bins
	mkdir -p $(DIST)
	cp $(BUILT)/kepler-node $(BUILT)/kepler $(DIST)/

ui: frontend/build/index.html ## Build the browser UI, which the next build of the node embeds

# Where nothing changed since the last time, nothing is built.
UI_SOURCES := $(shell find frontend/src frontend/static frontend/scripts -type f 2>/dev/null) \
  frontend/package-lock.json frontend/svelte.config.js frontend/vite.config.ts frontend/tsconfig.json

frontend/build/index.html: $(UI_SOURCES)
	cd frontend && npm ci && npm run build

test: ## Everything that continuous integration runs
	tests/all

check: ## The quick part of it: formatting, lints, unit tests, docs
	tests/all check

sim: ## Simulations; SEEDS=10000 for more, FULL=1 for hours: 10,000 nodes, 24 h of loss
	SEEDS=$(SEEDS) tests/all sim

cluster: ## Tests on real processes; FULL=1 for the full numbers
	tests/all cluster

browser: ## The browser UI in Chromium, against real clusters
	tests/all browser

bench: ## Measure, and write docs/BENCHMARKS.md
	tests/bench

fmt: ## Format all code
	$(CARGO) fmt --all

clean: ## Remove everything that was built
	$(CARGO) clean
	rm -rf dist frontend/build frontend/.svelte-kit frontend/node_modules
