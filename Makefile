# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install docs docs-reference demo test test-long pictures test-properties chaos lint format simulate

help:
	@echo "make demo   set up if necessary, then run the whole system on the embedded paper gateway"
	@echo "make test   set up if necessary, then run the tests"
	@echo "make test-long  run the tests that take minutes each"
	@echo "make pictures  renew docs/images from a browser on the demo"
	@echo "make test-properties  test properties on ten times the examples"
	@echo "make simulate  run trading days on a virtual clock, from seeds (SEEDS=50 FIRST=1 JOBS=2)"
	@echo "make chaos  set up if necessary, then inject faults for MINUTES=10 from SEED=1, or KILLS=20 with Dagster"
	@echo "make lint   check layers, types and style"
	@echo "make format apply the style"
	@echo "make docs   build the documents into site/"
	@echo "make docs-reference  write docs/reference again: settings, tables, commands"

# The stamp is newer than what it depends on once everything is installed.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14) and "v6_pipeline needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(VENV)/.installed

docs-reference: install
	$(BIN)/python scripts/write_reference.py

# Build the documents as a site in site/ and check every link.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

demo: install
	$(BIN)/v6 demo

# Many tests wait for processes of their own, so three workers keep two cores busy. The files run in their own order, those
# that take minutes first (see conftest.py); xdist's reordering would put the files with few tests last.
WORKERS ?= 3

# Keep bytecode, whatever the environment says: otherwise hundreds of test processes would compile everything again.
test: export PYTHONDONTWRITEBYTECODE =
# The workers use all cores; additional threads of polars would only spin while they wait for work.
test: export POLARS_MAX_THREADS = 1
test: install
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Run whole modules: each test continues from the state that the one before left.
test-long: install
	$(BIN)/python -m pytest -m "" $$(grep -rl --include=*.py "pytest.mark.long" v6_pipeline_tests)

# Take the pictures of the documents from a browser; needs Chromium.
pictures: install
	RENEW_PICTURES=1 $(BIN)/python -m pytest -m "" v6_pipeline_tests/ui

# Run properties on ten times the default number of examples.
test-properties: install
	PROPERTY_SCALE=4 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $$(grep -rl --include=*.py "examples(" v6_pipeline_tests/unit)

# Simulate trading days with faults on a virtual clock: SEEDS days from seed FIRST, JOBS at once.
SEEDS ?= 50
FIRST ?= 1
JOBS ?= 2
simulate: install
	$(BIN)/python -m v6_pipeline_tests.simulation --seeds $(SEEDS) --first $(FIRST) --jobs $(JOBS)

# Kill, stop and cut off real processes: rounds drawn from SEED for MINUTES, or KILLS kills.
SEED ?= 1
MINUTES ?= 10
KILLS ?= 0
STATE ?= sqlite
chaos: install
	$(BIN)/python -m v6_pipeline_tests.chaos --seed $(SEED) --minutes $(MINUTES) --kills $(KILLS) --state $(STATE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
