# Two commands do everything: `make run` (songs to registered models) and `make test`.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
UV := $(shell command -v uv 2>/dev/null || echo .venv/uv/bin/uv)
STAMP := .venv/installed

.PHONY: help run test test-all check format lock ui clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# The environment: exactly what requirements.lock says, hashes checked.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v=sys.version_info[:2]; (3,11) <= v < (3,14) or sys.exit(f"songcast needs Python 3.11 to 3.13, found {sys.version.split()[0]}: run make PYTHON=/path/to/python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@test -x "$(UV)" || { $(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install -q uv; }
	@echo "installing the locked environment into .venv (once) ..."
	@$(UV) pip sync -q --python $(BIN)/python --require-hashes requirements.lock
	@$(UV) pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
