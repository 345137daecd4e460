# Two commands do all the set-up: `make run` (the main job on the embedded dataset) and `make test`.
PYTHON ?= python3
BIN := .venv/bin

# What of them is stored already is not run again.
SUITES ?= smoke
SCALE ?=

.PHONY: run test check slow reports docs clean

run: .venv/installed
	$(BIN)/advbench run --attack pgn-b --target densenet169 --epsilon 0.3 --epochs 12

test: .venv/installed-dev
	$(BIN)/pytest

slow: .venv/installed-dev
	$(BIN)/pytest -m slow --timeout 1800

reports: .venv/installed
	set -e; for suite in $(SUITES); do \
	  folder=reports/$$(echo $$suite | sed 's,^butterfly-,butterfly/,')$(addprefix -,$(SCALE)); \
	  $(BIN)/advbench suite run benchmarks/$$suite.toml $(addprefix --scale ,$(SCALE)); \
	  $(BIN)/advbench report benchmarks/$$suite.toml $(addprefix --scale ,$(SCALE)) --regions 2 --folder $$folder; \
	done

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs
	$(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

clean:
	rm -rf .venv build dist site *.egg-info
