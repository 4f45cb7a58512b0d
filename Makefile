# The common jobs; `make help` lists them. Tests and product share one build configuration (release).

SWIFT_BUILD = swift build --configuration release
SOURCES = Package.swift Sources Tests
PREFIX ?=

.PHONY: help demo test build format lint verify bench install clean bootstrap
.DEFAULT_GOAL := help

help: ## list the jobs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

bootstrap:
	@scripts/bootstrap

build: bootstrap ## build the program: .build/release/needletail
	@$(SWIFT_BUILD)

demo: build ## teach a real model to tell sarcastic headlines (one command, real data)
	@scripts/fetch-assets smollm2 sarcasm
	@.build/release/needletail demo

test: bootstrap ## unit tests, golden values, and a short tier through the command line
	@scripts/check-graph
	@scripts/fetch-assets smollm2 sarcasm
	@$(SWIFT_BUILD) --build-tests
	@scripts/run-tests

verify: build ## live oracles, kill and fault tests, fuzzing; writes verify/results
	@verify/run

bench: build ## speed and memory side by side with peers; writes Benchmarks/results
	@Benchmarks/run

format: ## format the Swift sources in place
	@swift format --in-place --parallel --recursive $(SOURCES)

lint: bootstrap ## formatting, the imports that Package.swift allows, the graph in ARCHITECTURE.md
	@scripts/check-graph
	@swift format lint --strict --parallel --recursive $(SOURCES)
	@$(SWIFT_BUILD) --build-tests --explicit-target-dependency-import-check error

install: build ## PREFIX=DIR: a program folder that can be moved
	@scripts/install "$(PREFIX)"

clean: ## remove build products (.deps and runs stay)
	@rm -rf .build
