# `make run` turns the songs into registered models; `make demo` serves the models of the commit.
SHELL := /bin/bash
PYTHON ?= python3
UV := $(or $(shell command -v uv),.venv/bin/uv)
NEED_UV := command -v $(UV) >/dev/null || python -m pip install -q uv
SYNC := $(UV) pip sync -q --python .venv/bin/python --require-hashes
PACKAGE := $(UV) pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
LOCK := $(UV) pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header
QUICK := -q -n logical --maxprocesses 4 --dist loadfile -m "not slow and not faults and not browser"
LONG := -q -n logical --maxprocesses 2 --dist loadfile
GROUPS := test docs cluster
WITH := $(or $(wildcard .venv/with-*),$(if $(wildcard .venv/installed-dev),$(GROUPS:%=.venv/with-%)))
# The stages run the `python` of the environment; their lines appear at once.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export PYTHONUNBUFFERED := 1
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV CONDA_PREFIX
.PHONY: help run demo test test-slow test-faults test-browser coverage check format docs cluster lock gpu ui clean cloned writable

help:  ## show this list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/\1\t\2/p' Makefile | expand -t 16
run: writable .venv/installed data  ## run what is not up to date: songs to evaluated, registered models
	@songcast estimate
	@dvc repro
	@songcast summary
demo: writable .venv/installed  ## fetch the trained models of this commit, register and serve them
	@dvc pull
	@dvc repro --single-item register
	@songcast serve --open
test: .venv/with-test  ## run the quick tests
	@python -m pytest $(QUICK)
test-slow: .venv/installed-dev  ## run the slow tests: long songs, Ray, PostgreSQL if it is installed
	@python -m pytest $(LONG) -m slow
test-faults: .venv/installed-dev  ## run the tests with kills, full disks and dead servers
	@python -m pytest $(LONG) -m faults
test-browser: .venv/installed-dev  ## run the tests in chromium, which must be on PATH
	@SONGCAST_BROWSER_REQUIRED=1 python -m pytest -q -m browser
coverage: .venv/with-test  ## list the lines and branches that the quick tests do not reach
	@coverage erase && coverage run -m pytest $(QUICK) && coverage combine -q && coverage report
check: .venv/with-test  ## check style, format and types
	@ruff check . && ruff format --check . && mypy
format: .venv/with-test  ## format the code and fix what ruff can fix
	@ruff check -q --fix . ; ruff format .
docs: .venv/with-docs  ## build the documentation in docs/_build
	@python -m sphinx -q -W --keep-going docs docs/_build
cluster: .venv/with-cluster  ## add Ray
lock: .venv/installed  ## update the lock files after a change of pyproject.toml
	@$(NEED_UV)
	@$(LOCK) pyproject.toml -o requirements.lock
	@$(LOCK) pyproject.toml $(GROUPS:%=--extra %) -c requirements.lock -o .venv/all.lock
	@for group in $(GROUPS); do $(LOCK) pyproject.toml --extra $$group -c .venv/all.lock \
	  $$(sed -nE 's/^([a-zA-Z0-9._-]+)==.*/--no-emit-package \1/p' requirements.lock) -o requirements-$$group.lock; done
gpu: .venv/installed  ## add the CUDA libraries for TensorFlow
	@$(NEED_UV); $(UV) pip install -q --python .venv/bin/python -c requirements.lock "tensorflow[and-cuda]" nvidia-ml-py
ui: .venv/installed  ## open the MLflow UI
	@songcast ui
clean:  ## remove the environment, the features, the checkpoints and the caches of tools
	rm -rf .venv features checkpoints .*_cache .hypothesis .coverage* docs/_build
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
cloned:
	@test -e .git || { echo "$(CURDIR) has no git history (a ZIP download?), which DVC needs: clone the repository instead, or run: git init && git add -A && git commit -m songcast" >&2; exit 2; }
writable: cloned
	@test -w . || { echo "$(CURDIR) is read-only: copy the repository to a folder that you can write" >&2; exit 2; }

# The environment holds exactly the packages of the locks of its groups: .venv/with-GROUP marks one. It works only in the folder in which it was made.
ifneq ($(shell cat .venv/folder 2>/dev/null),$(CURDIR))
.PHONY: .venv/folder
endif
.venv/folder: | writable
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("songcast needs Python 3.11 to 3.13, not " + sys.version.split()[0] + ": run make PYTHON=python3.12")'
	@$(PYTHON) -m venv --clear .venv
	@echo "$(CURDIR)" > $@
.venv/installed: .venv/folder requirements.lock pyproject.toml
	@echo "installing the locked packages in .venv (once, some minutes)"
	@$(NEED_UV); $(SYNC) requirements.lock $(WITH:.venv/with-%=requirements-%.lock) && $(PACKAGE) && touch $@
.venv/with-%: .venv/installed requirements-%.lock
	@echo "installing the locked packages for $* in .venv (once, some minutes)"
	@$(NEED_UV); $(UV) pip install -q --python .venv/bin/python --require-hashes --no-deps -r requirements-$*.lock && touch $@
.venv/installed-dev: $(GROUPS:%=.venv/with-%)
	@touch $@
# An incomplete folder is removed: the next run would use it as it is.
data: | .venv/installed
	@dvc pull data.dvc || { rm -rf $@; exit 1; }
