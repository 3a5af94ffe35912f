# Two commands do everything: `make run` (songs to registered models) and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
# Another installation's modules have no place in the locked environment.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX

PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo .venv/uv/bin/uv)
INSTALLED := .venv/installed
PULLED := .venv/songs-pulled
# Which registry registered.json speaks of; the embedded one counts as long as it exists.
REGISTRY := mlruns/.registered-in
STORE := $(or $(MLFLOW_TRACKING_URI),embedded)
# `python` of the stages is ours, and their lines come as they are written.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONUNBUFFERED=1
QUICK := -q -n logical --maxprocesses 4 --dist worksteal -m "not slow and not browser and not faults"

.PHONY: help run test coverage test-slow test-faults test-browser check format lock gpu ui clean writable FORCE

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

run: writable $(INSTALLED) $(PULLED)  ## songs to evaluated, registered models; does only what is not done yet
	@store="$$(printf %s '$(STORE)' | cksum)"; \
	if [ "$$(cat $(REGISTRY) 2>/dev/null)" != "$$store" ] \
		|| { [ '$(STORE)' = embedded ] && [ ! -f mlruns/mlflow.db ]; }; \
	then rm -f registered.json; fi; \
	$(IN_VENV) $(BIN)/python -m dvc repro | $(WITHOUT_CHATTER) && mkdir -p mlruns \
		&& echo "$$store" > $(REGISTRY)
	@echo
	@$(BIN)/songcast summary

writable:
	@test -w . || { echo "$(CURDIR) may not be written: copy it to a place of your own" >&2; exit 2; }

test: $(INSTALLED)  ## the fast tests
	@$(IN_VENV) $(BIN)/python -m pytest $(QUICK)

coverage: $(INSTALLED)  ## the fast tests, and the lines and branches of src that they do not reach
	@rm -f .coverage .coverage.*
	@$(IN_VENV) $(BIN)/python -m coverage run -m pytest $(QUICK)
	@$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report

test-slow: $(INSTALLED)  ## the slow tests: long songs, Ray, PostgreSQL (installed when there is none)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ! command -v apt-get >/dev/null || { \
		SUDO="$$(command -v sudo || true)"; $$SUDO apt-get update -q && \
		$$SUDO apt-get install -q -y --no-install-recommends postgresql; }
	@$(IN_VENV) $(BIN)/python -m pytest -q -m "slow and not browser and not faults"

test-faults: $(INSTALLED)  ## kills, full disks, dead servers: nothing is lost
	@$(IN_VENV) $(BIN)/python -m pytest -q -m faults

test-browser: $(INSTALLED)  ## the tests in a real browser; installs Debian's chromium when there is none
	@command -v chromium >/dev/null || { SUDO="$$(command -v sudo || true)"; \
		$$SUDO apt-get update -q && $$SUDO apt-get install -q -y --no-install-recommends chromium; }
	@$(IN_VENV) SONGCAST_BROWSER_REQUIRED=1 $(BIN)/python -m pytest -q -m browser

check: $(INSTALLED)  ## lint, format, types; changes nothing
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(INSTALLED)  ## format the code and correct what can be corrected
	@$(BIN)/ruff check -q --fix . ; $(BIN)/ruff format .

lock: $(INSTALLED)  ## write requirements.lock anew from pyproject.toml
	@test -x "$(UV)" || { $(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install -q uv; }
	@$(UV) pip compile -q --generate-hashes --universal --python-version 3.11 --extra dev --extra cluster \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		-o requirements.lock pyproject.toml

gpu: $(INSTALLED)  ## add the CUDA libraries for TensorFlow, within the locked versions
	@test -x "$(UV)" || { $(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install -q uv; }
	@sed -E '/^ +--hash/d; s/ \\$$//' requirements.lock > .venv/constraints.txt
	@$(UV) pip install --python $(BIN)/python -c .venv/constraints.txt "tensorflow[and-cuda]"
	@$(BIN)/python -c 'import os; os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"; import tensorflow as tf; print("GPUs that TensorFlow sees:", [d.name for d in tf.config.list_physical_devices("GPU")] or "none")'

ui: $(INSTALLED)  ## open the MLflow UI on the embedded store
	@$(BIN)/songcast ui

clean:  ## remove caches that can be made again: environment, features, checkpoints, caches of tools
	rm -rf .venv features checkpoints .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage*
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The environment: exactly what requirements.lock says, hashes checked. It knows where it lies:
# in a folder that was moved or copied it is made anew.
ifneq ($(shell cat $(INSTALLED) 2>/dev/null),$(CURDIR))
$(INSTALLED): FORCE
endif
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit(f"songcast needs Python 3.11 to 3.13, found {sys.version.split()[0]}: run make PYTHON=/path/to/python3.12")'
	@if [ -f .venv/home ] && [ "$$(cat .venv/home)" != "$(CURDIR)" ]; then rm -rf .venv; fi
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "$(CURDIR)" > .venv/home
	@test -x "$(UV)" || { $(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install -q uv; }
	@echo "installing the locked environment into .venv (once, some minutes) ..."
	@$(UV) pip sync -q --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "$(CURDIR)" > $@

# The songs, from the DVC remote, when they are missing or data.dvc names others.
ifeq ($(wildcard data),)
$(PULLED): FORCE
endif
$(PULLED): data.dvc | $(INSTALLED)
	@echo "fetching the songs from the DVC remote ..."
	@$(IN_VENV) $(BIN)/python -m dvc pull data.dvc >.venv/pull.log || { cat .venv/pull.log; \
		echo "The songs in data/ are left as they are. Songs of yours in it: .venv/bin/dvc add data"; exit 1; }
	@touch $@

# DVC's advice on git and on pushing does not belong here. The rest is shown as it comes.
define WITHOUT_CHATTER
{ trap '' INT; while IFS= read -r line || [ -n "$$line" ]; do case "$$line" in \
	''|'To track the changes with git, run:'|$$'\tgit add '*|'To enable auto staging, run:'|\
	$$'\tdvc config core.autostage true'|'Updating lock file '*|'Generating lock file '*|\
	'Use `dvc push` to send your updates to remote storage.') ;; \
	'Data and pipelines are up to date.') echo 'Nothing to do: songs, models and metrics are up to date.' ;; \
	*) printf '%s\n' "$$line" ;; esac; done; }
endef
