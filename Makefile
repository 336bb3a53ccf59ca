# Everything runs in .venv inside this checkout; the first target that needs it sets it up.
#   make demo        see the tool find known changes
#   make test        run the tests
#   make PYTHON=/path/to/python3.12 test      another Python for a fresh .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
INSTALLED := $(VENV)/.installed
# Each process of the tests takes about a gigabyte. Tests of one file share what they open.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile
BENCHMARKS := batch engine help_latency precision report_page vectorize

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check docs slow bench accuracy page qgis-plugin clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(INSTALLED)  ## set up .venv (every other target does so by itself)

$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "geosiam needs Python 3.11 or newer, '$(PYTHON)' is not; name one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	@echo "Setting up $(VENV): the first time this takes a few minutes" >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(INSTALLED): $(RUNTIME)
	@echo "Adding the developers' tools to $(VENV)" >&2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(RUNTIME)  ## make a pair of scenes with known changes and find them
	$(BIN)/geosiam demo demo-output

test: $(INSTALLED)  ## run the tests, without those that take minutes
	$(PYTEST)

check: $(INSTALLED)  ## what a change must pass: lint, format, types, import layers, documents, tests with coverage
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(PYTEST) --cov

docs: $(INSTALLED)  ## build the documentation as a site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

slow: $(INSTALLED)  ## run the tests that take minutes
	$(PYTEST) -m slow

bench: $(INSTALLED)  ## measure speed and memory on generated scenes, for hours
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python "benchmarks/$$name.py"; done

accuracy: $(INSTALLED)  ## judge models and classical methods on the real scenes in DATA=DIR, for an hour
	$(BIN)/python benchmarks/accuracy.py --data "$(DATA)" --model survey --model survey-fast --baseline all --out benchmarks
	$(BIN)/python benchmarks/registration.py --data "$(DATA)" --out benchmarks
	$(BIN)/python benchmarks/finetuning.py --data "$(DATA)"
	$(BIN)/python benchmarks/tarp.py --data "$(DATA)"

qgis-plugin:  ## build dist/geosiam_processing.zip, which QGIS installs from ZIP
	$(PYTHON) examples/qgis_plugin/build.py dist

page:  ## build the web part of `geosiam report` again, with node and npm
	npm install --prefix web --no-save --no-audit --no-fund
	npm run --prefix web check
	npm run --prefix web build

clean:  ## remove .venv and everything that can be made again
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis demo-output
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
