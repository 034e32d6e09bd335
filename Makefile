# Every target does its own set-up, so that `make up` and `make test` work on a bare machine.
# Without colours, which are compiler options: a log file or a terminal would build all anew.
SWIFT_BUILD := swift build -c release --no-color-diagnostics
VENV        := .venv
LLMD        := .build/release/llmd

.PHONY: help setup build up connector test test-c test-swift test-e2e test-python bench lint fuzz soak \
    clean

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make setup   install the Debian packages that are missing
setup:
	@dev/setup

## make build   build the llmd binary
build: setup
	$(SWIFT_BUILD) --product llmd

## make up      start the whole stack on this machine, gateway on port 8000
up: build
	$(LLMD) up $(ARGS)

## make connector   build libllmd_connector.so for engines, and check what it promises
connector: setup
	Tests/connector/run

## make test    everything: C under sanitizers, Python, Swift, end to end with real Envoy and openai
test: test-c test-python test-swift test-e2e

test-c: setup
	Tests/c/run address
	Tests/c/run thread
	Tests/c/run soak
	Tests/c/run aarch64
	Tests/connector/run

test-swift: setup
	$(SWIFT_BUILD) --build-tests
	swift test -c release --skip-build

# SCALE_REQUESTS (10000): how many requests Tests/e2e/test_scale.py sends through Envoy.
test-e2e: build $(VENV)/.ok
	$(VENV)/bin/pytest -q Tests/e2e

test-python: setup $(VENV)/.ok
	dev/connector
	cd python && ../$(VENV)/bin/mypy
	$(VENV)/bin/pytest -q python/tests

$(VENV)/.ok: Tests/e2e/requirements.txt python/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check $(addprefix -r ,$^)
	@touch $@

## make bench   the performance harness: perf/run all
bench: setup
	perf/run all

## make lint    formatting, tabs and long lines in C, TODOs, documented arrows
lint: setup
	dev/lint

## make fuzz    a minute of fuzzing over every parser of outside bytes
fuzz: setup
	FUZZ_SECONDS=$${FUZZ_SECONDS:-10} Tests/c/run fuzz
	$(SWIFT_BUILD) --build-tests
	KVINDEX_FUZZ_SECONDS=$${FUZZ_SECONDS:-60} INDEXER_FUZZ_SECONDS=$${FUZZ_SECONDS:-60} \
	    swift test -c release --skip-build --filter 'HostileEventTests|HostileRequestTests'

## make soak    the index against simulated engines, 1,000 seeds; 100,000 requests through Envoy
soak: build $(VENV)/.ok
	$(SWIFT_BUILD) --build-tests
	KVINDEX_SEEDS=$${KVINDEX_SEEDS:-1000} swift test -c release --skip-build \
	    --filter SimulationTests
	SCALE_REQUESTS=$${SCALE_REQUESTS:-100000} $(VENV)/bin/pytest -q -s Tests/e2e/test_scale.py

## make clean   remove what was built
clean:
	rm -rf .build .build-* $(VENV) out
