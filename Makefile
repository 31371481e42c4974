# Bare `make` lists the targets. All of them set up what they need: Python 3.11, git and make are enough.
PYTHON ?= $(firstword $(shell command -v python3.11 python3 python 2>/dev/null))
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.ready
READY := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A virtual environment of the caller must not leak into ours; bytecode makes each start two to three times faster.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

# uv trusts roots of its own by default; behind a firewall that opens TLS, only the system's store holds the right one.
UV_SYSTEM_CERTS ?= $(if $(wildcard /etc/ssl/certs/* /etc/pki/tls/certs/*),true,false)
export UV_SYSTEM_CERTS

# Threads of several trainings on the same processors must not spin while they wait for one another: that took 90 % of
# the speed of each. Alone, a training is a tenth slower so.
test test-stack: export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help setup retrain ui test test-stack bench bench-gate bench-ablation bench-reliance bench-monitor bench-gpu compare-with lint audit deps lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## install everything from the lock file into .venv

$(PACKAGES): requirements/all.lock requirements/uv.lock
	@test -n "$(PYTHON)" || { echo "error: no Python is on PATH; install Python 3.11, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
	  echo "error: $(PYTHON) is not Python 3.11; type: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "installing from requirements/all.lock into $(VENV) (once; about 3.6 GB to download, 7 GB on disk)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements/uv.lock
	@[ -t 2 ] && quiet= || quiet=--quiet; \
	  ca=$${SSL_CERT_FILE:-$${PIP_CERT:-$$REQUESTS_CA_BUNDLE}}; [ ! -f "$$ca" ] || export SSL_CERT_FILE="$$ca"; \
	  $(BIN)/uv pip install $$quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements/all.lock || { \
	  echo "error: the packages could not be installed; why, uv says above" >&2; \
	  echo "  next:  if that is a certificate (UnknownIssuer): make setup SSL_CERT_FILE=/path/to/the/roots.pem, with your" >&2; \
	  echo "         firewall's root in it; if a time-out: make setup UV_HTTP_TIMEOUT=300; else mend it, then make setup" >&2; \
	  exit 1; }
	@touch $@

# What pyproject.toml says of the package itself; its packages stand in the locks.
$(READY): $(PACKAGES) pyproject.toml
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
	@echo "cxr-ops and dvc are in $(BIN); in a new shell: source $(BIN)/activate"
	@touch $@

retrain: $(READY) ## retrain once: data if there are none, Airflow, verdict, summary
	@$(BIN)/cxr-ops retrain $(ARGS)

ui: $(READY) ## open Airflow and MLflow on the same stores
	@$(BIN)/cxr-ops ui

test: lint ## all checks and tests that need no container engine
	@$(BIN)/pytest -m "not stack" --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder $(ARGS)

test-stack: $(READY) ## the DAG with its stages in containers (needs a Docker engine)
	@$(BIN)/pytest -m stack tests/stack $(ARGS)

lint: $(READY) ## ruff, mypy, import-linter, generated dependencies
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/stage_deps.py --check

audit: $(READY) ## look up known vulnerabilities of the packages that are locked (asks PyPI)
	@$(BIN)/python tools/audit.py $(ARGS)

bench: $(READY) ## measure against named peers and write docs/benchmarks.md
	@$(BIN)/python -m bench $(ARGS)

bench-gate: $(READY) ## simulate the gate and write docs/gate-simulation.md (goes on where it stopped)
	@$(BIN)/python -m bench.gate $(ARGS)

bench-reliance: $(READY) ## train on radiographs with planted marks and write docs/reliance.md (goes on where it stopped)
	@$(BIN)/python -m bench.reliance $(ARGS)

bench-monitor: $(READY) ## simulate years of monitoring and write their part of docs/monitoring.md (goes on where it stopped)
	@$(BIN)/python -m bench.monitoring $(ARGS)

bench-ablation: $(READY) ## measure what each choice of the training brings and write docs/ablation.md (goes on where it stopped)
	@$(BIN)/python -m bench.ablation $(ARGS)

bench-gpu: $(READY) ## measure training on a GPU and write its part of docs/benchmarks.md
	@$(BIN)/python -m bench.gpu

compare-with: $(READY) ## run REV and this commit on the same data, and say what they write differently (REV=6965aa7)
	@$(BIN)/python tools/compare_with.py $(REV) $(ARGS)

deps: $(READY) ## write each stage's code into dvc.yaml, and the defaults of settings into defaults/
	@$(BIN)/python tools/stage_deps.py

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11
lock: $(READY) ## resolve the lock files again (UPGRADE=1 takes newer versions)
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --extra stages --extra serve --extra fast --extra airflow --extra dev pyproject.toml -o requirements/all.lock
	@$(COMPILE) -c requirements/all.lock --extra stages --extra fast pyproject.toml -o requirements/image.lock
	@$(COMPILE) -c requirements/all.lock --extra serve --extra fast pyproject.toml -o requirements/serve.lock
	@echo uv | $(COMPILE) $(if $(UPGRADE),--upgrade) - -o requirements/uv.lock

clean: ## remove the environment and caches; runs, models and the ledger in .cxr stay
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
